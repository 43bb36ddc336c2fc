package cache

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

const (
	alice = "@alice:hs" // the target of most tests
	bob   = "@bob:hs"   // a viewer
	carol = "@carol:hs" // another
)

// allow stores that viewer may see version n of target, departed at d.
func (p *Presence) allow(viewer, target string, n int, rules *Rules, d time.Duration) bool {
	return p.Allow(viewer, p.Depart(target, testkit.At(d)), version(n), rules, testkit.Epoch)
}

func (p *Presence) deny(viewer, target string, rules *Rules, d time.Duration) bool {
	return p.Deny(viewer, p.Depart(target, testkit.At(d)), &Denial{UntilWrite: true, Status: 403, Body: `{"errcode":"M_FORBIDDEN"}`}, rules)
}

// write is a write that succeeds at once.
func (p *Presence) write(target string, d time.Duration) { p.BeginWrite(target).End(testkit.At(d), 0) }

// wantOutcome looks up and checks what the fields of a Found promise of any outcome.
func wantOutcome(t *testing.T, p *Presence, viewer, target string, rules *Rules, d time.Duration, want Outcome) Found {
	t.Helper()
	found := p.Lookup(viewer, target, rules, testkit.At(d))
	if found.Outcome != want {
		t.Errorf("%s reads %s at %v: outcome %v, want %v", viewer, target, d, found.Outcome, want)
	}
	switch found.Outcome {
	case Hit:
		if found.Answer == nil || found.Denial != nil || found.Age < 0 || found.Fresh <= 0 || found.Age+found.Fresh > rules.TTL {
			t.Errorf("a hit at %v is %+v", d, found)
		}
	case Denied:
		if found.Denial == nil || found.Answer != nil || found.Age < 0 || found.Fresh <= 0 || found.Age+found.Fresh != rules.ForbiddenTTL {
			t.Errorf("a denial at %v is %+v", d, found)
		}
	case Miss:
		if found.Denial != nil || found.Answer != nil && (found.Age < 0 || found.Age >= rules.StaleIfError) {
			t.Errorf("a miss at %v is %+v", d, found)
		}
	}
	return found
}

func TestAHitNeedsAStateAndAPermission(t *testing.T) {
	p, rules := newPresence(), &Rules{TTL: 30 * time.Second, ForbiddenTTL: 5 * time.Second}
	wantOutcome(t, p, bob, alice, rules, 0, Miss)
	if !p.allow(bob, alice, 1, rules, 0) {
		t.Error("the answer was not stored")
	}
	if found := wantOutcome(t, p, bob, alice, rules, 10*time.Second, Hit); versionOf(found.Answer) != 1 ||
		found.Age != 10*time.Second || found.Fresh != 20*time.Second || !found.Permitted {
		t.Errorf("the hit is %+v", found)
	}
	// Nobody else has been allowed, and bob not to see anybody else.
	for _, other := range [][2]string{{carol, alice}, {bob, carol}, {alice, bob}, {"", alice}, {"@bob:h", "s@alice:hs"}} {
		if found := wantOutcome(t, p, other[0], other[1], rules, 10*time.Second, Miss); found.Permitted || found.Answer != nil {
			t.Errorf("%s reads %s: %+v", other[0], other[1], found)
		}
	}
	// One state serves all who are allowed.
	p.allow(carol, alice, 2, rules, 20*time.Second)
	if found := wantOutcome(t, p, bob, alice, rules, 29*time.Second, Hit); versionOf(found.Answer) != 2 || found.Age != 9*time.Second {
		t.Errorf("bob's hit is %+v", found)
	}
	// Bob's permission ends, the state is still fresh.
	if found := wantOutcome(t, p, bob, alice, rules, 30*time.Second, Miss); found.Permitted || found.Answer != nil {
		t.Errorf("bob without permission: %+v", found)
	}
	wantOutcome(t, p, carol, alice, rules, 50*time.Second-1, Hit)
	wantOutcome(t, p, carol, alice, rules, 50*time.Second, Miss)
}

func TestAPermissionOutlivesAStateThatEnds(t *testing.T) {
	p, rules := newPresence(), &Rules{TTL: 30 * time.Second}
	_, mate, _ := fenceMates(p)
	p.allow(bob, "@a:hs", 1, rules, 0)
	write := p.BeginWrite(mate) // so that the next answer is not stored
	if p.allow(bob, "@a:hs", 2, rules, 10*time.Second) {
		t.Fatal("stored on an unsettled fence")
	}
	write.End(testkit.At(11*time.Second), 0)
	if found := wantOutcome(t, p, bob, "@a:hs", rules, 20*time.Second, Hit); versionOf(found.Answer) != 1 {
		t.Errorf("the hit is version %d", versionOf(found.Answer))
	}
	if found := wantOutcome(t, p, bob, "@a:hs", rules, 35*time.Second, Miss); !found.Permitted || found.Answer != nil {
		t.Errorf("with a permission and no fresh state: %+v", found)
	}
	if found := wantOutcome(t, p, bob, "@a:hs", rules, 40*time.Second, Miss); found.Permitted {
		t.Errorf("after the permission: %+v", found)
	}
}

func TestAWriteDropsTheStateAndKeepsThePermission(t *testing.T) {
	p, rules := newPresence(), &Rules{TTL: time.Minute, StaleIfError: time.Hour}
	p.allow(bob, alice, 1, rules, 0)
	write := p.BeginWrite(alice)
	if found := wantOutcome(t, p, bob, alice, rules, time.Second, Miss); !found.Permitted || found.Answer != nil {
		t.Errorf("in a write: %+v", found)
	}
	write.End(testkit.At(2*time.Second), 0)
	if found := wantOutcome(t, p, bob, alice, rules, 2*time.Second, Miss); !found.Permitted || found.Answer != nil {
		t.Errorf("after a write: %+v", found)
	}
	p.allow(carol, alice, 2, rules, 3*time.Second)
	if found := wantOutcome(t, p, bob, alice, rules, 4*time.Second, Hit); versionOf(found.Answer) != 2 {
		t.Errorf("bob is shown version %d", versionOf(found.Answer))
	}
}

func TestDenials(t *testing.T) {
	p, rules := newPresence(), &Rules{TTL: time.Minute, ForbiddenTTL: 5 * time.Second, StaleIfError: time.Hour}
	p.allow(bob, alice, 1, rules, 0)
	p.allow(carol, alice, 1, rules, 0)
	if !p.deny(bob, alice, rules, time.Second) {
		t.Error("the denial was not stored")
	}
	found := wantOutcome(t, p, bob, alice, rules, 3*time.Second, Denied)
	if found.Denial == nil || found.Denial.Status != 403 || found.Denial.Body != `{"errcode":"M_FORBIDDEN"}` || found.Permitted {
		t.Errorf("the denial is %+v", found)
	}
	wantOutcome(t, p, carol, alice, rules, 3*time.Second, Hit)
	wantOutcome(t, p, bob, alice, rules, 6*time.Second-1, Denied)
	// Expired, it is no permission, not even for a stale answer.
	if found := wantOutcome(t, p, bob, alice, rules, 6*time.Second, Miss); found.Permitted || found.Answer != nil {
		t.Errorf("after the denial: %+v", found)
	}
	p.allow(bob, alice, 2, rules, 7*time.Second)
	wantOutcome(t, p, bob, alice, rules, 8*time.Second, Hit)

	// A 404 may mean that there is no presence yet: a write ends it.
	p.deny(bob, alice, rules, 10*time.Second)
	write := p.BeginWrite(alice)
	wantOutcome(t, p, bob, alice, rules, 10*time.Second, Miss)
	if p.deny(bob, alice, rules, 10*time.Second) {
		t.Error("a denial was stored during a write")
	}
	write.End(testkit.At(11*time.Second), time.Second)
	if p.deny(bob, alice, rules, 11*time.Second) {
		t.Error("a denial was stored in the settle time")
	}
	if !p.deny(bob, alice, rules, 12*time.Second) {
		t.Error("a denial was not stored after it")
	}
	wantOutcome(t, p, bob, alice, rules, 12*time.Second, Denied)

	overtaken := p.Depart(alice, testkit.At(13*time.Second))
	p.write(alice, 13*time.Second)
	p.Deny(bob, overtaken, &Denial{UntilWrite: true, Status: 404}, rules)
	wantOutcome(t, p, bob, alice, rules, 13*time.Second, Miss)
}

// denyUnstored are the ways in which a denial is not stored.
var denyUnstored = map[string]func(p *Presence, ticket Ticket, rules Rules) bool{
	"no ForbiddenTTL": func(p *Presence, ticket Ticket, rules Rules) bool {
		rules.ForbiddenTTL = 0
		return p.Deny(bob, ticket, &Denial{UntilWrite: true, Status: 403}, &rules)
	},
	"large": func(p *Presence, ticket Ticket, rules Rules) bool {
		return p.Deny(bob, ticket, &Denial{UntilWrite: true, Status: 403, Body: strings.Repeat("x", MaxBody+1)}, &rules)
	},
	"not settled": func(p *Presence, ticket Ticket, rules Rules) bool {
		ticket.settled = false
		return p.Deny(bob, ticket, &Denial{UntilWrite: true, Status: 403}, &rules)
	},
}

// That somebody may not see a user has nothing to do with what the user writes.
func TestADenialOfAViewerOutlivesWrites(t *testing.T) {
	p, rules := newPresence(), &Rules{TTL: time.Minute, ForbiddenTTL: 10 * time.Second}
	write := p.BeginWrite(alice)
	if !p.Deny(bob, p.Depart(alice, testkit.Epoch), &Denial{Status: 403}, rules) {
		t.Error("not stored during a write")
	}
	wantOutcome(t, p, bob, alice, rules, time.Second, Denied)
	write.End(testkit.At(time.Second), time.Second)
	wantOutcome(t, p, bob, alice, rules, time.Second, Denied)
	wantOutcome(t, p, bob, alice, rules, 10*time.Second, Miss)
}

func TestADenialThatIsNotStoredEndsAPermission(t *testing.T) {
	rules := &Rules{TTL: time.Minute, ForbiddenTTL: 5 * time.Second, StaleIfError: time.Hour}
	for name, deny := range denyUnstored {
		t.Run(name, func(t *testing.T) {
			p := newPresence()
			p.allow(bob, alice, 1, rules, time.Second)
			ticket := p.Depart(alice, testkit.At(2*time.Second))
			p.allow(carol, alice, 1, rules, 3*time.Second)
			if deny(p, ticket, *rules) {
				t.Error("the denial was stored")
			}
			if found := wantOutcome(t, p, bob, alice, rules, 4*time.Second, Miss); found.Permitted || found.Answer != nil {
				t.Errorf("after the denial: %+v", found)
			}
			wantOutcome(t, p, carol, alice, rules, 4*time.Second, Hit)

			// What departed after it counts more.
			p.allow(bob, alice, 2, rules, 5*time.Second)
			wantOutcome(t, p, bob, alice, rules, 6*time.Second, Hit)
			deny(p, ticket, *rules)
			wantOutcome(t, p, bob, alice, rules, 6*time.Second, Hit)
		})
	}
}

// Two reads of bob's depart. The second is refused, and bob sees that. Then the
// first arrives, with what was so before: it must not open the cache to him.
func TestAnOlderAnswerDoesNotUndoADenialThatIsNotStored(t *testing.T) {
	rules := &Rules{TTL: time.Minute, ForbiddenTTL: 5 * time.Second}
	for name, deny := range denyUnstored {
		t.Run(name, func(t *testing.T) {
			p := newPresence()
			first, second := p.Depart(alice, testkit.Epoch), p.Depart(alice, testkit.At(time.Second))
			p.allow(carol, alice, 1, rules, 2*time.Second)
			deny(p, second, *rules)
			p.Allow(bob, first, version(0), rules, testkit.Epoch)
			if found := wantOutcome(t, p, bob, alice, rules, 3*time.Second, Miss); found.Permitted {
				t.Errorf("allowed again: %+v", found)
			}
		})
	}
}

func TestAnOlderAnswerNeverReplacesAYoungerOne(t *testing.T) {
	p, rules := newPresence(), &Rules{TTL: time.Minute, ForbiddenTTL: time.Minute}
	older, younger := p.Depart(alice, testkit.Epoch), p.Depart(alice, testkit.At(time.Second))
	if !p.Allow(bob, younger, version(2), rules, testkit.Epoch) || p.Allow(carol, older, version(1), rules, testkit.Epoch) {
		t.Error("the older answer was stored, or the younger was not")
	}
	for _, viewer := range []string{bob, carol} { // each may see it
		if found := wantOutcome(t, p, viewer, alice, rules, 2*time.Second, Hit); versionOf(found.Answer) != 2 {
			t.Errorf("%s is shown version %d", viewer, versionOf(found.Answer))
		}
	}
	if p.Deny(bob, older, &Denial{UntilWrite: true, Status: 403}, rules) {
		t.Error("an older denial replaced a younger permission")
	}
	wantOutcome(t, p, bob, alice, rules, 2*time.Second, Hit)
	p.MarkUncached(older)
	wantOutcome(t, p, bob, alice, rules, 2*time.Second, Hit)

	last := p.Depart(alice, testkit.At(3*time.Second))
	p.Deny(bob, last, &Denial{UntilWrite: true, Status: 403}, rules)
	p.Allow(bob, p.Depart(alice, testkit.At(2*time.Second)), version(3), rules, testkit.Epoch)
	wantOutcome(t, p, bob, alice, rules, 4*time.Second, Denied)

	// Of two that departed together the one that arrives later counts.
	p.Allow(carol, last, version(4), rules, testkit.Epoch)
	if !p.Allow(carol, last, version(5), rules, testkit.Epoch) {
		t.Error("an answer of the same age was not stored")
	}
}

func TestAStateEndsBeforeCurrentlyActiveFlips(t *testing.T) {
	rules := &Rules{TTL: 10 * time.Minute, StaleIfError: time.Hour}
	for _, tt := range []struct {
		body  string
		until time.Duration
	}{
		{`{"presence":"online","last_active_ago":0,"currently_active":true}`, time.Minute},
		{`{"presence":"online","last_active_ago":50000,"currently_active":true}`, 10 * time.Second},
		{`{"presence":"online","last_active_ago":100000,"currently_active":true}`, 200 * time.Second},
		{`{"presence":"online","last_active_ago":100000}`, 10 * time.Minute},
	} {
		p := newPresence()
		p.Allow(bob, p.Depart(alice, testkit.Epoch), parse(t, tt.body), rules, testkit.Epoch)
		if found := wantOutcome(t, p, bob, alice, rules, tt.until-1, Hit); found.Fresh != 1 {
			t.Errorf("%s: fresh for %v, want 1ns", tt.body, found.Fresh)
		}
		if found := wantOutcome(t, p, bob, alice, rules, tt.until, Miss); tt.until < rules.TTL && found.Answer != nil {
			t.Errorf("%s: served stale past the flip", tt.body)
		}
	}
	p := newPresence()
	flipped := parse(t, `{"presence":"online","last_active_ago":300000,"currently_active":true}`)
	if p.Allow(bob, p.Depart(alice, testkit.Epoch), flipped, rules, testkit.Epoch) {
		t.Error("an answer that no homeserver can mean was stored")
	}
	wantOutcome(t, p, bob, alice, rules, 0, Uncached)
}

func TestLargeBodiesAreNotKept(t *testing.T) {
	rules := &Rules{TTL: time.Minute, ForbiddenTTL: time.Minute}
	body := func(length int) string {
		const frame = `{"presence":"x","status_msg":""}`
		return frame[:len(frame)-2] + strings.Repeat("m", length-len(frame)) + `"}`
	}
	p := newPresence()
	if !p.Allow(bob, p.Depart(alice, testkit.Epoch), parse(t, body(MaxBody)), rules, testkit.Epoch) {
		t.Error("a body of MaxBody was not kept")
	}
	wantOutcome(t, p, bob, alice, rules, 0, Hit)
	if p.Allow(bob, p.Depart(alice, testkit.At(1)), parse(t, body(MaxBody+1)), rules, testkit.Epoch) {
		t.Error("a body above MaxBody was kept")
	}
	wantOutcome(t, p, bob, alice, rules, 2, Uncached)
	if !p.Deny(carol, p.Depart(bob, testkit.Epoch), &Denial{UntilWrite: true, Status: 403, Body: body(MaxBody)}, rules) {
		t.Error("a denial of MaxBody was not kept")
	}
	if p.Deny(carol, p.Depart(bob, testkit.Epoch), &Denial{UntilWrite: true, Status: 403, Body: body(MaxBody + 1)}, rules) {
		t.Error("a denial above MaxBody was kept")
	}
	wantOutcome(t, p, carol, bob, rules, 0, Miss)
}

// Two requests of a busy machine take their clock readings and the lock in different
// orders. A reader whose reading is a little older than the state's must not show
// it as younger than it was when it came: last_active_ago could become negative.
func TestNoAgeIsNegative(t *testing.T) {
	p, rules := newPresence(), &Rules{TTL: time.Minute, ForbiddenTTL: time.Minute}
	p.Allow(bob, p.Depart(alice, testkit.At(time.Second)), parse(t, `{"presence":"online","last_active_ago":2}`), rules, testkit.Epoch)
	p.deny(carol, alice, rules, time.Second)
	found := p.Lookup(bob, alice, rules, testkit.At(time.Second-5*time.Millisecond))
	if found.Outcome == Hit {
		if body := string(found.Answer.AppendBody(nil, found.Age)); found.Age < 0 || found.Fresh > rules.TTL || body != found.Answer.Body {
			t.Errorf("age %v, fresh for %v: %s", found.Age, found.Fresh, body)
		}
	}
	if found := p.Lookup(carol, alice, rules, testkit.At(time.Second-5*time.Millisecond)); found.Age < 0 || found.Fresh > rules.ForbiddenTTL {
		t.Errorf("a denial of age %v, fresh for %v", found.Age, found.Fresh)
	}
}

func TestRulesMayChangeAtAnyTime(t *testing.T) {
	p, long, short := newPresence(), &Rules{TTL: time.Hour, ForbiddenTTL: time.Hour}, &Rules{TTL: time.Second}
	p.allow(bob, alice, 1, long, 0)
	p.deny(carol, alice, long, 0)
	wantOutcome(t, p, bob, alice, long, time.Minute, Hit)
	wantOutcome(t, p, bob, alice, short, time.Minute, Miss)
	wantOutcome(t, p, carol, alice, long, time.Minute, Denied)
	wantOutcome(t, p, carol, alice, short, 0, Miss)
}

func BenchmarkLookup(b *testing.B) {
	rules := &Rules{TTL: time.Hour, ForbiddenTTL: time.Hour}
	viewers := &Rules{TTL: time.Hour, PerViewer: true}
	p, own := NewPresence(100_000, 100_000, testkit.Epoch), NewPresence(100_000, 100_000, testkit.Epoch)
	p.allow(bob, alice, 1, rules, 0)
	p.deny(carol, alice, rules, 0)
	own.allow(bob, alice, 1, viewers, 0)
	for _, bm := range []struct {
		name   string
		p      *Presence
		viewer string
		rules  *Rules
		want   Outcome
	}{
		{"hit", p, bob, rules, Hit}, {"denied", p, carol, rules, Denied}, {"miss", p, alice, rules, Miss}, {"hit per viewer", own, bob, viewers, Hit},
	} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if bm.p.Lookup(bm.viewer, alice, bm.rules, testkit.Epoch).Outcome != bm.want {
					b.Fatal("another outcome")
				}
			}
		})
	}
}

func BenchmarkAllow(b *testing.B) {
	rules, answer := &Rules{TTL: time.Hour}, version(1)
	targets := make([]string, 10_000)
	for i := range targets {
		targets[i] = fmt.Sprintf("@user%d:example.com", i)
	}
	p, i := NewPresence(100_000, 100_000, testkit.Epoch), 0
	b.ReportAllocs()
	for b.Loop() {
		p.Allow(bob, p.Depart(targets[i%len(targets)], testkit.At(time.Duration(i))), answer, rules, testkit.Epoch)
		i++
	}
}
