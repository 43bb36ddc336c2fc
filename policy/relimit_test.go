package policy

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// A TAT that was made under one limit was read under another. A user who had used up one
// write an hour was refused for five hours after a reload to ten a second, each time with
// the advice to try again after a second.
func TestAnotherLimitAppliesAtOnce(t *testing.T) {
	const ms, s, h = time.Millisecond, time.Second, time.Hour
	type limit struct {
		events int
		window time.Duration
		burst  int
	}
	hourly, fast := limit{1, h, 5}, limit{10, s, 10}
	for _, tt := range []struct {
		name    string
		before  limit
		events  int // under it, at once; the last may be refused
		after   limit
		passes  int           // at once
		wait    time.Duration // after these
		refused bool          // whether the last of events is
	}{
		{"raised, used up", hourly, 5, fast, 5, 100 * ms, false},
		{"raised, told to wait", hourly, 6, fast, 5, 100 * ms, true},
		{"only the rate is raised", hourly, 6, limit{10, s, 5}, 0, 100 * ms, true},
		{"the rate is raised, the burst lowered", hourly, 6, limit{1, s, 1}, 0, s, true},
		{"only the burst is raised", hourly, 6, limit{1, h, 50}, 45, h, true},
		{"raised, hardly used", hourly, 1, limit{1, h, 50}, 49, h, false},
		{"lowered, used up", fast, 10, hourly, 0, h, false},
		{"lowered, told to wait", fast, 11, hourly, 0, 100 * ms, true},
		{"lowered, some used", fast, 3, hourly, 2, h, false},
		{"lowered, more used than there are now", fast, 9, hourly, 0, h, false},
		{"only the burst is lowered", limit{1, h, 50}, 45, hourly, 0, h, false},
		{"only the rate is lowered", fast, 8, limit{1, h, 10}, 2, h, false},
		{"never used", fast, 0, hourly, 5, h, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := mustLimit(t, tt.before.events, tt.before.window, tt.before.burst)
			after := mustLimit(t, tt.after.events, tt.after.window, tt.after.burst)
			// A user with a place, and all who share the budget of those without.
			for _, user := range []string{"@a:b", "overflow"} {
				l := NewLimiter(1, testkit.Epoch)
				if user == "overflow" {
					users := neighbours(l, 2)
					l.Charge(users[0], mustLimit(t, 1, 1000*h, 1), testkit.Epoch)
					user = users[1]
				}
				for i := range tt.events {
					if _, ok := l.Take(user, before, testkit.Epoch); ok != (i < tt.events-1 || !tt.refused) {
						t.Fatalf("event %d before: allowed %v", i, ok)
					}
				}
				for i := range tt.passes {
					if wait, ok := l.Take(user, after, testkit.Epoch); !ok {
						t.Fatalf("event %d after: wait %v, want %d at once", i, wait, tt.passes)
					}
				}
				wait, ok := l.Take(user, after, testkit.Epoch)
				if wait != tt.wait || ok {
					t.Fatalf("wait %v, allowed %v, want a wait of %v", wait, ok, tt.wait)
				}
				if wait, ok := l.Take(user, after, testkit.At(tt.wait-1)); wait != 1 || ok {
					t.Errorf("too early: wait %v, allowed %v", wait, ok)
				}
				if wait, ok := l.Take(user, after, testkit.At(tt.wait)); !ok {
					t.Errorf("refused after the wait that was announced: wait %v more", wait)
				}
				if wait, ok := l.Take(user, after, testkit.At(tt.wait)); ok || wait != after.Interval() {
					t.Errorf("after that: wait %v, allowed %v, want %v", wait, ok, after.Interval())
				}
			}
		})
	}
}

// A wait that was announced is good for one event, whatever the limit is by then.
func TestWhatWasAnnouncedIsGoodForOneEvent(t *testing.T) {
	hourly, fast := mustLimit(t, 1, time.Hour, 5), mustLimit(t, 10, time.Second, 10)
	l := NewLimiter(1000, testkit.Epoch)
	for range 11 {
		l.Take("@a:b", fast, testkit.Epoch)
	}
	at := testkit.At(100 * time.Millisecond)
	if _, ok := l.Take("@a:b", fast, at); !ok {
		t.Fatal("refused after the wait that was announced")
	}
	if wait, ok := l.Take("@a:b", hourly, at); ok || wait != time.Hour {
		t.Errorf("wait %v, allowed %v, want 1h", wait, ok)
	}
}

// A debt was read as one under another limit, too: an address that had shown too many
// unknown tokens at one an hour would have waited for days after a reload to ten a second.
func TestADebtStaysAsManyEvents(t *testing.T) {
	hourly, fast := mustLimit(t, 1, time.Hour, 5), mustLimit(t, 10, time.Second, 10)
	for _, tt := range []struct {
		name          string
		before, after Limit
		charges       int
		told          bool
		wait          time.Duration
	}{
		{"raised", hourly, fast, 25, true, 1600 * time.Millisecond},
		{"raised, most of all", hourly, fast, 1000, true, 6 * time.Second},
		{"raised, nobody asked", hourly, fast, 25, false, 1600 * time.Millisecond},
		{"lowered, told to wait", fast, hourly, 30, true, 2100 * time.Millisecond},
		{"lowered, nobody asked", fast, hourly, 30, false, 21 * time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := NewLimiter(1000, testkit.Epoch)
			for range tt.charges {
				l.Charge("a", tt.before, testkit.Epoch)
			}
			if tt.told {
				l.Wait("a", tt.before, testkit.Epoch)
			}
			if wait := l.Wait("a", tt.after, testkit.Epoch); wait != tt.wait {
				t.Errorf("wait %v, want %v", wait, tt.wait)
			}
			if wait := l.Wait("a", tt.after, testkit.At(tt.wait)); wait != 0 {
				t.Errorf("after that %v more", wait)
			}
		})
	}
}

// In mode observe an event is judged when its answer is there, as of when it came. Events
// that came later have been judged by then, and must not look like a debt.
func TestAnEventThatIsJudgedLateMakesNoDebt(t *testing.T) {
	hourly, fast := mustLimit(t, 1, time.Hour, 5), mustLimit(t, 100, time.Second, 50)
	l := NewLimiter(1000, testkit.Epoch)
	for range 50 {
		l.Take("a", fast, testkit.At(30*time.Second))
	}
	if wait, ok := l.Take("a", hourly, testkit.Epoch); ok || wait != 30*time.Second+time.Hour {
		t.Errorf("wait %v, allowed %v, want an hour from the last event", wait, ok)
	}
}

// Take used to announce the time of one event to a user with a debt, again and again.
func TestTakeAnnouncesTheTimeThatADebtTakes(t *testing.T) {
	limit := mustLimit(t, 1, time.Second, 3)
	l := NewLimiter(1000, testkit.Epoch)
	for range 10 {
		l.Charge("a", limit, testkit.Epoch)
	}
	if wait, ok := l.Take("a", limit, testkit.Epoch); ok || wait != 8*time.Second {
		t.Errorf("wait %v, allowed %v, want 8s", wait, ok)
	}
	if wait, ok := l.Take("a", limit, testkit.At(8*time.Second)); !ok {
		t.Errorf("refused after the wait that was announced: wait %v more", wait)
	}
}

// A class and the next, or two sites with one memory: their limits take turns. Whatever the
// order, nobody gets more than under the largest of them, each wait that was announced is
// enough, and none is longer than the limit alone could make anybody wait.
func TestLimitsThatTakeTurns(t *testing.T) {
	r := testkit.Rand(t)
	for range 3000 {
		limits := make([]Limit, 1+r.IntN(4))
		slowest, largest := Limit{}, Limit{interval: 1 << 62}
		for i := range limits {
			limits[i] = randomLimit(t, r)
			largest = Limit{min(largest.interval, limits[i].interval), max(largest.burst, limits[i].burst)}
			slowest.interval = max(slowest.interval, limits[i].interval)
		}
		l := NewLimiter(testkit.Pick(r, 1, 1000), testkit.Epoch)
		user := "@a:b"
		if r.IntN(4) == 0 { // the overflow budget
			users := neighbours(l, 1+l.shards[0].capacity)
			for _, user := range users[1:] {
				l.Charge(user, mustLimit(t, 1, 9000*time.Hour, 1), testkit.Epoch)
			}
			user = users[0]
		}
		var now, promised int64 = 0, -1
		used := 0.0 // of a budget of the largest limit of all
		for step := range 150 {
			elapsed := int64(0)
			switch r.IntN(6) {
			case 0:
				elapsed = r.Int64N(3*testkit.Pick(r, slowest, largest, limits[0]).interval + 1)
			case 1, 2:
				if promised > now {
					elapsed = promised - now - r.Int64N(2)
				}
			}
			now += elapsed
			used = max(0, used-float64(elapsed)/float64(largest.interval))
			limit := testkit.Pick(r, limits...)
			var wait time.Duration
			ok := false
			if r.IntN(4) == 0 {
				wait = l.Wait(user, limit, testkit.At(time.Duration(now)))
			} else if wait, ok = l.Take(user, limit, testkit.At(time.Duration(now))); ok {
				if used++; used > float64(largest.burst)+1e-3 {
					t.Fatalf("%+v, step %d at %d: an event above what the largest of them would let pass", limits, step, now)
				}
				promised = -1
			}
			if wait < 0 || wait > limit.Interval() {
				t.Fatalf("%+v, step %d at %d: a wait of %v under %+v", limits, step, now, wait, limit)
			}
			if !ok && wait > 0 {
				if promised >= 0 && now+int64(wait) > promised {
					t.Fatalf("%+v, step %d at %d: a wait until %d, after one until %d", limits, step, now, now+int64(wait), promised)
				}
				promised = now + int64(wait)
			}
		}
	}
}

// With charges there are debts too. A wait is as long as the debt is then, and holds unless
// there is another charge.
func TestLimitsThatTakeTurnsWithDebts(t *testing.T) {
	r := testkit.Rand(t)
	for range 1000 {
		limits := []Limit{randomLimit(t, r), randomLimit(t, r), randomLimit(t, r)}
		l := NewLimiter(1000, testkit.Epoch)
		var now, promised int64 = 0, -1
		for step := range 150 {
			limit := testkit.Pick(r, limits...)
			switch {
			case promised > now && r.IntN(2) == 0:
				now = promised - r.Int64N(2)
			case r.IntN(4) == 0:
				now += r.Int64N(3*testkit.Pick(r, limits...).interval + 1)
			}
			at := testkit.At(time.Duration(now))
			if r.IntN(3) == 0 {
				for range 1 + r.IntN(100) {
					l.Charge("a", limit, at)
				}
				promised = -1
				continue
			}
			wait := l.Wait("a", limit, at)
			if r.IntN(2) == 0 {
				again, ok := l.Take("a", limit, at)
				if ok != (wait == 0) || again != wait {
					t.Fatalf("%+v, step %d at %d: Wait says %v, Take says %v, %v", limits, step, now, wait, again, ok)
				}
				if ok {
					promised = -1
				}
			}
			if wait < 0 || wait > time.Duration((1+MaxDebt)*limit.interval)+time.Microsecond {
				t.Fatalf("%+v, step %d at %d: a wait of %v under %+v", limits, step, now, wait, limit)
			}
			if wait > 0 {
				if promised >= 0 && now+int64(wait) > promised {
					t.Fatalf("%+v, step %d at %d: a wait until %d, after one until %d", limits, step, now, now+int64(wait), promised)
				}
				promised = now + int64(wait)
			}
		}
	}
}

// Two sites with one memory ask at the same moment, under limits of their own.
func TestLimitsThatTakeTurnsRace(t *testing.T) {
	small, large := mustLimit(t, 1, time.Hour, 20), mustLimit(t, 1, time.Minute, 50)
	l := NewLimiter(1000, testkit.Epoch)
	var allowed atomic.Int64
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := range 400 {
				limit := []Limit{small, large}[(worker+i)%2]
				if _, ok := l.Take("@a:b", limit, testkit.Epoch); ok {
					allowed.Add(1)
				}
				l.Wait("@a:b", limit, testkit.Epoch)
			}
		})
	}
	all.Wait()
	if n := allowed.Load(); n != 50 {
		t.Errorf("%d events passed, want 50", n)
	}
}

// Who goes back and forth at one moment has no more than before, of each of the limits. Who
// has been told to wait is another matter, see [budget.move].
func TestThereAndBackGainsNothing(t *testing.T) {
	r := testkit.Rand(t)
	for range 1000 {
		limits := make([]Limit, 3)
		for i := range limits { // none of which a nanosecond is a part that counts
			limits[i] = mustLimit(t, 1+r.IntN(20), time.Second+time.Duration(r.Int64N(int64(testkit.Pick(r, time.Second, time.Hour)))), r.IntN(6))
		}
		type event struct {
			after time.Duration
			limit Limit
		}
		history := make([]event, r.IntN(40))
		for i := range history {
			history[i] = event{time.Duration(r.Int64N(testkit.Pick(r, limits...).interval + 1)), testkit.Pick(r, limits...)}
		}
		left := func(turns int, limit Limit) (events int) {
			l, now := NewLimiter(1000, testkit.Epoch), testkit.Epoch
			look := func(limit Limit) (wait time.Duration) {
				shard, hash, at := l.locate("@a:b", now)
				b, _ := shard.find(hash, limit, at)
				return b.wait(limit, at)
			}
			for _, limit := range limits {
				look(limit) // what is owed is paid at the rate of the fastest that is known
			}
			for _, e := range history {
				if now = now.Add(e.after); look(e.limit) == 0 {
					l.Take("@a:b", e.limit, now)
				}
			}
			for range turns {
				look(testkit.Pick(r, limits...))
			}
			if turns == 0 {
				now = now.Add(time.Microsecond) // rounding may be either way
			}
			for ok := true; ok; events++ {
				_, ok = l.Take("@a:b", limit, now)
			}
			return events - 1
		}
		for _, limit := range limits {
			if without, with := left(0, limit), left(20, limit); with > without {
				t.Fatalf("%+v of %+v: %d events are left after going back and forth, %d without", limit, limits, with, without)
			}
		}
	}
}

// What a user owes from a limit with a larger burst does not keep the place in the table
// longer than that limit takes to refill.
func TestWhoOwesIsForgottenInTime(t *testing.T) {
	burst, slow := mustLimit(t, 100, time.Second, 5000), mustLimit(t, 1, time.Hour, 5)
	l := NewLimiter(limiterShards, testkit.Epoch)
	users := neighbours(l, 2)
	for range 5000 {
		l.Take(users[0], burst, testkit.Epoch)
	}
	l.Take(users[0], slow, testkit.Epoch)
	at := testkit.At(5*time.Hour + 49*time.Second)
	if l.Take(users[1], slow, at); l.Overflowed() != 1 {
		t.Error("a user who owes was forgotten")
	}
	if l.Take(users[1], slow, at.Add(time.Minute)); l.Overflowed() != 1 {
		t.Error("a user who owes nothing any more kept the place")
	}
}

// A configuration that changes all the time leaves no limits behind without end, and
// no budget is lost by that.
func TestManyLimitsAreForgotten(t *testing.T) {
	r := testkit.Rand(t)
	l := NewLimiter(1000, testkit.Epoch)
	busy := mustLimit(t, 1, time.Hour, 5)
	for range 5 {
		l.Take("@busy:b", busy, testkit.Epoch)
	}
	for i := range 10 * maxLimits {
		l.Take(fmt.Sprint("@", i%500, ":b"), mustLimit(t, 1, time.Minute+time.Duration(i), 1+r.IntN(5)), testkit.Epoch)
	}
	for i := range l.shards {
		if n := len(l.shards[i].limits); n > maxLimits {
			t.Fatalf("%d limits are kept", n)
		}
	}
	hash := neighboursOf(l, "@busy:b")
	for i := range 3 * maxLimits {
		l.Take(hash, mustLimit(t, 1, time.Hour+time.Duration(i), 1), testkit.Epoch)
	}
	if wait, ok := l.Take("@busy:b", busy, testkit.Epoch); ok || wait > time.Hour || wait < 59*time.Minute {
		t.Errorf("wait %v, allowed %v, want some 1h", wait, ok)
	}
}

// neighboursOf returns another user of a user's shard.
func neighboursOf(l *Limiter, userID string) string {
	shard, _, _ := l.locate(userID, testkit.Epoch)
	for i := 0; ; i++ {
		other := fmt.Sprint("@neighbour", i, ":b")
		if s, _, _ := l.locate(other, testkit.Epoch); s == shard {
			return other
		}
	}
}
