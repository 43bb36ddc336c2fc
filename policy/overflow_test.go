package policy

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// neighbours returns n users of one shard of l.
func neighbours(l *Limiter, n int) []string {
	var users []string
	for i := 0; len(users) < n; i++ {
		user := fmt.Sprintf("@user%d:hs", i)
		if l.hash(user)%limiterShards == 0 {
			users = append(users, user)
		}
	}
	return users
}

func TestAFullTableForgetsNobodyWhoseBudgetIsNotFull(t *testing.T) {
	limit := mustLimit(t, 1, time.Minute, 1)
	l := NewLimiter(2*limiterShards, testkit.Epoch) // two users a shard
	users := neighbours(l, 50)
	for _, user := range users[:2] {
		if _, ok := l.Take(user, limit, testkit.Epoch); !ok {
			t.Fatalf("%s was refused", user)
		}
	}
	// A crowd comes.
	for _, user := range users[2:] {
		l.Take(user, limit, testkit.At(time.Second))
	}
	for _, user := range users[:2] {
		if wait, ok := l.Take(user, limit, testkit.At(2*time.Second)); ok || wait != 58*time.Second {
			t.Errorf("%s: wait %v, allowed %v: the crowd changed it", user, wait, ok)
		}
	}
	if n := l.Users(); n != 2 {
		t.Errorf("%d users tracked, want 2", n)
	}
	if n := l.Overflowed(); n != 48 {
		t.Errorf("%d events overflowed, want 48", n)
	}
}

func TestTheOverflowBudgetIsShared(t *testing.T) {
	limit := mustLimit(t, 3, time.Minute, 3)
	l := NewLimiter(1, testkit.Epoch) // one user a shard
	users := neighbours(l, 8)
	l.Take(users[0], limit, testkit.Epoch)
	var allowed int
	for _, user := range users[1:] {
		if wait, ok := l.Take(user, limit, testkit.Epoch); ok {
			allowed++
		} else if wait != 20*time.Second {
			t.Errorf("%s: wait %v, want 20s", user, wait)
		}
	}
	if allowed != 3 {
		t.Errorf("%d events passed, want the 3 of one budget", allowed)
	}
	if n := l.Overflowed(); n != 7 {
		t.Errorf("%d events overflowed, want 7", n)
	}
	// The owner of a place is not touched by that.
	for range 2 {
		if _, ok := l.Take(users[0], limit, testkit.Epoch); !ok {
			t.Error("the crowd spent the budget of a known user")
		}
	}
	// Another shard has an overflow budget of its own.
	for i := range 1000 {
		if user := fmt.Sprintf("@other%d:hs", i); l.hash(user)%limiterShards == 1 {
			if _, ok := l.Take(user, limit, testkit.Epoch); !ok {
				t.Error("a user of another shard was refused")
			}
			break
		}
	}
}

func TestFullBudgetsMakeRoom(t *testing.T) {
	limit := mustLimit(t, 1, time.Minute, 1)
	l := NewLimiter(2*limiterShards, testkit.Epoch)
	users := neighbours(l, 5)
	l.Take(users[0], limit, testkit.Epoch)
	l.Take(users[1], limit, testkit.At(30*time.Second))
	if _, ok := l.Take(users[2], limit, testkit.At(time.Minute)); !ok || l.Overflowed() != 0 {
		t.Fatalf("a user whose budget is full again kept the place: allowed %v, %d overflowed", ok, l.Overflowed())
	}
	if wait, ok := l.Take(users[1], limit, testkit.At(time.Minute)); ok || wait != 30*time.Second {
		t.Errorf("a user whose budget is not full was forgotten: wait %v, allowed %v", wait, ok)
	}
	if n := l.Users(); n != 2 {
		t.Errorf("%d users tracked, want 2", n)
	}
	// There is no room now; it is looked for again within one event's time.
	if _, ok := l.Take(users[3], limit, testkit.At(time.Minute)); !ok || l.Overflowed() != 1 {
		t.Errorf("allowed %v, %d overflowed, want the overflow budget", ok, l.Overflowed())
	}
	if _, ok := l.Take(users[4], limit, testkit.At(2*time.Minute)); !ok || l.Overflowed() != 1 {
		t.Errorf("allowed %v, %d overflowed, want a place", ok, l.Overflowed())
	}
}

// While there is no room, a search for it costs all of a shard. A crowd must not
// be able to ask for one with each request.
func TestACrowdDoesNotMakeEachRequestSearch(t *testing.T) {
	limit := mustLimit(t, 1, time.Minute, 1)
	l := NewLimiter(limiterShards, testkit.Epoch)
	users := neighbours(l, 3)
	l.Take(users[0], limit, testkit.Epoch)
	l.Take(users[1], limit, testkit.At(59*time.Second)) // searched in vain
	shard := &l.shards[0]
	if want := int64(60 * time.Second); shard.nextSweep != want {
		t.Fatalf("the next search is at %d, want %d", shard.nextSweep, want)
	}
	shard.nextSweep += int64(time.Second)
	l.Take(users[2], limit, testkit.At(60*time.Second)) // there would be room
	if n := l.Overflowed(); n != 2 {
		t.Errorf("%d events overflowed, want 2", n)
	}
	l.Take(users[2], limit, testkit.At(61*time.Second))
	if n := l.Overflowed(); n != 2 {
		t.Errorf("%d events overflowed after the next search, want 2", n)
	}
}

// Whatever the users do, a shard lets pass what its places and its overflow budget
// hold: nobody gains by crowding it.
func TestWhatPassesIsBounded(t *testing.T) {
	r := testkit.Rand(t)
	for range 50 {
		limit := mustLimit(t, 1+r.IntN(5), time.Duration(1+r.IntN(1000)), 1+r.IntN(4))
		places := 1 + r.IntN(3)
		l := NewLimiter(places*limiterShards, testkit.Epoch)
		users := neighbours(l, 12)
		var now, allowed int64
		for range 1000 {
			if r.IntN(4) == 0 {
				now += r.Int64N(2 * limit.interval)
			}
			if _, ok := l.Take(users[r.IntN(len(users))], limit, testkit.At(time.Duration(now))); ok {
				allowed++
			}
			if n := l.Users(); n > places {
				t.Fatalf("%d users tracked, with %d places", n, places)
			}
		}
		// A place that was given to somebody else was a full budget before.
		if most := int64(places+1) * (limit.burst + now/limit.interval); allowed > most {
			t.Fatalf("%+v, %d places: %d events by %d, want at most %d", limit, places, allowed, now, most)
		}
	}
}

func TestManyUsersNeedNoMoreThanTheirPlaces(t *testing.T) {
	limit := mustLimit(t, 1, time.Minute, 1)
	l := NewLimiter(1000, testkit.Epoch)
	for i := range 200_000 {
		l.Take(fmt.Sprint("@", i, ":hs"), limit, testkit.At(time.Duration(i)*time.Millisecond))
	}
	if n := l.Users(); n > 1000 {
		t.Errorf("%d users tracked, want at most 1000", n)
	}
}

func TestResizeOfALimiterLosesNoBudget(t *testing.T) {
	limit := mustLimit(t, 1, time.Minute, 1)
	l := NewLimiter(4*limiterShards, testkit.Epoch)
	users := neighbours(l, 6)
	for _, user := range users[:4] {
		l.Take(user, limit, testkit.Epoch)
	}
	l.Resize(1)
	for _, user := range users[:4] {
		if _, ok := l.Take(user, limit, testkit.At(time.Second)); ok {
			t.Errorf("%s got a fresh budget by Resize", user)
		}
	}
	if n := l.Users(); n != 4 {
		t.Errorf("%d users tracked, want 4 until their budgets are full", n)
	}
	// When they are, one place is left.
	for _, user := range users[:3] {
		l.Take(user, limit, testkit.At(time.Hour))
	}
	l.Take(users[5], limit, testkit.At(2*time.Hour))
	if n := l.Users(); n != 1 {
		t.Errorf("%d users tracked, want 1", n)
	}
	l.Resize(4 * limiterShards)
	for _, user := range users[:3] {
		l.Take(user, limit, testkit.At(2*time.Hour))
	}
	if n := l.Users(); n != 4 {
		t.Errorf("%d users tracked, want 4 in a table that is larger again", n)
	}
}
