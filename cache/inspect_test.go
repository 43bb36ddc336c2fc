package cache

import (
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// inspect returns the numbers of permissions alone.
func inspect(p *Presence, userID string, rules *Rules, at time.Duration, viewers ...string) (numbers [3]int) {
	is := p.Inspect(userID, viewers, rules, testkit.At(at))
	return [3]int{is.Sees, is.SeenBy, is.Forbidden}
}

func TestInspectCountsWhoMaySeeWhom(t *testing.T) {
	p, rules := newPresence(), &Rules{TTL: 30 * time.Second, ForbiddenTTL: 5 * time.Second}
	p.allow(bob, alice, 1, rules, 0)
	p.allow(carol, alice, 1, rules, 0)
	p.allow(alice, alice, 1, rules, 0) // no news: it isn't counted
	p.allow(carol, bob, 1, rules, 0)
	p.deny(alice, bob, rules, 0)
	want := func(userID string, at time.Duration, sees, seenBy, forbidden int) {
		t.Helper()
		if got := inspect(p, userID, rules, at, alice, bob, carol); got != [3]int{sees, seenBy, forbidden} {
			t.Errorf("%s at %v: sees, is seen by, is forbidden: %v, want %d, %d, %d", userID, at, got, sees, seenBy, forbidden)
		}
	}
	want(alice, time.Second, 0, 2, 1)
	want(bob, time.Second, 1, 1, 0)
	want(carol, time.Second, 2, 0, 0)
	want(alice, 6*time.Second, 0, 2, 0)
	p.MembershipChanged(carol, testkit.At(7*time.Second), 0)
	want(carol, 8*time.Second, 0, 0, 0)
	want(alice, 8*time.Second, 0, 1, 0)
	want(alice, 31*time.Second, 0, 0, 0)
}

func TestInspectShowsTheState(t *testing.T) {
	p, rules := newPresence(), &Rules{TTL: 30 * time.Second}
	if is := p.Inspect(alice, nil, rules, testkit.At(0)); is.Answer != nil || !is.Settled {
		t.Errorf("of nobody: %+v", is)
	}
	p.allow(bob, alice, 7, rules, 0)
	is := p.Inspect(alice, nil, rules, testkit.At(10*time.Second))
	if versionOf(is.Answer) != 7 || is.Age != 10*time.Second || is.Fresh != 20*time.Second || !is.Settled {
		t.Errorf("%+v", is)
	}
	write := p.BeginWrite(alice)
	if is := p.Inspect(alice, nil, rules, testkit.At(10*time.Second)); is.Answer != nil || is.Settled {
		t.Errorf("while it is written: %+v", is)
	}
	write.End(testkit.At(11*time.Second), time.Second)
	if is := p.Inspect(alice, nil, rules, testkit.At(11*time.Second)); is.Settled {
		t.Error("it has settled at once")
	}
}
