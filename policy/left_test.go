package policy

import (
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

func TestLeftIsWhatMayBeTaken(t *testing.T) {
	limit, err := NewLimit(6, time.Minute, 5)
	if err != nil {
		t.Fatal(err)
	}
	l := NewLimiter(100, testkit.Epoch)
	want := func(at time.Duration, want Left) {
		t.Helper()
		if got := l.Left("@a:hs", limit, testkit.At(at)); got != want {
			t.Errorf("at %v: %+v, want %+v", at, got, want)
		}
	}
	want(0, Left{Events: 5})
	if n := l.Users(); n != 0 {
		t.Errorf("looking made %d users", n)
	}
	for range 2 {
		l.Take("@a:hs", limit, testkit.At(0))
	}
	want(0, Left{Events: 3, Full: 20 * time.Second})
	for range 9 {
		l.Take("@a:hs", limit, testkit.At(0))
	}
	want(0, Left{Wait: 10 * time.Second, Full: 50 * time.Second})
	want(4*time.Second, Left{Wait: 6 * time.Second, Full: 46 * time.Second})
	want(10*time.Second, Left{Events: 1, Full: 40 * time.Second})
	want(time.Minute, Left{Events: 5})
}

// What is seen is what is taken next, also under another limit than before.
func TestLeftAgreesWithTakeUnderAnotherLimit(t *testing.T) {
	few, _ := NewLimit(6, time.Minute, 5)
	many, _ := NewLimit(60, time.Minute, 30)
	l := NewLimiter(100, testkit.Epoch)
	for range 4 {
		l.Take("@a:hs", few, testkit.At(0))
	}
	for _, limit := range []Limit{many, few} {
		left, taken := l.Left("@a:hs", limit, testkit.At(time.Second)).Events, 0
		for ; ; taken++ {
			if _, ok := l.Take("@a:hs", limit, testkit.At(time.Second)); !ok {
				break
			}
		}
		if left != taken {
			t.Errorf("%d were left, and %d could be taken", left, taken)
		}
	}
}

func TestForgetFillsABudgetAndNobodyElses(t *testing.T) {
	limit, _ := NewLimit(1, time.Hour, 1)
	l := NewLimiter(100, testkit.Epoch)
	for _, user := range []string{"@a:hs", "@b:hs"} {
		l.Take(user, limit, testkit.At(0))
	}
	if !l.Forget("@a:hs", testkit.At(0)) || l.Forget("@a:hs", testkit.At(0)) || l.Forget("@c:hs", testkit.At(0)) {
		t.Error("it says something else than it forgot")
	}
	if _, ok := l.Take("@a:hs", limit, testkit.At(0)); !ok {
		t.Error("the budget isn't full again")
	}
	if _, ok := l.Take("@b:hs", limit, testkit.At(0)); ok {
		t.Error("somebody else's budget was filled")
	}
	if l.Forget("@b:hs", testkit.At(2*time.Hour)) {
		t.Error("a budget that is full was used")
	}
}
