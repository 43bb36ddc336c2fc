package cache

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// resting returns an answer that tells its number, of a user who is not online.
func resting(n int) *Answer {
	answer, err := ParseAnswer(fmt.Appendf(nil, `{"presence":"unavailable","status_msg":"%d"}`, n), []Field{{Name: "Content-Type", Values: []string{"application/json"}}})
	if err != nil {
		panic(err)
	}
	return answer
}

func restingOf(t *testing.T, answer *Answer) (n int) {
	t.Helper()
	if _, err := fmt.Sscanf(answer.Body, `{"presence":"unavailable","status_msg":"%d"}`, &n); err != nil {
		t.Fatalf("%s: %v", answer.Body, err)
	}
	return n
}

const settled = 20 * time.Second // longer than the settle time of these tests

// liveTables are tables whose feed has been whole for long, and in which bob may see resting(1) of alice.
func liveTables(rules *Rules) *Presence {
	p := newPresence()
	p.LiveSince(testkit.At(-time.Hour), 0)
	p.Allow(bob, p.Depart(alice, testkit.At(0)), resting(1), rules, testkit.At(0))
	return p
}

func rowOf(n int, stamp int64) Row { return Row{Target: alice, Answer: resting(n), Stamp: stamp} }

var liveRules = &Rules{TTL: 30 * time.Second, ForbiddenTTL: 5 * time.Second, LiveTTL: 10 * time.Minute}

func TestRowTakesThePlaceOfWhatItContradicts(t *testing.T) {
	p := liveTables(liveRules)
	if got := p.Apply(rowOf(2, 100), testkit.At(settled), time.Second); got != RowUpdated {
		t.Fatalf("the row's result is %v", got)
	}
	found := wantLive(t, p, settled+time.Minute)
	if restingOf(t, found.Answer) != 2 || found.Age != time.Minute || len(found.Answer.Fields) != 1 {
		t.Errorf("the hit is %+v of %+v", found, found.Answer)
	}
	if got := p.Apply(rowOf(2, 101), testkit.At(settled+time.Minute), time.Second); got != RowSame {
		t.Errorf("the same again is %v", got)
	}
	if got := p.Apply(Row{Target: carol, Answer: resting(1), Stamp: 102}, testkit.At(settled), time.Second); got != RowUnread {
		t.Errorf("a row of whom nobody reads is %v", got)
	}
}

func wantLive(t *testing.T, p *Presence, d time.Duration) Found {
	t.Helper()
	found := p.Lookup(bob, alice, liveRules, testkit.At(d))
	if found.Outcome != Hit {
		t.Fatalf("at %v: %+v, want a hit", d, found)
	}
	return found
}

// What isn't newer for certain is dropped, so that the homeserver is asked.
func TestRowThatMayBeOlderThanTheStateOnlyDropsIt(t *testing.T) {
	for name, tt := range map[string]struct {
		before func(p *Presence)
		row    Row
		at     time.Duration
	}{
		"older than the row before": {func(p *Presence) {
			p.Apply(rowOf(1, 200), testkit.At(settled), time.Second)
		}, rowOf(2, 100), 2 * settled},
		"as old as the row before": {func(p *Presence) {
			p.Apply(rowOf(1, 200), testkit.At(settled), time.Second)
		}, rowOf(2, 200), 2 * settled},
		"late":                      {func(*Presence) {}, Row{Target: alice, Answer: resting(2), Stamp: 100, Late: true}, settled},
		"just after the state came": {func(*Presence) {}, rowOf(2, 100), time.Second - 1},
		"just after another row":    {func(p *Presence) { p.Apply(rowOf(3, 50), testkit.At(settled), time.Second) }, rowOf(2, 100), settled + time.Second - 1},
		"not clear":                 {func(*Presence) {}, Row{Target: alice, Answer: unclearAnswer(), Stamp: 100}, settled},
		"an impossible activity":    {func(*Presence) {}, Row{Target: alice, Answer: impossible(), Stamp: 100}, settled},
		"a slow answer's state":     {func(p *Presence) { storeSlowly(p, settled) }, rowOf(2, 100), settled + time.Second - 1},
		"a neighbour is written to": {func(p *Presence) { _, mate, _ := matesOf(p); p.BeginWrite(mate) }, rowOf(2, 100), settled},
		"a neighbour's write settles": {func(p *Presence) {
			_, mate, _ := matesOf(p)
			p.BeginWrite(mate).End(testkit.At(settled), time.Second)
		}, rowOf(2, 100), settled + time.Second - 1},
	} {
		t.Run(name, func(t *testing.T) {
			p := liveTables(liveRules)
			tt.before(p)
			if got := p.Apply(tt.row, testkit.At(tt.at), time.Second); got != RowDropped {
				t.Errorf("the row's result is %v", got)
			}
			wantOutcome(t, p, bob, alice, liveRules, tt.at, Miss)
		})
	}
}

func unclearAnswer() *Answer {
	answer, err := ParseAnswer([]byte(`{"presence":"offline","status_msg":"a","Status_msg":"b"}`), nil)
	if err != nil {
		panic(err)
	}
	return answer
}

func impossible() *Answer {
	answer, err := ParseAnswer([]byte(`{"presence":"online","last_active_ago":400000,"currently_active":true}`), nil)
	if err != nil {
		panic(err)
	}
	return answer
}

// storeSlowly stores an answer that took long to come.
func storeSlowly(p *Presence, arrived time.Duration) {
	p.Allow(bob, p.Depart(alice, testkit.At(1)), resting(1), liveRules, testkit.At(arrived))
}

// matesOf returns alice, a user with the same fence and one with another.
func matesOf(p *Presence) (a, mate, other string) {
	_, own := p.shardOf(alice)
	for i := 0; mate == "" || other == ""; i++ {
		user := fmt.Sprintf("@mate%d:hs", i)
		if _, f := p.shardOf(user); f == own {
			mate = user
		} else {
			other = user
		}
	}
	return alice, mate, other
}

// An answer may show what was before the row.
func TestAnswerThatARowOvertookIsNotStored(t *testing.T) {
	p := liveTables(liveRules)
	ticket := p.Depart(alice, testkit.At(settled))
	p.Apply(rowOf(2, 100), testkit.At(settled+1), 0)
	if p.Allow(bob, ticket, resting(1), liveRules, testkit.At(settled+2)) {
		t.Error("it was stored")
	}
	if found := wantLive(t, p, settled+3); restingOf(t, found.Answer) != 2 {
		t.Errorf("the hit is %+v", found.Answer)
	}
	// Also where the row says what is known, from an answer that departed before.
	s := liveTables(liveRules)
	first, second := s.Depart(alice, testkit.At(settled)), s.Depart(alice, testkit.At(settled+1))
	denied := s.Depart(alice, testkit.At(settled))
	s.Deny(carol, denied, &Denial{Status: 404, Body: "{}", UntilWrite: true}, liveRules)
	s.Allow(bob, first, resting(2), liveRules, testkit.At(settled+2))
	if got := s.Apply(rowOf(2, 100), testkit.At(settled+3), time.Second); got != RowSame {
		t.Errorf("the row's result is %v", got)
	}
	if s.Allow(bob, second, resting(1), liveRules, testkit.At(settled+4)) {
		t.Error("it was stored after the row that says what is known")
	}
	wantOutcome(t, s, carol, alice, liveRules, settled+5, Miss) // there is a presence
	// Also where the row has only dropped what was known.
	q := liveTables(liveRules)
	ticket = q.Depart(alice, testkit.At(1))
	if q.Apply(rowOf(2, 100), testkit.At(2), time.Second) != RowDropped {
		t.Error("the row has changed what had just come")
	}
	if q.Allow(bob, ticket, resting(1), liveRules, testkit.At(3)) {
		t.Error("it was stored after the state was dropped")
	}
}

// Another process of the homeserver may not have heard of the change yet.
func TestUntilARowHasSettledAnAnswerMustShowIt(t *testing.T) {
	p := newPresence()
	p.Apply(rowOf(2, 100), testkit.At(0), time.Second)
	if p.Allow(bob, p.Depart(alice, testkit.At(1)), resting(1), liveRules, testkit.At(2)) {
		t.Error("an answer that shows something else was stored")
	}
	if !p.Allow(bob, p.Depart(alice, testkit.At(1)), resting(2), liveRules, testkit.At(2)) {
		t.Error("an answer that shows the row was not stored")
	}
	q := newPresence()
	q.Apply(rowOf(2, 100), testkit.At(0), time.Second)
	if !q.Allow(bob, q.Depart(alice, testkit.At(time.Second)), resting(1), liveRules, testkit.At(time.Second)) {
		t.Error("an answer was not stored when all had settled")
	}
}

// Nor has it if the row says what we know, from another process.
func TestUntilARowThatSaysWhatIsKnownHasSettledAnAnswerMustShowIt(t *testing.T) {
	for name, tt := range map[string]struct {
		departs time.Duration // after the row
		shows   int
		stored  bool
	}{
		"an answer that shows something else": {1, 2, false},
		"one that shows the row":              {1, 1, true},
		"once it has settled":                 {time.Second, 2, true},
	} {
		p := liveTables(liveRules)
		if got := p.Apply(rowOf(1, 100), testkit.At(settled), time.Second); got != RowSame {
			t.Fatalf("the row's result is %v", got)
		}
		at := testkit.At(settled + tt.departs)
		if got := p.Allow(bob, p.Depart(alice, at), resting(tt.shows), liveRules, at.Add(1)); got != tt.stored {
			t.Errorf("%s: stored is %v", name, got)
		}
	}
	// A row that repeats one before is no change.
	p := liveTables(liveRules)
	p.Apply(rowOf(1, 100), testkit.At(settled), time.Second)
	p.Apply(rowOf(1, 100), testkit.At(2*settled), time.Second)
	if at := testkit.At(2*settled + 1); !p.Allow(bob, p.Depart(alice, at), resting(2), liveRules, at.Add(1)) {
		t.Error("after a repeated row an answer was not stored")
	}
}

// What an older row says is no proof of what is: one that another row, or a write, has come before it tells of a
// state that may have ended, and a process of the homeserver may still show that.
func TestRowThatMayNotBeTheLastWordProvesNothing(t *testing.T) {
	write := func(p *Presence, at time.Duration, n int) {
		p.BeginWrite(alice).Acknowledge([]byte(resting(n).Body), testkit.At(at), testkit.At(at), time.Second)
	}
	row := func(p *Presence, at time.Duration, n int, stamp int64) {
		p.Apply(rowOf(n, stamp), testkit.At(at), time.Second)
	}
	for name, tt := range map[string]struct {
		happens func(p *Presence)
		stored  bool // an answer that shows resting(2)
	}{
		"a write settles":           {func(p *Presence) { write(p, settled, 3); row(p, settled+1, 2, 100) }, false},
		"another row has come":      {func(p *Presence) { row(p, settled, 3, 200); row(p, settled+1, 2, 100) }, false},
		"it is the newest row":      {func(p *Presence) { row(p, settled, 3, 100); row(p, settled+1, 2, 200) }, true},
		"after a write and another": {func(p *Presence) { write(p, settled, 3); row(p, settled, 4, 100); row(p, settled+1, 2, 200) }, false},
		"a write has settled":       {func(p *Presence) { write(p, 1, 3); row(p, settled+1, 2, 100) }, true},
	} {
		p := liveTables(liveRules)
		tt.happens(p)
		if got := p.Allow(bob, p.Depart(alice, testkit.At(settled+2)), resting(2), liveRules, testkit.At(settled+3)); got != tt.stored {
			t.Errorf("%s: stored is %v", name, got)
		}
	}
}

// The row of a write comes before its answer, or after. In both cases the first read after the
// write is kept, if it shows the write.
func TestRowOfAWriteLeavesItsProofAlone(t *testing.T) {
	for _, before := range []bool{true, false} {
		p := liveTables(liveRules)
		write := p.BeginWrite(alice)
		row := func() { p.Apply(rowOf(2, 100), testkit.At(settled), time.Second) }
		if before {
			row()
		}
		write.Acknowledge([]byte(resting(2).Body), testkit.At(settled), testkit.At(settled), time.Second)
		if !before {
			row()
		}
		if !p.Allow(bob, p.Depart(alice, testkit.At(settled+1)), resting(2), liveRules, testkit.At(settled+2)) {
			t.Errorf("before %v: the answer was not stored", before)
		}
		if p.Allow(bob, p.Depart(alice, testkit.At(settled+3)), resting(1), liveRules, testkit.At(settled+3)) {
			t.Errorf("before %v: an older answer was stored", before)
		}
	}
}

// Another device changes the presence while a write is in flight, or settles. An answer from
// between shows the write, but no longer the presence, whatever row is repeated after that.
func TestRowOfAnotherChangeEndsTheProofOfAWrite(t *testing.T) {
	for name, rows := range map[string][]Row{
		"the change's row":                   {rowOf(2, 100), rowOf(3, 101)},
		"the write's row again":              {rowOf(2, 100), rowOf(3, 101), rowOf(2, 100)},
		"the write's row again, twice":       {rowOf(2, 100), rowOf(3, 101), rowOf(2, 100), rowOf(2, 100)},
		"both rows again":                    {rowOf(2, 100), rowOf(3, 101), rowOf(2, 100), rowOf(3, 101)},
		"the change's row, which is unclear": {rowOf(2, 100), {Target: alice, Answer: unclearAnswer(), Stamp: 101}},
	} {
		for _, before := range []bool{true, false} {
			p := liveTables(liveRules)
			write := p.BeginWrite(alice)
			row := func() {
				for _, row := range rows {
					p.Apply(row, testkit.At(settled), time.Second)
				}
			}
			if before {
				row()
			}
			write.Acknowledge([]byte(resting(2).Body), testkit.At(settled), testkit.At(settled), time.Second)
			ticket := p.Depart(alice, testkit.At(settled))
			if !before {
				row()
			}
			if p.Allow(bob, ticket, resting(2), liveRules, testkit.At(settled+2)) {
				t.Errorf("%s, before %v: the answer from between was stored", name, before)
			}
		}
	}
}

// A row may come twice. The first read after the write is kept even so.
func TestRowOfAWriteThatComesTwiceLeavesItsProofAlone(t *testing.T) {
	p := liveTables(liveRules)
	write := p.BeginWrite(alice)
	for range 2 {
		p.Apply(rowOf(2, 100), testkit.At(settled), time.Second)
	}
	write.Acknowledge([]byte(resting(2).Body), testkit.At(settled), testkit.At(settled), time.Second)
	if !p.Allow(bob, p.Depart(alice, testkit.At(settled+1)), resting(2), liveRules, testkit.At(settled+2)) {
		t.Error("the answer was not stored")
	}
}

// Two presences of which it isn't clear what they show needn't be the same.
func TestRowThatIsUnclearIsNotTheSame(t *testing.T) {
	p := newPresence()
	p.LiveSince(testkit.At(-time.Hour), 0)
	p.Allow(bob, p.Depart(alice, testkit.At(0)), unclearAnswer(), liveRules, testkit.At(0))
	wantLive(t, p, settled)
	other, err := ParseAnswer([]byte(`{"presence":"offline","status_msg":"c","Status_msg":"d"}`), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Apply(Row{Target: alice, Answer: other, Stamp: 100}, testkit.At(settled), time.Second); got != RowDropped {
		t.Errorf("the row's result is %v", got)
	}
}

// While a write waits nothing is kept, whatever a row says.
func TestRowProvesNothingWhileAWriteWaits(t *testing.T) {
	p := liveTables(liveRules)
	p.BeginDeferred(alice)
	p.Apply(rowOf(2, 100), testkit.At(settled), time.Second)
	if p.Allow(bob, p.Depart(alice, testkit.At(settled+1)), resting(2), liveRules, testkit.At(settled+2)) {
		t.Error("an answer that shows the row was stored")
	}
}

// What was written last, and has settled, may have been undone and done again meanwhile.
func TestRowThatRepeatsWhatHasSettledIsAWrite(t *testing.T) {
	p := liveTables(liveRules)
	p.BeginWrite(alice).Acknowledge([]byte(resting(2).Body), testkit.At(1), testkit.At(1), time.Second)
	ticket := p.Depart(alice, testkit.At(settled)) // reads what was between
	p.Apply(rowOf(2, 100), testkit.At(settled+1), time.Second)
	if p.Allow(bob, ticket, resting(3), liveRules, testkit.At(settled+2)) {
		t.Error("an answer from before the row was stored")
	}
}

// Of viewers who each have a state of their own a row ends all.
func TestRowEndsTheStatesOfAllViewers(t *testing.T) {
	rules := *liveRules
	rules.PerViewer = true
	p := liveTables(&rules)
	if found := p.Lookup(bob, alice, &rules, testkit.At(settled)); found.Outcome != Hit {
		t.Fatalf("%+v, want a hit", found)
	}
	if got := p.Apply(rowOf(2, 100), testkit.At(settled), time.Second); got != RowDropped {
		t.Errorf("the row's result is %v", got)
	}
	wantOutcome(t, p, bob, alice, &rules, settled+1, Miss)
}

// Alice's presence is changed by writes through us and by others, and a feed tells of each
// change within half of the time of settle, or late and says so. Now and then it repeats an old
// row. Whatever memory shows is then at least as new as all that was acknowledged or shown
// before, and as all that the feed has told. Where processes of the homeserver know of changes later than others,
// what one of them has shown past the feed binds no other.
func TestReadsAreLinearizableWithAFeed(t *testing.T) {
	r := testkit.Rand(t)
	results, hits := make(map[RowResult]int), 0
	for round := range 400 {
		const settle = 20
		lags := round%2 == 0
		rules := &Rules{TTL: 100, LiveTTL: 10_000}
		p := newPresence()
		p.LiveSince(testkit.Epoch, 0)
		var now time.Duration
		register, known, told := 1, 1, 1
		changes := []time.Duration{0, 0} // when the register became each version
		type flight struct {
			ticket Ticket
			value  int // 0: not read yet
		}
		type sent struct {
			version int
			made    time.Duration
			at      time.Duration
		}
		var flights []*flight
		var rows, old []sent
		var inFlight *Write // with what it has written, and when it began
		var written int
		var began time.Duration
		change := func() {
			register++
			changes = append(changes, now)
			lag := time.Duration(r.IntN(settle / 2))
			if r.IntN(10) == 0 {
				lag = time.Duration(r.IntN(5 * settle))
			}
			at := now + lag
			if n := len(rows); n > 0 {
				at = max(at, rows[n-1].at) // the feed keeps the order
			}
			rows = append(rows, sent{register, now, at})
		}
		apply := func(row sent) {
			late := now-row.made > settle/2
			results[p.Apply(Row{Target: alice, Answer: resting(row.version), Stamp: int64(row.made), Late: late}, testkit.At(now), settle)]++
		}
		for range 300 {
			now += time.Duration(r.IntN(8))
			for len(rows) > 0 && rows[0].at <= now {
				row := rows[0]
				rows, old = rows[1:], append(old, row)
				apply(row)
				told = max(told, row.version)
			}
			switch r.IntN(10) {
			case 0:
				if r.IntN(3) == 0 {
					change()
				}
			case 1:
				if r.IntN(3) > 0 {
					continue
				}
				if inFlight == nil { // rows, and other changes, come before its end
					write := p.BeginWrite(alice)
					inFlight, began = &write, now
					change()
					written = register
					continue
				}
				inFlight.Acknowledge([]byte(resting(written).Body), testkit.At(began), testkit.At(now), settle)
				inFlight, known = nil, max(known, written)
			case 2:
				if len(old) > 0 && r.IntN(4) == 0 {
					apply(testkit.Pick(r, old...))
				}
			case 3, 4:
				flights = append(flights, &flight{p.Depart(alice, testkit.At(now)), 0})
			case 5, 6, 7:
				if len(flights) == 0 {
					continue
				}
				i := r.IntN(len(flights))
				if f := flights[i]; f.value == 0 {
					f.value = register
					if lags {
						for then := now - time.Duration(r.IntN(settle/2)); f.value > 1 && changes[f.value] > then; {
							f.value--
						}
					}
				} else {
					p.Allow(bob, f.ticket, resting(f.value), rules, testkit.At(now))
					flights = append(flights[:i], flights[i+1:]...)
				}
			default:
				if found := p.Lookup(bob, alice, rules, testkit.At(now)); found.Outcome == Hit {
					hits++
					got := restingOf(t, found.Answer)
					if got < known || got < told {
						t.Fatalf("at %v a hit shows version %d, after %d was known and %d was told", now, got, known, told)
					}
					if !lags {
						known = max(known, got)
					}
				}
			}
		}
	}
	t.Logf("%d hits, rows: %v", hits, results)
	if hits < 1000 || results[RowUpdated] < 100 || results[RowDropped] < 100 || results[RowSame] < 100 {
		t.Errorf("%d hits, rows %v: this shows little", hits, results)
	}
}
