package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/counting"
)

func TestWhatIsSavedIsOfPresenceAlone(t *testing.T) {
	measured := func(by way, cpu, seconds float64) Result {
		return Result{Homeserver: "Synapse", Key: "k", Shape: "shape", Way: by.name, HomeserverCPU: cpu, Seconds: seconds, IdleCPU: 0.5}
	}
	plain := []Result{measured(direct, 2.5, 10), measured(byDefault, 1.5, 10), measured(busyWay, 0.6, 10)}
	relate(plain)
	if plain[0].Saved != nil || *plain[1].Saved != 0.5 || fmt.Sprintf("%.2f", *plain[2].Saved) != "0.95" {
		t.Errorf("saved %v, %v, %v", plain[0].Saved, *plain[1].Saved, *plain[2].Saved)
	}
	// The same requests without presence cost 0.2 a second, so that 2 of 3 are presence.
	syncs := []Result{measured(quiet, 1, 5), measured(direct, 4, 10), measured(byDefault, 3, 10), measured(busyWay, 1.9, 10)}
	relate(syncs)
	if syncs[1].PresenceCPU() != 2 || *syncs[2].Saved != 0.5 || *syncs[3].Saved != 1 || syncs[0].Saved != nil {
		t.Errorf("presence cost %v, saved %v, %v", syncs[1].PresenceCPU(), *syncs[2].Saved, *syncs[3].Saved)
	}
	// Of so little nothing can be told.
	little := []Result{measured(quiet, 9.5, 10), measured(direct, 10, 10), measured(busyWay, 9.5, 10)}
	relate(little)
	little[2].Target = 0.8
	if words, ok := little[2].met(); little[2].Saved != nil || !ok || len(words) != 1 || !strings.Contains(words[0], "too little") {
		t.Errorf("saved %v of half a second of ten: %q", little[2].Saved, words)
	}
	// Another homeserver's or phase's is none to compare with.
	other := []Result{measured(direct, 2.5, 10), {Homeserver: "Dendrite", Key: "k", Way: busyWay.name}, {Homeserver: "Synapse", Key: "k", Phase: "again", Way: busyWay.name}}
	relate(other)
	if other[1].Saved != nil || other[2].Saved != nil {
		t.Errorf("compared with another: %v, %v", other[1].Saved, other[2].Saved)
	}
}

func TestTheWaysOfAPhaseStandTogether(t *testing.T) {
	var results []Result
	for _, by := range []string{"direct", "busy"} {
		for _, phase := range []string{"cold", "again"} {
			results = append(results, Result{Homeserver: "Synapse", Key: "k", Phase: phase, Way: by})
		}
	}
	results = append(results, Result{Homeserver: "Dendrite", Key: "k", Phase: "cold", Way: "direct"})
	sortByPhase(results)
	var got []string
	for _, r := range results {
		got = append(got, r.Homeserver+" "+r.Phase+" "+r.Way)
	}
	want := []string{"Synapse cold direct", "Synapse cold busy", "Synapse again direct", "Synapse again busy", "Dendrite cold direct"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestMissedTargetsAreProblems(t *testing.T) {
	share := func(f float64) *float64 { return &f }
	n := 100
	for _, c := range []struct {
		name string
		r    Result
		want string
	}{
		{"enough saved", Result{Way: busyWay.name, Target: 0.9, Saved: share(0.9)}, ""},
		{"too little saved", Result{Way: busyWay.name, Target: 0.9, Saved: share(0.89)}, "90 %"},
		{"not the profile that has to", Result{Way: byDefault.name, Target: 0.9, Saved: share(0.1)}, ""},
		{"final in time", Result{Way: busyWay.name, FinalMillis: share(1000)}, ""},
		{"final late", Result{Way: busyWay.name, FinalMillis: share(1001)}, "final"},
		{"a 429 behind the NAT", Result{Way: byDefault.name, Key: nat.key, Limited: 1}, "429"},
		{"a 429 of another shape", Result{Way: byDefault.name, Key: bridge.key, Limited: 1}, ""},
		{"a 429 of the homeserver's", Result{Way: direct.name, Key: nat.key, Limited: 1}, ""},
		{"too many whoami", Result{Way: busyWay.name, WhoamiBound: &n, Upstream: counting.Counts{Whoami: 101}}, "whoami"},
		{"whoami within the bound", Result{Way: busyWay.name, WhoamiBound: &n, Upstream: counting.Counts{Whoami: 100}}, ""},
		{"a wrong answer of another's cache", Result{Way: peers[0].name, Wrong: map[verdict]int{stale: 1}}, ""},
		{"a wrong answer", Result{Way: direct.name, Wrong: map[verdict]int{stale: 1}, Examples: []string{"stale: x"}}, "wrong"},
	} {
		got := strings.Join(problems([]Result{c.r}), "\n")
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: problems %q, want %q", c.name, got, c.want)
		}
	}
}

// A table or marker that nobody fills would go on showing an old run.
func TestTheDocumentationIsFilledFromARun(t *testing.T) {
	dir := t.TempDir()
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", page))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, page), text, 0o600); err != nil {
		t.Fatal(err)
	}
	r := &measured{problems: []string{"a target", "  for example this"}}
	for _, k := range homeservers {
		for _, by := range []way{direct, byDefault, busyWay} {
			r.results = append(r.results, Result{
				Homeserver: k.name, Shape: "a shape", What: "what it is", Way: by.name, Requests: 1234, HomeserverCPU: 1.25,
				Errors: map[string]int{"429": 5, "401": 7},
			})
		}
		if err := r.chart(k.name, filepath.Join(dir, chartFile(k.name))); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "]("+chartFile(k.name)+")") {
			t.Errorf("the page doesn't show %s", chartFile(k.name))
		}
	}
	if err := r.run().Document(dir, page); err != nil {
		t.Fatal(err)
	}
	if text, err = os.ReadFile(filepath.Join(dir, page)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| a shape | what it is |", "| a shape | busy | 1234 |", "401 × 7, 429 × 5", "write_limit 2/1s burst 5", "- a target"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in the page", want)
		}
	}
}

func TestShapesAndHomeserversAreChosenByName(t *testing.T) {
	keys := func(chosen []shape, on []kindOfHomeserver) (names []string) {
		for _, sh := range chosen {
			names = append(names, sh.key)
		}
		for _, k := range on {
			names = append(names, k.name)
		}
		return names
	}
	for _, c := range []struct {
		only []string
		want []string
	}{
		{[]string{"nat", "dendrite"}, []string{"nat", "Dendrite"}},
		{[]string{"bridge"}, []string{"bridge", "Synapse", "Dendrite"}},
	} {
		chosen, on, err := choose(c.only)
		if got := keys(chosen, on); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, %v", c.only, got, err)
		}
	}
	if _, _, err := choose([]string{"room"}); err == nil {
		t.Error("an unknown name was taken")
	}
}
