package policy

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

func TestTopLimited(t *testing.T) {
	limited := NewTopLimited(2, testkit.At(0))
	for _, userID := range []string{"@a:x", "@b:x", "@a:x", "@c:x", "@c:x"} {
		limited.Add(userID)
	}
	// c took the counter of b over, who had caused one event.
	want := []LimitedUser{{"@c:x", 2, 3}, {"@a:x", 2, 2}}
	got, total, since := limited.Top()
	if !reflect.DeepEqual(got, want) || total != 5 || !since.Equal(testkit.At(0)) {
		t.Errorf("got %v of %d since %v, want %v of 5", got, total, since, want)
	}

	limited.Reset(testkit.At(time.Hour))
	if got, total, since := limited.Top(); len(got) != 0 || total != 0 || !since.Equal(testkit.At(time.Hour)) {
		t.Errorf("after a reset: %v of %d since %v", got, total, since)
	}
	limited.Add("@b:x")
	if got, total, _ := limited.Top(); !reflect.DeepEqual(got, []LimitedUser{{"@b:x", 1, 1}}) || total != 1 {
		t.Errorf("after a reset and an event: %v of %d", got, total)
	}
}

// The laws of the sketch, against exact counts of streams of all shapes: a few loud
// users in a crowd, everybody alike, and a new user each time.
func TestTopLimitedKeepsItsBounds(t *testing.T) {
	random := testkit.Rand(t)
	for range 300 {
		capacity, crowd := 1+random.IntN(20), 1+random.IntN(200)
		skew := testkit.Pick(random, 0, 1, 2, 4)
		limited, exact := NewTopLimited(capacity, testkit.Epoch), make(map[string]uint64)
		events := random.IntN(2000)
		for n := range events {
			userID := fmt.Sprintf("@%d:x", skewed(random, crowd, skew))
			if skew == 4 && random.IntN(2) == 0 {
				userID = fmt.Sprintf("@new%d:x", n)
			}
			limited.Add(userID)
			exact[userID]++
		}

		top, total, _ := limited.Top()
		if total != uint64(events) || len(top) > capacity || len(top) != min(capacity, len(exact)) {
			t.Fatalf("%d users of %d for %d events, %d counted, room for %d", len(top), len(exact), events, total, capacity)
		}
		listed, sum := make(map[string]bool), uint64(0)
		for i, one := range top {
			if n := exact[one.UserID]; one.AtLeast > n || n > one.AtMost || one.AtLeast == 0 {
				t.Fatalf("%s: %d events are not between %d and %d", one.UserID, n, one.AtLeast, one.AtMost)
			}
			if one.AtMost-one.AtLeast > total/uint64(capacity) {
				t.Fatalf("%s: %d to %d of %d events with room for %d", one.UserID, one.AtLeast, one.AtMost, total, capacity)
			}
			if i > 0 && one.AtMost > top[i-1].AtMost {
				t.Fatalf("not in order: %v", top)
			}
			listed[one.UserID] = true
			sum += one.AtMost
		}
		if sum != total {
			t.Fatalf("the counts make %d, not %d", sum, total)
		}
		for userID, n := range exact {
			if n > total/uint64(capacity) && !listed[userID] {
				t.Fatalf("%s is missing with %d of %d events and room for %d", userID, n, total, capacity)
			}
		}
	}
}

// skewed draws a number below n, the smaller ones the more often the larger skew is.
func skewed(random *rand.Rand, n, skew int) int {
	for range skew {
		n = 1 + random.IntN(n)
	}
	return random.IntN(n)
}

func TestTopLimitedOfSeveralGoroutines(t *testing.T) {
	limited := NewTopLimited(3, testkit.Epoch)
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			for i := range 500 {
				limited.Add(fmt.Sprintf("@%d:x", i%(n+1)))
				if i%100 == 0 {
					limited.Top()
				}
			}
		})
	}
	wg.Wait()
	var true0 uint64 // how often it was @0:x
	for n := range uint64(8) {
		true0 += (500 + n) / (n + 1)
	}
	top, total, _ := limited.Top()
	if total != 8*500 || len(top) != 3 {
		t.Errorf("got %v of %d events", top, total)
	}
	// More than a third of all, so it is there, whatever the order was in which they came.
	at := slices.IndexFunc(top, func(one LimitedUser) bool { return one.UserID == "@0:x" })
	if at < 0 || top[at].AtLeast > true0 || top[at].AtMost < true0 {
		t.Errorf("got %v, want @0:x with %d", top, true0)
	}
}

func TestTopLimitedAllocatesNothingForKnownUsers(t *testing.T) {
	limited := NewTopLimited(100, testkit.Epoch)
	users := make([]string, 100)
	for i := range users {
		users[i] = fmt.Sprintf("@%d:x", i)
		limited.Add(users[i])
	}
	n := 0
	if allocs := testing.AllocsPerRun(1000, func() { limited.Add(users[n%100]); n++ }); allocs != 0 {
		t.Errorf("%v allocations an event", allocs)
	}
}

func BenchmarkTopLimited(b *testing.B) {
	for name, crowd := range map[string]int{"known": 100, "crowd": 100_000} {
		b.Run(name, func(b *testing.B) {
			users := make([]string, crowd)
			for i := range users {
				users[i] = fmt.Sprintf("@user%06d:example.com", i)
			}
			limited, i := NewTopLimited(100, testkit.Epoch), 0
			b.ReportAllocs()
			for b.Loop() {
				limited.Add(users[i%crowd])
				i++
			}
		})
	}
}
