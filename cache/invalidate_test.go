package cache

import (
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

func TestPurgeEndsWhatIsKnownOfAUser(t *testing.T) {
	rules := &Rules{TTL: time.Minute, ForbiddenTTL: time.Minute, StaleIfError: time.Hour}
	for name, purge := range map[string]func(p *Presence, now time.Time){
		"of the target": func(p *Presence, now time.Time) { p.Purge(alice, now) },
		"of the viewer": func(p *Presence, now time.Time) { p.Purge(bob, now) },
		"of all":        func(p *Presence, now time.Time) { p.PurgeAll(now) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPresence()
			other, viewer := strangers(p, alice, bob)
			p.allow(bob, alice, 1, rules, 0)
			p.allow(viewer, other, 1, rules, 0)
			p.deny(alice, bob, rules, 0)
			purge(p, testkit.At(time.Second))
			// Nothing stale either: it was dropped for a reason.
			if found := wantOutcome(t, p, bob, alice, rules, 2*time.Second, Miss); found.Permitted || found.Answer != nil {
				t.Errorf("after it: %+v", found)
			}
			wantOutcome(t, p, alice, bob, rules, 2*time.Second, Miss)
			if name == "of all" {
				wantOutcome(t, p, viewer, other, rules, 2*time.Second, Miss)
				if states, allowed, denied := p.Len(); states+allowed+denied != 0 {
					t.Errorf("%d states, %d permissions and %d denials are left", states, allowed, denied)
				}
			} else {
				wantOutcome(t, p, viewer, other, rules, 2*time.Second, Hit)
			}
			p.allow(bob, alice, 2, rules, 3*time.Second)
			wantOutcome(t, p, bob, alice, rules, 4*time.Second, Hit)
		})
	}
}

// What departed before is of the past that was to be dropped.
//
//	1 read:  departs
//	2 purge
//	1 read:  its answer arrives, and is not stored
func TestPurgeKeepsOutWhatIsOnItsWay(t *testing.T) {
	rules := &Rules{TTL: time.Minute}
	for name, purge := range map[string]func(p *Presence, now time.Time){
		"one": func(p *Presence, now time.Time) { p.Purge(alice, now) },
		"all": func(p *Presence, now time.Time) { p.PurgeAll(now) },
	} {
		p := newPresence()
		ticket := p.Depart(alice, testkit.At(0))
		purge(p, testkit.At(time.Second))
		if p.Allow(bob, ticket, version(1), rules, testkit.At(2*time.Second)) {
			t.Errorf("%s: the answer was stored", name)
		}
		if found := p.Lookup(bob, alice, rules, testkit.At(2*time.Second)); found.Permitted {
			t.Errorf("%s: the permission counts", name)
		}
	}
}

// A purge while a write waits or is in flight changes nothing about it.
func TestPurgeLeavesWritesAlone(t *testing.T) {
	p, rules := newPresence(), &Rules{TTL: time.Minute}
	waiting := p.BeginDeferred(alice)
	p.Purge(alice, testkit.At(0))
	p.PurgeAll(testkit.At(0))
	if p.allow(bob, alice, 1, rules, time.Second) {
		t.Error("an answer was stored while a write waits")
	}
	waiting.End(testkit.At(2*time.Second), 0)
	if !p.allow(bob, alice, 2, rules, 3*time.Second) {
		t.Error("nothing is stored any more")
	}
}

// What departs before a flush, or too soon after it, is not kept: nobody knows of which writes.
func TestFlushKeepsNothingForAWhile(t *testing.T) {
	p := NewPresence(100, 100, testkit.Epoch)
	rules := &Rules{TTL: time.Minute}
	kept := func(departs, arrives time.Duration) bool {
		ticket := p.Ticket("@a:hs", testkit.Epoch.Add(departs))
		if arrives >= 2*time.Second && departs < 2*time.Second {
			p.Flush(testkit.Epoch.Add(2*time.Second), time.Second)
		}
		answer, err := ParseAnswer([]byte(`{"presence":"online"}`), nil)
		if err != nil {
			t.Fatal(err)
		}
		return p.Allow("@b:hs", ticket, answer, rules, testkit.Epoch.Add(arrives))
	}
	for _, tt := range []struct {
		departs, arrives time.Duration
		want             bool
	}{
		{0, time.Second, true}, {time.Second, 3 * time.Second, false}, {2500 * time.Millisecond, 4 * time.Second, false}, {3 * time.Second, 4 * time.Second, true},
	} {
		if got := kept(tt.departs, tt.arrives); got != tt.want {
			t.Errorf("what departs after %v is kept: %v", tt.departs, got)
		}
	}
}
