package cache

import (
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// strangers returns two users of whom neither ends what is known of the other, nor of any of those.
func strangers(p *Presence, of ...string) (a, b string) {
	taken := map[uint64]bool{}
	for _, user := range of {
		taken[p.memberships.slot(user)] = true
	}
	var found []string
	for _, user := range []string{"@dave:hs", "@erin:hs", "@frank:hs", "@grace:hs", "@heidi:hs", "@ivan:hs"} {
		if slot := p.memberships.slot(user); !taken[slot] {
			taken[slot] = true
			found = append(found, user)
		}
	}
	return found[0], found[1]
}

func TestMembershipChangeEndsWhatIsKnownOfBothSides(t *testing.T) {
	rules := &Rules{TTL: 30 * time.Second, ForbiddenTTL: 30 * time.Second, StaleIfError: time.Hour}
	for name, change := range map[string]func(p *Presence, now time.Time){
		"of the viewer":  func(p *Presence, now time.Time) { p.MembershipChanged(bob, now, 0) },
		"of the target":  func(p *Presence, now time.Time) { p.MembershipChanged(alice, now, 0) },
		"of all who are": func(p *Presence, now time.Time) { p.AllMembershipsChanged(now, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPresence()
			p.allow(bob, alice, 1, rules, 0)
			p.deny(bob, carol, rules, 0)
			p.deny(alice, bob, rules, 0)
			wantOutcome(t, p, bob, alice, rules, time.Second, Hit)

			change(p, testkit.At(2*time.Second))
			// Nothing stale either: that would be shown to somebody who was kicked.
			if found := wantOutcome(t, p, bob, alice, rules, 3*time.Second, Miss); found.Permitted || found.Answer != nil {
				t.Errorf("after the change: %+v", found)
			}
			wantOutcome(t, p, alice, bob, rules, 3*time.Second, Miss)
			if name != "of the target" {
				wantOutcome(t, p, bob, carol, rules, 3*time.Second, Miss)
			}
			// The state is still true: who is permitted anew is served it.
			p.Allow(bob, p.Depart(alice, testkit.At(4*time.Second)), version(2), rules, testkit.Epoch)
			wantOutcome(t, p, bob, alice, rules, 5*time.Second, Hit)
		})
	}
}

func TestMembershipChangeLeavesOthersAlone(t *testing.T) {
	p, rules := newPresence(), &Rules{TTL: 30 * time.Second}
	other, stranger := strangers(p, alice, bob)
	p.allow(bob, alice, 1, rules, 0)
	p.allow(other, alice, 1, rules, 0)
	p.MembershipChanged(stranger, testkit.At(time.Second), time.Minute)
	wantOutcome(t, p, bob, alice, rules, 2*time.Second, Hit)
	p.MembershipChanged(other, testkit.At(time.Second), time.Minute)
	wantOutcome(t, p, bob, alice, rules, 2*time.Second, Hit)
	wantOutcome(t, p, other, alice, rules, 2*time.Second, Miss)
}

// The answer to a request from before the change may come long after it.
func TestAnswerThatAMembershipChangeOvertookPermitsNothing(t *testing.T) {
	p, rules := newPresence(), &Rules{TTL: 30 * time.Second, ForbiddenTTL: 30 * time.Second}
	before := p.Depart(alice, testkit.At(time.Second))
	p.MembershipChanged(bob, testkit.At(time.Second), 0) // in the same instant
	p.Allow(bob, before, version(1), rules, testkit.Epoch)
	wantOutcome(t, p, bob, alice, rules, 2*time.Second, Miss)

	if p.MembershipHolds(bob, alice, testkit.At(time.Second)) || p.MembershipHolds(alice, bob, testkit.At(time.Second)) {
		t.Error("what departed in the instant of the change counts")
	}
	if !p.MembershipHolds(bob, alice, testkit.At(time.Second+1)) {
		t.Error("what departed after the change doesn't count")
	}
	p.Allow(bob, p.Depart(alice, testkit.At(time.Second+1)), version(1), rules, testkit.Epoch)
	wantOutcome(t, p, bob, alice, rules, 2*time.Second, Hit)
}

// With several processes, the one that answers reads may hear of a change after us.
func TestMembershipChangeSettles(t *testing.T) {
	p, rules := newPresence(), &Rules{TTL: 30 * time.Second}
	p.MembershipChanged(bob, testkit.At(0), time.Second)
	p.MembershipChanged(bob, testkit.At(0), 0) // takes nothing back
	p.allow(bob, alice, 1, rules, time.Second)
	wantOutcome(t, p, bob, alice, rules, time.Second, Miss)
	p.allow(bob, alice, 1, rules, time.Second+1)
	wantOutcome(t, p, bob, alice, rules, time.Second+1, Hit)
}

// Where each viewer has a state of their own, it is of no use without a permission.
func TestMembershipChangeEndsThePermissionToSeeOnesOwnState(t *testing.T) {
	p, rules := newPresence(), &Rules{TTL: 30 * time.Second, PerViewer: true}
	p.allow(bob, alice, 1, rules, 0)
	p.MembershipChanged(alice, testkit.At(time.Second), 0)
	wantOutcome(t, p, bob, alice, rules, 2*time.Second, Miss)
}
