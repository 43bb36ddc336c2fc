package cache

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

func TestWhatShowsThatAWriteWasApplied(t *testing.T) {
	const online = `{"presence":"online","status_msg":"x"}`
	for _, tt := range []struct {
		name           string
		written, shown string
		want           bool
	}{
		{"the same", online, online, true},
		{"with what ages", online, `{"presence":"online","last_active_ago":900,"status_msg":"x","currently_active":true}`, true},
		{"as late as the answer took", online, `{"presence":"online","last_active_ago":3000,"status_msg":"x"}`, true},
		{"rounded up", online, `{"presence":"online","last_active_ago":3001,"status_msg":"x"}`, true},
		{"an activity before the write", online, `{"presence":"online","last_active_ago":3002,"status_msg":"x"}`, false},
		{"ages before the write", online, `{"presence":"online","last_active_ago":4611686018427387903,"status_msg":"x"}`, false},
		{"busy is active too", `{"presence":"busy"}`, `{"presence":"busy","last_active_ago":3002}`, false},
		{"Synapse on who isn't online", `{"presence":"offline"}`, `{"presence":"offline","last_active_ago":86400000}`, true},
		{"Dendrite on who isn't online", `{"presence":"offline"}`, `{"presence":"offline","currently_active":false,"last_active_ago":86400000,"status_msg":""}`, false},
		{"Dendrite on a write", `{"presence":"offline"}`, `{"presence":"offline","currently_active":true,"last_active_ago":5,"status_msg":""}`, true},

		{"another state", online, `{"presence":"unavailable","status_msg":"x"}`, false},
		{"another status", online, `{"presence":"online","status_msg":"y"}`, false},
		{"a status that is gone", online, `{"presence":"online"}`, false},
		{"no status, and none", `{"presence":"online"}`, `{"presence":"online"}`, true},
		{"no status, as null", `{"presence":"online","status_msg":null}`, `{"presence":"online","status_msg":""}`, true},
		{"no status, and one that was kept", `{"presence":"online"}`, online, false},
		{"spelled differently", `{"status_msg":"x","other":[1], "presence":"online"}`, online, true},
		{"in words of the other", `{"presence":"onlinex"}`, online, false},

		{"keys in another case", `{"Presence":"online","status_msg":"x"}`, online, false},
		{"keys in two cases", `{"presence":"online","status_msg":"x","STATUS_MSG":"y"}`, online, false},
		{"a key twice", `{"presence":"online","status_msg":"y","status_msg":"x"}`, online, false},
		{"a status that is none", `{"presence":"online","status_msg":1}`, `{"presence":"online","status_msg":"1"}`, false},
		{"keys that Dendrite takes for the same", `{"presence":"online","status_msg":"x","ſtatus_msg":"y"}`, online, false},
		{"text that is no Unicode", `{"presence":"online","status_msg":"\ud801"}`, `{"presence":"online","status_msg":"\ud800"}`, false},
		{"a null", `{"presence":null}`, `{"presence":""}`, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPresence()
			write := p.BeginWrite(alice)
			write.Acknowledge([]byte(tt.written), testkit.At(time.Second), testkit.At(2*time.Second), time.Minute)
			ticket := p.Depart(alice, testkit.At(3*time.Second))
			if ticket.Settled() {
				t.Error("settled at once")
			}
			rules := &Rules{TTL: time.Hour}
			if got := p.Allow(bob, ticket, parse(t, tt.shown), rules, testkit.At(4*time.Second)); got != tt.want {
				t.Fatalf("stored: %v, want %v", got, tt.want)
			}
			if found := p.Lookup(bob, alice, rules, testkit.At(5*time.Second)); (found.Outcome == Hit) != tt.want {
				t.Errorf("then a lookup finds %+v", found)
			}
		})
	}
}

// What shows one target's write shows nothing of another's, nor does it before the write has
// ended, or while one waits.
func TestWhatShowsAWriteShowsNoOther(t *testing.T) {
	p, rules := newPresence(), &Rules{TTL: time.Hour}
	a, mate, _ := fenceMates(p)
	at := testkit.At(time.Second)
	stored := func(target string, ticket Ticket) bool {
		return p.Allow(bob, ticket, version(1), rules, at)
	}
	body := []byte(version(1).Body)

	write := p.BeginWrite(a)
	early := p.Depart(a, at)
	write.Acknowledge(body, testkit.Epoch, at, time.Minute)
	if stored(a, early) {
		t.Error("an answer was stored that departed before the write ended")
	}
	if stored(mate, p.Depart(mate, at)) {
		t.Error("the write of one target let an answer about another be stored")
	}
	if !stored(a, p.Depart(a, at)) {
		t.Error("an answer that shows the write was not stored")
	}

	waiting := p.BeginDeferred(a)
	if stored(a, p.Depart(a, at)) {
		t.Error("an answer was stored while a write waited")
	}
	p.BeginWrite(a).Acknowledge(body, testkit.At(time.Hour), testkit.At(time.Hour), time.Minute)
	at = testkit.At(time.Hour)
	if stored(a, p.Depart(a, at)) {
		t.Error("an answer was stored while an earlier write waited")
	}
	waiting.End(at, time.Minute)
	if stored(a, p.Depart(a, at)) {
		t.Error("a write that had waited and ended let an answer be stored")
	}
}

func BenchmarkAcknowledge(b *testing.B) {
	p := newPresence()
	body := fmt.Appendf(nil, `{"presence":"online","status_msg":%q}`, "in a meeting until noon")
	b.ReportAllocs()
	for b.Loop() {
		p.BeginWrite(alice).Acknowledge(body, testkit.Epoch, testkit.Epoch, time.Second)
	}
}
