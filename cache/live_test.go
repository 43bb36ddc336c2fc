package cache

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

func TestWhatIsLiveLivesLonger(t *testing.T) {
	p := newPresence()
	p.LiveSince(testkit.At(0), time.Second)
	p.Allow(bob, p.Depart(alice, testkit.At(time.Second)), resting(1), liveRules, testkit.At(time.Second))
	p.Deny(carol, p.Depart(alice, testkit.At(time.Second)), &Denial{Status: 403}, liveRules)
	last := time.Second + 10*time.Minute - 1
	if found := wantLive(t, p, last); found.Fresh != 1 {
		t.Errorf("at last the hit is %+v", found)
	}
	if found := p.Lookup(carol, alice, liveRules, testkit.At(last)); found.Outcome != Denied || found.Fresh != 1 {
		t.Errorf("at last the denial is %+v", found)
	}
	wantOutcome(t, p, bob, alice, liveRules, last+1, Miss)
	wantOutcome(t, p, carol, alice, liveRules, last+1, Miss)
}

// Each of these lives as long as it does without a feed.
func TestWhatIsNotLiveLivesForTTL(t *testing.T) {
	for name, set := range map[string]func(p *Presence){
		"there is no feed":                           func(p *Presence) { p.NotLive() },
		"it departed before the feed was whole":      func(p *Presence) { p.LiveSince(testkit.At(1), 0) },
		"it departed before the feed had settled":    func(p *Presence) { p.LiveSince(testkit.At(-time.Second), time.Second+1) },
		"something was missed since":                 func(p *Presence) { p.LiveSince(testkit.At(10*time.Second), 0) },
		"the feed is lost, and is there again since": func(p *Presence) { p.NotLive(); p.LiveSince(testkit.At(29*time.Second), 0) },
	} {
		t.Run(name, func(t *testing.T) {
			p := liveTables(liveRules)
			p.Deny(carol, p.Depart(alice, testkit.At(0)), &Denial{Status: 403}, liveRules)
			set(p)
			wantOutcome(t, p, bob, alice, liveRules, 30*time.Second-1, Hit)
			wantOutcome(t, p, bob, alice, liveRules, 30*time.Second, Miss)
			wantOutcome(t, p, carol, alice, liveRules, 5*time.Second-1, Denied)
			wantOutcome(t, p, carol, alice, liveRules, 5*time.Second, Miss)
		})
	}
}

// Of a user who is online the feed tells too late when they were last active. One question is for
// all viewers, as their permissions are live.
func TestOnlineStateIsAskedForAgainEachTTL(t *testing.T) {
	for _, presence := range []string{"online", "busy", "org.matrix.msc3026.busy"} {
		p := newPresence()
		p.LiveSince(testkit.At(-time.Hour), 0)
		answer := parse(t, fmt.Sprintf(`{"presence":%q}`, presence))
		p.Allow(bob, p.Depart(alice, testkit.At(0)), answer, liveRules, testkit.At(0))
		wantOutcome(t, p, bob, alice, liveRules, 30*time.Second-1, Hit)
		if found := wantOutcome(t, p, bob, alice, liveRules, 30*time.Second, Miss); !found.Permitted {
			t.Errorf("%s: the permission has ended: %+v", presence, found)
		}
	}
}

func TestNoTTLIsShortenedByLiveTTL(t *testing.T) {
	rules := &Rules{TTL: time.Hour, ForbiddenTTL: time.Hour, LiveTTL: time.Minute}
	p := liveTables(rules)
	p.deny(carol, alice, rules, 0)
	wantOutcome(t, p, bob, alice, rules, time.Hour-1, Hit)
	wantOutcome(t, p, carol, alice, rules, time.Hour-1, Denied)
	// A write may end the denial, which no feed tells of.
	rules = &Rules{TTL: time.Minute, ForbiddenTTL: time.Minute, LiveTTL: time.Hour}
	wantOutcome(t, p, carol, alice, rules, time.Minute, Miss)
}

func TestRowIsAwaitedAfterAWriteThatChangesSomething(t *testing.T) {
	type step func(p *Presence)
	write := func(n int, ok bool) step {
		return func(p *Presence) {
			w := p.BeginWrite(alice)
			if ok {
				w.Acknowledge([]byte(resting(n).Body), testkit.At(settled), testkit.At(settled), time.Second)
			} else {
				w.End(testkit.At(settled), time.Second)
			}
		}
	}
	row := func(p *Presence) { p.Apply(rowOf(2, 100), testkit.At(settled), time.Second) }
	for name, tt := range map[string]struct {
		steps []step
		want  bool
	}{
		"a change":                      {[]step{write(2, true)}, true},
		"a change, then its row":        {[]step{write(2, true), row}, false},
		"no change":                     {[]step{write(1, true)}, false},
		"a write that failed":           {[]step{write(2, false)}, false},
		"a change that nobody knows of": {[]step{func(p *Presence) { p.BeginWrite(alice).End(testkit.At(1), 0) }, write(2, true)}, false},
		"a change, without a feed":      {[]step{(*Presence).NotLive, write(2, true)}, false},
		"a body that isn't clear": {[]step{func(p *Presence) {
			p.BeginWrite(alice).Acknowledge([]byte(`{}`), testkit.At(settled), testkit.At(settled), 0)
		}}, false},
		"a change whose row came before it": {[]step{func(p *Presence) {
			w := p.BeginWrite(alice)
			row(p)
			w.Acknowledge([]byte(resting(2).Body), testkit.At(settled), testkit.At(settled), time.Second)
		}}, false},
		"an answer that contradicts": {[]step{func(p *Presence) {
			p.Allow(bob, p.Depart(alice, testkit.At(settled)), resting(2), liveRules, testkit.At(settled))
		}}, true},
		"an answer that doesn't": {[]step{func(p *Presence) {
			p.Allow(bob, p.Depart(alice, testkit.At(settled)), resting(1), liveRules, testkit.At(settled))
		}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := liveTables(liveRules)
			for _, step := range tt.steps {
				step(p)
			}
			if p.RowsOverdue(testkit.At(settled + rowGrace)) {
				t.Error("a row is overdue before its time is over")
			}
			if got := p.RowsOverdue(testkit.At(settled + rowGrace + 1)); got != tt.want {
				t.Errorf("a row is overdue: %v, want %v", got, tt.want)
			}
			if p.RowsOverdue(testkit.At(time.Hour)) {
				t.Error("it is reported twice")
			}
		})
	}
}

func TestAwaitedRowsAreBounded(t *testing.T) {
	p := newPresence()
	p.LiveSince(testkit.At(-time.Hour), 0)
	for i := range 9000 {
		target := fmt.Sprintf("@t%d:hs", i)
		p.Allow(bob, p.Depart(target, testkit.At(0)), resting(1), liveRules, testkit.At(0))
		p.BeginWrite(target)
	}
	for i := range p.states {
		if n := len(p.states[i].awaited); n > maxAwaited {
			t.Fatalf("%d rows are awaited in a shard", n)
		}
	}
}
