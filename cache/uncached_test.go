package cache

import (
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

func TestUncachedMarks(t *testing.T) {
	p, rules := newPresence(), &Rules{TTL: time.Minute}
	p.allow(bob, alice, 1, rules, 0)
	p.MarkUncached(p.Depart(alice, testkit.At(time.Second)))
	for _, viewer := range []string{bob, carol} {
		if found := wantOutcome(t, p, viewer, alice, rules, 2*time.Second, Uncached); found.Answer != nil || found.Denial != nil {
			t.Errorf("%s: %+v", viewer, found)
		}
	}
	wantOutcome(t, p, bob, alice, rules, 61*time.Second-1, Uncached)
	if found := wantOutcome(t, p, carol, alice, rules, 61*time.Second, Miss); found.Answer != nil {
		t.Errorf("after the mark: %+v", found)
	}
	// By a write,
	p.MarkUncached(p.Depart(alice, testkit.At(70*time.Second)))
	p.write(alice, 71*time.Second)
	wantOutcome(t, p, bob, alice, rules, 71*time.Second, Miss)
	// or by the next answer that can be kept.
	p.MarkUncached(p.Depart(alice, testkit.At(72*time.Second)))
	p.allow(bob, alice, 2, rules, 73*time.Second)
	wantOutcome(t, p, bob, alice, rules, 74*time.Second, Hit)
	p.MarkUncached(p.Depart(alice, testkit.At(75*time.Second)))
	if p.allow(bob, alice, 3, rules, 74*time.Second) {
		t.Error("an older answer replaced a mark")
	}
	wantOutcome(t, p, bob, alice, rules, 76*time.Second, Uncached)

	// A mark is fenced as a state is.
	overtaken := p.Depart(alice, testkit.At(77*time.Second))
	write := p.BeginWrite(alice)
	p.MarkUncached(overtaken)
	p.MarkUncached(p.Depart(alice, testkit.At(78*time.Second)))
	write.End(testkit.At(79*time.Second), 10*time.Second)
	p.MarkUncached(p.Depart(alice, testkit.At(80*time.Second)))
	wantOutcome(t, p, bob, alice, rules, 81*time.Second, Miss)
}
