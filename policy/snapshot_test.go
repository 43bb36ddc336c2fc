package policy

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// restarted returns a limiter that has been restored from a snapshot of another at a moment, so much
// later. It is as if it had begun at another time.
func restarted(t testing.TB, l *Limiter, users int, at, later time.Time) *Limiter {
	t.Helper()
	saved, err := ReadBudgets(l.Save(nil, at))
	if err != nil {
		t.Fatal(err)
	}
	fresh := NewLimiter(users, later.Add(-time.Hour))
	fresh.Rekey(l.key)
	fresh.Restore(saved, later.Sub(at), later)
	return fresh
}

func TestBudgetsSurviveARestart(t *testing.T) {
	limit := mustLimit(t, 6, time.Minute, 5)
	l := NewLimiter(100, testkit.Epoch)
	for range 5 {
		l.Take("@used:hs", limit, testkit.Epoch)
	}
	l.Take("@full:hs", limit, testkit.Epoch)
	later := testkit.At(25 * time.Second)
	fresh := restarted(t, l, 100, testkit.At(5*time.Second), later)
	if got, want := fresh.Left("@used:hs", limit, later), (Left{Events: 2, Full: 25 * time.Second}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if n := fresh.Users(); n != 1 {
		t.Errorf("%d users were taken over, want only those whose budget isn't full", n)
	}
}

// What a user takes before the snapshot is read counts too: a restart is no second budget.
func TestWhatIsUsedMeanwhileCounts(t *testing.T) {
	limit := mustLimit(t, 6, time.Minute, 5)
	l := NewLimiter(100, testkit.Epoch)
	for range 3 {
		l.Take("@a:hs", limit, testkit.Epoch)
	}
	saved, err := ReadBudgets(l.Save(nil, testkit.Epoch))
	if err != nil {
		t.Fatal(err)
	}
	fresh := NewLimiter(100, testkit.Epoch)
	fresh.Rekey(l.key)
	for range 4 {
		fresh.Take("@a:hs", limit, testkit.Epoch)
	}
	fresh.Restore(saved, 0, testkit.Epoch)
	if got, want := fresh.Left("@a:hs", limit, testkit.Epoch), (Left{Wait: 30 * time.Second, Full: 70 * time.Second}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestALimitThatHasChangedOverARestart(t *testing.T) {
	few, many := mustLimit(t, 6, time.Minute, 5), mustLimit(t, 60, time.Minute, 30)
	for name, limits := range map[string][2]Limit{"raised": {few, many}, "lowered": {many, few}} {
		l := NewLimiter(100, testkit.Epoch)
		for range 5 {
			l.Take("@a:hs", limits[0], testkit.Epoch)
		}
		fresh := restarted(t, l, 100, testkit.Epoch, testkit.At(time.Second))
		want := l.Left("@a:hs", limits[1], testkit.At(time.Second)) // as after a reload
		if got := fresh.Left("@a:hs", limits[1], testkit.At(time.Second)); got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}

// randomUse plays some requests of some users under some limits.
func randomUse(r *rand.Rand, l *Limiter, limits []Limit, now time.Time) time.Time {
	for range r.IntN(200) {
		now = now.Add(time.Duration(r.ExpFloat64() * float64(time.Second)))
		user, limit := fmt.Sprintf("@user%d:hs", r.IntN(20)), testkit.Pick(r, limits...)
		switch r.IntN(8) {
		case 0:
			l.Charge(user, limit, now)
		case 1:
			l.Wait(user, limit, now)
		default:
			l.Take(user, limit, now)
		}
	}
	return now
}

// After any history a restart leaves everybody what they would have without one.
func TestARestartChangesNoBudget(t *testing.T) {
	r := testkit.Rand(t)
	limits := []Limit{
		mustLimit(t, 6, time.Minute, 5), mustLimit(t, 60, time.Minute, 3), mustLimit(t, 1, time.Hour, 1), mustLimit(t, 100, time.Second, 500),
	}
	for range 300 {
		some := limits[:1+r.IntN(len(limits))]
		size := testkit.Pick(r, 1, 1000)
		l := NewLimiter(size, testkit.Epoch)
		at := randomUse(r, l, some, testkit.At(time.Minute))
		later := at.Add(time.Duration(r.IntN(3)) * time.Duration(r.IntN(100)) * time.Second)
		fresh := restarted(t, l, size, at, later)
		for i := range 20 {
			user, limit := fmt.Sprintf("@user%d:hs", i), testkit.Pick(r, some...)
			want, got := l.Left(user, limit, later), fresh.Left(user, limit, later)
			if len(some) == 1 && got != want || got.Events > want.Events || got.Wait < want.Wait || got.Full < want.Full {
				t.Fatalf("%s has %+v left, and without a restart %+v", user, got, want)
			}
		}
		if len(some) > 1 {
			continue
		}
		for range 50 { // also who has no place of their own
			later = later.Add(time.Duration(r.IntN(5)) * time.Second)
			user := fmt.Sprintf("@user%d:hs", r.IntN(30))
			_, want := l.Take(user, some[0], later)
			if _, got := fresh.Take(user, some[0], later); got != want {
				t.Fatalf("%s may: %v, and without a restart: %v", user, got, want)
			}
		}
	}
}

func TestASnapshotOfManyFindsNoMorePlacesThanThereAre(t *testing.T) {
	limit := mustLimit(t, 1, time.Hour, 5)
	l := NewLimiter(10_000, testkit.Epoch)
	for i := range 10_000 {
		l.Take(fmt.Sprintf("@user%d:hs", i), limit, testkit.Epoch)
	}
	if size := len(l.Save(nil, testkit.Epoch)); size > MaxSaved(10_000) {
		t.Errorf("%d bytes, and %d are said to be the most", size, MaxSaved(10_000))
	}
	if n := restarted(t, l, 1000, testkit.Epoch, testkit.Epoch).Users(); n > 1000 || n < 900 {
		t.Errorf("%d users have 1000 places", n)
	}
}

// FuzzReadBudgets reads what somebody may have written, and takes it over: budgets are budgets then.
func FuzzReadBudgets(f *testing.F) {
	limit, err := NewLimit(6, time.Minute, 5)
	if err != nil {
		f.Fatal(err)
	}
	l := NewLimiter(100, testkit.Epoch)
	f.Add(l.Save(nil, testkit.Epoch), int64(0))
	for i := range 9 {
		l.Take(fmt.Sprintf("@user%d:hs", i%3), limit, testkit.Epoch)
	}
	l.Charge("@user1:hs", limit.Times(3), testkit.Epoch)
	f.Add(l.Save(nil, testkit.Epoch), int64(time.Second))
	f.Fuzz(func(t *testing.T, b []byte, elapsed int64) {
		saved, err := ReadBudgets(b)
		if err != nil {
			return
		}
		l := NewLimiter(10, testkit.Epoch)
		l.Restore(saved, time.Duration(elapsed), testkit.Epoch)
		for i := range 3 {
			user := fmt.Sprintf("@user%d:hs", i)
			most := time.Duration((limit.burst + MaxDebt) * limit.interval)
			if left := l.Left(user, limit, testkit.Epoch); left.Events < 0 || left.Events > limit.Burst() || left.Wait < 0 || left.Wait > most {
				t.Errorf("%+v are left", left)
			}
			l.Take(user, limit, testkit.Epoch)
		}
		again, err := ReadBudgets(l.Save(nil, testkit.Epoch))
		if err != nil || len(again.users) > len(saved.users)+3 {
			t.Errorf("saved again: %d users, %v", len(again.users), err)
		}
	})
}
