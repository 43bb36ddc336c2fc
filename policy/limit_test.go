package policy

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

func mustLimit(t testing.TB, events int, window time.Duration, burst int) Limit {
	t.Helper()
	limit, err := NewLimit(events, window, burst)
	if err != nil {
		t.Fatal(err)
	}
	return limit
}

// event is a user's event and what a limiter is to say to it.
type event struct {
	at   time.Duration
	wait time.Duration // 0: allowed
}

func TestLimiterAllowsABurstAndThenTheRate(t *testing.T) {
	const s = time.Second
	tests := []struct {
		name   string
		events int
		window time.Duration
		burst  int
		then   []event
	}{
		{"one in ten seconds, as Synapse's rc_presence", 6, time.Minute, 1,
			[]event{{0, 0}, {s / 2, 9500 * time.Millisecond}, {10*s - 1, 1}, {10 * s, 0}, {10 * s, 10 * s}}},
		{"a burst of three", 6, time.Minute, 3,
			[]event{{0, 0}, {0, 0}, {0, 0}, {0, 10 * s}, {10 * s, 0}, {10 * s, 10 * s}, {40 * s, 0}, {40 * s, 0}, {40 * s, 0}, {40 * s, 10 * s}}},
		{"a burst of 0 is as many as events", 2, 10 * s, 0,
			[]event{{0, 0}, {0, 0}, {0, 5 * s}, {5 * s, 0}, {5 * s, 5 * s}}},
		{"refilled evenly, not by windows", 2, 10 * s, 2,
			[]event{{9 * s, 0}, {9 * s, 0}, {10 * s, 4 * s}, {14 * s, 0}, {14 * s, 5 * s}}},
		{"a refusal takes nothing", 1, 10 * s, 1,
			[]event{{0, 0}, {5 * s, 5 * s}, {5 * s, 5 * s}, {9 * s, s}, {10 * s, 0}}},
		{"a rest fills no more than the burst", 1, s, 2,
			[]event{{0, 0}, {1000 * s, 0}, {1000 * s, 0}, {1000 * s, s}}},
		{"a window that does not divide is rounded against the user", 3, 10, 1,
			[]event{{0, 0}, {3, 1}, {4, 0}}},
		{"more events than nanoseconds", 1000, 10, 1,
			[]event{{0, 0}, {0, 1}, {1, 0}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			limit := mustLimit(t, tt.events, tt.window, tt.burst)
			l := NewLimiter(100, testkit.Epoch)
			for i, e := range tt.then {
				if wait, ok := l.Take("@a:b", limit, testkit.At(e.at)); wait != e.wait || ok != (e.wait == 0) {
					t.Fatalf("event %d, at %v: wait %v, allowed %v, want a wait of %v", i, e.at, wait, ok, e.wait)
				}
			}
			if n := l.Users(); n != 1 {
				t.Errorf("%d users tracked, want 1", n)
			}
		})
	}
}

func TestBudgetsAreOneAUser(t *testing.T) {
	limit := mustLimit(t, 1, time.Minute, 1)
	l := NewLimiter(1000, testkit.Epoch)
	for _, userID := range []string{"@a:b", "@A:b", "@a:b ", "", "@a\x00:b"} {
		if _, ok := l.Take(userID, limit, testkit.Epoch); !ok {
			t.Errorf("%q has no budget of its own", userID)
		}
		if _, ok := l.Take(userID, limit, testkit.Epoch); ok {
			t.Errorf("%q has more than its budget", userID)
		}
	}
	if n := l.Users(); n != 5 {
		t.Errorf("%d users tracked, want 5", n)
	}
}

// A limit whose arithmetic overflows was taken, and then was no limit at all. The error
// names the largest number that would do.
func TestLimitsOutOfRangeAreErrors(t *testing.T) {
	for _, tt := range []struct {
		events int
		window time.Duration
		burst  int
		says   string
	}{
		{0, time.Second, 1, "at least 1 event"},
		{-1, time.Second, 1, "at least 1 event"},
		{1, 0, 1, "window"},
		{1, -time.Second, 1, "window"},
		{1, time.Second, -1, "burst"},
		{1, math.MaxInt64, 1, "window of 2562047h47m16.854775807s is too long to refill 1 events in: at most 9854h1m47.83405683s"},
		{1, math.MaxInt64, math.MaxInt, "window"},
		{200, math.MaxInt64, 1, "at most 1970805h59m26.811366s"},
		{1, 10_000 * time.Hour, 1, "window"},
		{1, time.Hour, math.MaxInt, "burst of 9223372036854775807 is too large to be refilled at 1 events in 1h0m0s: at most 640447"},
		{1, time.Hour, 640_448, "burst"},
		{1, 9000 * time.Hour, 8, "at most 7"},
		// With a debt, and as the budget of a network.
		{math.MaxInt, 1, 1 << 55, "at most 36028797018963903"},
		{math.MaxInt, 1, 0, "burst of 9223372036854775807"},
	} {
		if limit, err := NewLimit(tt.events, tt.window, tt.burst); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("NewLimit(%d, %v, %d) = %+v, %v, want an error that says %q", tt.events, tt.window, tt.burst, limit, err, tt.says)
		}
	}
}

// atMost is the number at the end of an error of NewLimit.
func atMost(t *testing.T, err error) string {
	t.Helper()
	_, most, ok := strings.Cut(fmt.Sprint(err), "at most ")
	if !ok {
		t.Fatalf("the error names no largest number: %v", err)
	}
	return most
}

// widest returns limits at the end of what is taken, by what the errors say.
func widest(t *testing.T, r *rand.Rand) []Limit {
	t.Helper()
	var limits []Limit
	for _, events := range []int{1, 2, 64, 1 + r.IntN(200)} {
		_, err := NewLimit(events, math.MaxInt64, 1)
		window, err := time.ParseDuration(atMost(t, err))
		if err != nil {
			t.Fatal(err)
		}
		limits = append(limits, mustLimit(t, events, window, 1))
		if _, err := NewLimit(events, window+time.Duration(events), 1); err == nil {
			t.Errorf("%d events in more than %v are taken", events, window)
		}
	}
	for _, window := range []time.Duration{1, 7, 8, 63, 64, 65, time.Second, time.Hour, time.Duration(1 + r.Int64N(int64(8000*time.Hour)))} {
		_, err := NewLimit(1, window, math.MaxInt)
		burst, err := strconv.Atoi(atMost(t, err))
		if err != nil {
			t.Fatal(err)
		}
		limits = append(limits, mustLimit(t, 1, window, burst))
		if _, err := NewLimit(1, window, burst+1); err == nil {
			t.Errorf("a burst of more than %d in %v is taken", burst, window)
		}
	}
	return limits
}

// The widest limits that are taken must not overflow: not decades after the start, not
// as the budget of a network of clients, not with the largest debt, and not when one takes
// the place of another.
func TestTheWidestLimitsDoNotOverflow(t *testing.T) {
	const decade = 10 * 365 * 24 * time.Hour
	r := testkit.Rand(t)
	var limits []Limit
	for _, limit := range widest(t, r) {
		for _, times := range []int{1, 8, maxTimes} {
			many := limit.Times(times)
			if many.burst != limit.burst*int64(times) || many.burst/int64(times) != limit.burst || many.interval < 1 || many.interval > limit.interval {
				t.Errorf("%d times %+v is %+v", times, limit, many)
			}
			limits = append(limits, many, limit.Times(8).Times(max(1, times/8)))
		}
	}
	for _, limit := range limits {
		if debt := new(big.Int).Mul(big.NewInt(limit.burst+MaxDebt), big.NewInt(limit.interval)); debt.Cmp(big.NewInt(maxSpan)) > 0 {
			t.Errorf("%+v with a debt spans %v", limit, debt)
		}
		for _, now := range []time.Time{testkit.Epoch, testkit.At(decade), testkit.At(7 * decade)} {
			l, model := NewLimiter(1, testkit.Epoch), bucket{limit: limit, level: limit.burst * limit.interval}
			for i := range 5 {
				wait, ok := l.Take("@a:b", limit, now)
				if want, wantOK := model.take(0); wait != want || ok != wantOK {
					t.Errorf("%+v at %v, event %d: wait %v, allowed %v, want %v, %v", limit, now, i, wait, ok, want, wantOK)
				}
			}
			l = NewLimiter(1, testkit.Epoch)
			for range min(limit.burst, 10) + 2*MaxDebt {
				l.Charge("@a:b", limit, now)
			}
			if wait := l.Wait("@a:b", limit, now); wait < 0 || limit.burst <= 10 && wait != time.Duration((MaxDebt+1)*limit.interval) {
				t.Errorf("%+v at %v: the debt takes %v", limit, now, wait)
			}
			for range 20 {
				other := limits[r.IntN(len(limits))]
				// What floating-point numbers lose of seventy years is less than a microsecond.
				if wait := l.Wait("@a:b", other, now); wait < 0 || wait > time.Duration((MaxDebt+1)*other.interval)+time.Microsecond {
					t.Errorf("%+v after %+v at %v: wait %v", other, limit, now, wait)
				}
				l.Charge("@a:b", other, now)
			}
		}
	}
}

// bucket is the slow model: a bucket of burst intervals' worth of nanoseconds that
// fills with time, and from which an event takes one interval.
type bucket struct {
	level, last int64
	limit       Limit
}

func (b *bucket) take(now int64) (wait time.Duration, ok bool) {
	b.level, b.last = min(b.limit.burst*b.limit.interval, b.level+now-b.last), now
	if b.level < b.limit.interval {
		return time.Duration(b.limit.interval - b.level), false
	}
	b.level -= b.limit.interval
	return 0, true
}

func randomLimit(t *testing.T, r *rand.Rand) Limit {
	return mustLimit(t, 1+r.IntN(20), time.Duration(1+r.Int64N(int64(testkit.Pick(r, 50, time.Second, time.Hour)))), r.IntN(6))
}

func TestLimiterAgreesWithABucket(t *testing.T) {
	r := testkit.Rand(t)
	for range 500 {
		limit := randomLimit(t, r)
		l, model := NewLimiter(10, testkit.Epoch), bucket{limit: limit, level: limit.burst * limit.interval}
		var now int64
		var wait time.Duration
		for step := range 60 {
			switch r.IntN(4) {
			case 0: // at once again
			case 1:
				now += int64(wait) // not too early,
			case 2:
				now += max(0, int64(wait)-1) // or by one nanosecond
			default:
				now += r.Int64N(3*limit.interval + 1)
			}
			got, ok := l.Take("@a:b", limit, testkit.At(time.Duration(now)))
			want, wantOK := model.take(now)
			if got != want || ok != wantOK {
				t.Fatalf("%+v, step %d at %d: wait %v, allowed %v, want %v, %v", limit, step, now, got, ok, want, wantOK)
			}
			wait = got
		}
	}
}

func TestAWaitIsNeitherTooShortNorTooLong(t *testing.T) {
	r := testkit.Rand(t)
	for range 2000 {
		limit, now := randomLimit(t, r), testkit.Epoch
		l := NewLimiter(10, testkit.Epoch)
		var wait time.Duration
		for ok := true; ok; wait, ok = l.Take("@a:b", limit, now) {
			now = now.Add(time.Duration(r.Int64N(limit.interval)))
		}
		if again, ok := l.Take("@a:b", limit, now.Add(wait-1)); ok || again != 1 {
			t.Fatalf("%+v: after %v less a nanosecond: wait %v, allowed %v", limit, wait, again, ok)
		}
		if _, ok := l.Take("@a:b", limit, now.Add(wait)); !ok {
			t.Fatalf("%+v: refused after the wait of %v", limit, wait)
		}
	}
}

func TestAClockThatGoesBackGivesNoBudget(t *testing.T) {
	r := testkit.Rand(t)
	for range 500 {
		limit := randomLimit(t, r)
		l := NewLimiter(10, testkit.Epoch)
		var latest, allowed int64
		for range 200 {
			now := r.Int64N(4*limit.interval + 1)
			latest = max(latest, now)
			if _, ok := l.Take("@a:b", limit, testkit.At(time.Duration(now))); ok {
				allowed++
			}
		}
		if most := limit.burst + latest/limit.interval; allowed > most {
			t.Fatalf("%+v: %d events by %d, want at most %d", limit, allowed, latest, most)
		}
	}
}

func TestParseRate(t *testing.T) {
	const s = time.Second
	for _, tt := range []struct {
		rate   string
		events int
		window time.Duration
	}{
		{"6/1m", 6, time.Minute}, {"50/s", 50, s}, {"50/1s", 50, s}, {"1/h", 1, time.Hour}, {"1/ms", 1, time.Millisecond},
		{"1/1m30s", 1, 90 * s}, {"1/1.5s", 1, 1500 * time.Millisecond}, {"10/0.5m", 10, 30 * s}, {"10/.5m", 10, 30 * s},
	} {
		events, window, err := ParseRate(tt.rate, time.ParseDuration)
		if err != nil || events != tt.events || window != tt.window {
			t.Errorf("ParseRate(%q) = %d, %v, %v, want %d, %v", tt.rate, events, window, err, tt.events, tt.window)
		}
	}
	for _, rate := range []string{
		"", "6", "/", "6/", "/1m", "six/1m", "6/1", "6/minute", "6/1m/1m", "6.5/1m", "6 /1m", "6/ 1m", "99999999999999999999/1m",
	} {
		_, _, err := ParseRate(rate, time.ParseDuration)
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", rate)) {
			t.Errorf("ParseRate(%q) = %v, want an error that quotes it", rate, err)
		}
	}
	// The error names what was written, not what was made of it.
	if _, _, err := ParseRate("6/fortnight", time.ParseDuration); err == nil || !strings.Contains(err.Error(), `"fortnight"`) {
		t.Errorf("an unknown unit: %v", err)
	}
	own := func(s string) (time.Duration, error) {
		if s != "1d" {
			return 0, errors.New("unknown")
		}
		return 24 * time.Hour, nil
	}
	if _, window, err := ParseRate("3/d", own); err != nil || window != 24*time.Hour {
		t.Errorf("ParseRate with another duration: %v, %v", window, err)
	}
}

// Parallel events of few users at one moment: as many pass as the burst holds.
func TestLimiterRace(t *testing.T) {
	limit := mustLimit(t, 1, time.Hour, 50)
	l := NewLimiter(1000, testkit.Epoch)
	var allowed [4]atomic.Int64
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := range 400 {
				user := (worker + i) % len(allowed)
				if _, ok := l.Take(fmt.Sprint("@", user, ":b"), limit, testkit.Epoch); ok {
					allowed[user].Add(1)
				}
				if i%100 == 0 {
					l.Resize(500 + i)
					l.Users()
				}
			}
		})
	}
	all.Wait()
	for user := range allowed {
		if n := allowed[user].Load(); n != 50 {
			t.Errorf("user %d: %d events passed, want 50", user, n)
		}
	}
}

func BenchmarkLimiterTake(b *testing.B) {
	users := make([]string, 10_000)
	for i := range users {
		users[i] = fmt.Sprintf("@user%d:example.com", i)
	}
	limit := mustLimit(b, 50, time.Second, 200)
	b.Run("allowed", func(b *testing.B) {
		l, i := NewLimiter(20_000, testkit.Epoch), 0
		b.ReportAllocs()
		for b.Loop() {
			l.Take(users[i%len(users)], limit, testkit.At(time.Duration(i)*time.Millisecond))
			i++
		}
	})
	b.Run("refused", func(b *testing.B) {
		l := NewLimiter(20_000, testkit.Epoch)
		b.ReportAllocs()
		for b.Loop() {
			l.Take(users[0], limit, testkit.Epoch)
		}
	})
	b.Run("overflow", func(b *testing.B) {
		l, i := NewLimiter(limiterShards, testkit.Epoch), 0
		b.ReportAllocs()
		for b.Loop() {
			l.Take(users[i%len(users)], limit, testkit.Epoch)
			i++
		}
	})
}

// A charge is for what has happened already, so it may lead to a debt that has to be
// waited for; a limit of which many are used up at once holds over time.
func TestChargesBeyondTheBudgetArePaid(t *testing.T) {
	limit := mustLimit(t, 1, time.Second, 3)
	l := NewLimiter(1000, testkit.Epoch)
	for i := range 10 {
		if wait := l.Wait("a", limit, testkit.Epoch); (wait > 0) != (i >= 3) {
			t.Errorf("after %d charges the wait is %v", i, wait)
		}
		l.Charge("a", limit, testkit.Epoch)
	}
	if wait := l.Wait("a", limit, testkit.Epoch); wait != 8*time.Second {
		t.Errorf("after 10 charges of 3 the wait is %v, want 8s", wait)
	}
	for range 1000 {
		l.Charge("a", limit, testkit.Epoch)
	}
	if wait := l.Wait("a", limit, testkit.Epoch); wait != (MaxDebt+1)*time.Second {
		t.Errorf("the longest wait is %v, want %v", wait, (MaxDebt+1)*time.Second)
	}
	if wait := l.Wait("b", limit, testkit.Epoch); wait != 0 {
		t.Errorf("another waits %v", wait)
	}
}

func TestWhoFindsNoRoomHasNothingToWaitFor(t *testing.T) {
	limit := mustLimit(t, 1, time.Hour, 1)
	l := NewLimiter(1, testkit.Epoch)
	for i := range 10 * limiterShards {
		l.Charge(fmt.Sprint(i), limit, testkit.Epoch)
	}
	if users := l.Users(); users > limiterShards {
		t.Errorf("%d users in %d places", users, limiterShards)
	}
	if wait := l.Wait("another", limit, testkit.Epoch); wait != 0 {
		t.Errorf("a newcomer waits %v", wait)
	}
}
