package main

import (
	"os"
	"testing"
)

// The whole way: a real Dendrite, users, the sidecar by both profiles, and the figures. CPU
// time is not looked at: at this size it is the clock's.
func TestReadShapesOnARealHomeserver(t *testing.T) {
	s := sizes["test"]
	chosen, on, err := choose([]string{"dendrite", "room-open", "bad-tokens"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := measure(t.Context(), s, chosen, on, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	of := make(map[string]Result)
	for _, m := range r.results {
		of[m.Key+m.Phase+m.Way] = m
		if m.wrong() > 0 {
			t.Errorf("%s, %s: %v: %q", m.title(), m.Way, m.Wrong, m.Examples)
		}
		if wrong := m.foreseen(); len(wrong) > 0 || m.Predicted == nil && profileOf(way{name: m.Way}) != "" {
			t.Errorf("%s, %s: presence-plan said something else: %q", m.title(), m.Way, wrong)
		}
		if first := r.results[0]; m.Key == first.Key && m.Requests != first.Requests {
			t.Errorf("%s, %s: %d requests, and %d of others", m.title(), m.Way, m.Requests, first.Requests)
		}
	}
	if want := 3*2 + 3; len(of) != want || len(r.results) != want {
		t.Fatalf("%d results, want %d; %q", len(r.results), want, r.problems)
	}
	for _, phase := range []string{"cold", "again"} {
		if m := of["room-open"+phase+direct.name]; m.Upstream.All() != int64(m.Requests) {
			t.Errorf("directly, %d requests of %d reached the homeserver", m.Upstream.All(), m.Requests)
		}
	}
	for _, by := range []way{byDefault, busyWay} {
		if n := of["room-opencold"+by.name].Upstream.Reads; n != int64(s.members)+1 { // and the outsider's
			t.Errorf("%s, cold: %d reads reached the homeserver", by.name, n)
		}
		if n := of["room-openagain"+by.name].Upstream.Reads; n != 0 {
			t.Errorf("%s, again: %d reads reached the homeserver", by.name, n)
		}
		if m := of["bad-tokens"+by.name]; m.Limited > 0 || m.Errors["401"]+m.Errors["429"] != int(badRate*s.bad.Seconds()) {
			t.Errorf("%s: unknown tokens were answered with %v, others limited %d times", by.name, m.Errors, m.Limited)
		}
	}
}
