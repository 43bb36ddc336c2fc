package cache

import (
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

func TestStaleAnswers(t *testing.T) {
	rules := &Rules{TTL: 30 * time.Second, ForbiddenTTL: 5 * time.Second, StaleIfError: 2 * time.Minute}
	stale := func(t *testing.T, p *Presence, viewer string, d time.Duration, want int) {
		t.Helper()
		found := wantOutcome(t, p, viewer, alice, rules, d, Miss)
		if got := found.Answer; (got == nil) != (want == 0) || got != nil && versionOf(got) != want {
			t.Errorf("%s at %v: stale answer %+v, want version %d", viewer, d, found, want)
		}
	}
	t.Run("by age", func(t *testing.T) {
		p := newPresence()
		p.allow(bob, alice, 1, rules, 0)
		wantOutcome(t, p, bob, alice, rules, 30*time.Second-1, Hit)
		stale(t, p, bob, 30*time.Second, 1)
		stale(t, p, bob, 2*time.Minute-1, 1)
		stale(t, p, bob, 2*time.Minute, 0)
		stale(t, p, carol, 30*time.Second, 0) // never allowed
		if found := p.Lookup(bob, alice, &Rules{TTL: rules.TTL}, testkit.At(30*time.Second)); found.Answer != nil {
			t.Error("served stale without a rule")
		}
	})
	t.Run("only what was true while the viewer was permitted", func(t *testing.T) {
		p := newPresence()
		p.allow(bob, alice, 1, rules, 0)
		p.allow(carol, alice, 2, rules, 30*time.Second) // when bob's permission has just ended
		stale(t, p, bob, 40*time.Second, 0)
		stale(t, p, bob, 61*time.Second, 0)
		stale(t, p, carol, 61*time.Second, 2)
		p = newPresence()
		p.allow(bob, alice, 1, rules, 0)
		p.allow(carol, alice, 2, rules, 30*time.Second-1)
		stale(t, p, bob, 40*time.Second, 2)
	})
	t.Run("not past the flip", func(t *testing.T) {
		p := newPresence()
		p.Allow(bob, p.Depart(alice, testkit.Epoch), parse(t, `{"presence":"online","last_active_ago":20000,"currently_active":true}`), rules, testkit.Epoch)
		if found := wantOutcome(t, p, bob, alice, rules, 40*time.Second-1, Miss); found.Answer == nil {
			t.Error("not served stale before the flip")
		}
		if found := wantOutcome(t, p, bob, alice, rules, 40*time.Second, Miss); found.Answer != nil {
			t.Error("served stale past the flip")
		}
	})
	t.Run("not after a write or a denial", func(t *testing.T) {
		p := newPresence()
		p.allow(bob, alice, 1, rules, 0)
		p.allow(carol, alice, 1, rules, 0)
		p.deny(bob, alice, rules, time.Second)
		stale(t, p, bob, 40*time.Second, 0)
		stale(t, p, carol, 40*time.Second, 1)
		write := p.BeginWrite(alice)
		stale(t, p, carol, 40*time.Second, 0)
		write.End(testkit.At(41*time.Second), 0)
		stale(t, p, carol, 42*time.Second, 0)
	})
}

// Found.Fresh is not above 0 if the answer is stale, also if it's the permission
// that has ended and not the state: it goes into Cache-Status as the ttl.
func TestAStaleAnswerIsNotFresh(t *testing.T) {
	p, rules := newPresence(), &Rules{TTL: 30 * time.Second, StaleIfError: time.Hour}
	p.allow(bob, alice, 1, rules, 0)
	p.allow(carol, alice, 2, rules, 20*time.Second)
	for _, d := range []time.Duration{40 * time.Second, time.Minute} { // the state is fresh until 50s
		found := wantOutcome(t, p, bob, alice, rules, d, Miss)
		if found.Answer == nil || found.Fresh > 0 {
			t.Errorf("at %v: %+v, want an answer that is not fresh", d, found)
		}
	}
}
