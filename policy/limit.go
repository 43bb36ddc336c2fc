package policy

import (
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
)

// Limit is a budget of events: so many in a window, refilled evenly, with at
// most Burst at once.
type Limit struct {
	interval int64 // nanoseconds from one event to the next, rounded up
	burst    int64
}

// maxBurstSpan keeps interval × burst far from the end of an int64, so that no
// sum with a clock overflows.
const maxBurstSpan = int64(math.MaxInt64 / 4)

// NewLimit returns the budget of events per window with the given burst. A
// burst of 0 is as many as events. An error says which number is out of range.
func NewLimit(events int, window time.Duration, burst int) (Limit, error) {
	if events <= 0 {
		return Limit{}, errors.New("a limit needs at least 1 event")
	}
	if window <= 0 {
		return Limit{}, errors.New("a limit's window must be longer than 0")
	}
	if burst < 0 {
		return Limit{}, errors.New("a limit's burst must be at least 1")
	}
	if burst == 0 {
		burst = events
	}
	l := Limit{interval: (int64(window)-1)/int64(events) + 1, burst: int64(burst)}
	if l.interval > maxBurstSpan/l.burst {
		return Limit{}, fmt.Errorf("a burst of %d at %d events in %v would take more than 70 years to refill", burst, events, window)
	}
	return l, nil
}

// Interval is the time in which one event is refilled.
func (l Limit) Interval() time.Duration { return time.Duration(l.interval) }

// Times returns the budget that n users of this one have together.
func (l Limit) Times(n int) Limit {
	return Limit{interval: max(1, l.interval/int64(n)), burst: l.burst * int64(n)}
}

// ParseRate reads "<events>/<window>", such as "6/1m" or "50/s". Windows are
// read by duration; a unit alone means one of it.
func ParseRate(s string, duration func(string) (time.Duration, error)) (events int, window time.Duration, err error) {
	count, span, ok := strings.Cut(s, "/")
	if !ok {
		return 0, 0, fmt.Errorf("%q is no rate: expected <events>/<window>, such as 6/1m", s)
	}
	events, err = strconv.Atoi(count)
	if err != nil {
		return 0, 0, fmt.Errorf("%q is no rate: %q is not a whole number of events", s, count)
	}
	counted := span
	if span != "" && unicode.IsLetter(rune(span[0])) {
		counted = "1" + span
	}
	window, err = duration(counted)
	if err != nil {
		return 0, 0, fmt.Errorf("%q is no rate: %q is not a duration, such as 30s or 1m", s, span)
	}
	return events, window, nil
}

// Limiter keeps what is left of each user's budget. It is safe for use by
// several goroutines.
//
// A user costs one number: the theoretical arrival time (TAT) of the generic
// cell rate algorithm (ITU-T I.371), in integer nanoseconds. A TAT in the past
// is a budget that is full again, the same as that of a user never seen, so only
// such users are forgotten. When all places are taken by users whose budget is
// not full, further users of that shard share one overflow budget of the same
// limit until a place is found: nobody gains by crowding the table, and the
// sum of what passes stays bounded. [Limiter.Overflowed] counts those events.
type Limiter struct {
	epoch      time.Time
	seed       maphash.Seed
	shards     [limiterShards]limiterShard
	overflowed atomic.Uint64
}

const limiterShards = 64

type limiterShard struct {
	mu sync.Mutex // guards all below

	// tats is keyed by a 64-bit keyed hash. Two users with the same hash would
	// share a budget: with a million users that happens once in 37 million
	// tables, and nobody outside can search for it.
	tats     map[uint64]int64
	capacity int

	overflow  int64 // the TAT of the overflow budget
	nextSweep int64 // when a full shard is searched for room again
}

// NewLimiter returns a limiter for at most users users, rounded up to one in
// each of its shards. Of now only differences matter.
func NewLimiter(users int, now time.Time) *Limiter {
	l := &Limiter{epoch: now, seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].tats = make(map[uint64]int64)
	}
	l.Resize(users)
	return l
}

// Resize changes how many users are tracked. Users above a smaller number stay
// until their budgets are full.
func (l *Limiter) Resize(users int) {
	for i := range l.shards {
		shard := &l.shards[i]
		shard.mu.Lock()
		shard.capacity = max(1, users/limiterShards)
		shard.mu.Unlock()
	}
}

// Take takes one event from the user's budget. If there is none it takes
// nothing and returns how long from now the user must wait for one, more than 0.
func (l *Limiter) Take(userID string, limit Limit, now time.Time) (wait time.Duration, ok bool) {
	hash := maphash.String(l.seed, userID)
	shard := &l.shards[hash%limiterShards]
	t := int64(now.Sub(l.epoch))

	shard.mu.Lock()
	defer shard.mu.Unlock()
	tat, known := shard.tats[hash]
	if !known && len(shard.tats) >= shard.capacity && !shard.sweep(t, limit) {
		l.overflowed.Add(1)
		shard.overflow, wait, ok = take(shard.overflow, t, limit)
		return wait, ok
	}
	// A limit that was relaxed since must not make anybody wait for the old one.
	tat, wait, ok = take(min(tat, t+limit.burst*limit.interval), t, limit)
	if ok {
		shard.tats[hash] = tat
	}
	return wait, ok
}

// maxDebt is how many events a user may be charged for beyond their budget.
const maxDebt = 64

// Charge takes an event that has happened already, and so may lead to a debt: the
// user waits for longer. For a user who finds no room it does nothing.
func (l *Limiter) Charge(userID string, limit Limit, now time.Time) {
	hash := maphash.String(l.seed, userID)
	shard := &l.shards[hash%limiterShards]
	t := int64(now.Sub(l.epoch))

	shard.mu.Lock()
	defer shard.mu.Unlock()
	tat, known := shard.tats[hash]
	if !known && len(shard.tats) >= shard.capacity && !shard.sweep(t, limit) {
		l.overflowed.Add(1)
		return
	}
	shard.tats[hash] = min(max(tat, t)+limit.interval, t+(limit.burst+maxDebt)*limit.interval)
}

// Wait returns how long from now a user who is charged must wait for an event, or 0
// if there is one. It takes nothing. Who found no room has no budget to wait for:
// a crowd must not shut everybody else out.
func (l *Limiter) Wait(userID string, limit Limit, now time.Time) time.Duration {
	hash := maphash.String(l.seed, userID)
	shard := &l.shards[hash%limiterShards]
	t := int64(now.Sub(l.epoch))

	shard.mu.Lock()
	defer shard.mu.Unlock()
	_, wait, _ := take(min(shard.tats[hash], t+(limit.burst+maxDebt)*limit.interval), t, limit)
	return wait
}

// take is the algorithm: an event conforms if it comes no earlier than burst
// intervals before the arrival time that it would lead to.
func take(tat, now int64, limit Limit) (newTAT int64, wait time.Duration, ok bool) {
	newTAT = max(tat, now) + limit.interval
	if early := newTAT - limit.burst*limit.interval - now; early > 0 {
		return tat, time.Duration(early), false
	}
	return newTAT, 0, true
}

// sweep forgets the users whose budgets are full and reports whether there is
// room now. A shard that has none is not searched again within the time of one
// event, or a second, so a crowd can't make each of its requests cost a search.
func (s *limiterShard) sweep(now int64, limit Limit) bool {
	if now < s.nextSweep {
		return false
	}
	for hash, tat := range s.tats {
		if tat <= now {
			delete(s.tats, hash)
		}
	}
	if len(s.tats) < s.capacity {
		return true
	}
	s.nextSweep = now + min(limit.interval, int64(time.Second))
	return false
}

// Overflowed returns how many events were charged to an overflow budget.
func (l *Limiter) Overflowed() uint64 { return l.overflowed.Load() }

// Users returns how many users are tracked.
func (l *Limiter) Users() int {
	n := 0
	for i := range l.shards {
		l.shards[i].mu.Lock()
		n += len(l.shards[i].tats)
		l.shards[i].mu.Unlock()
	}
	return n
}
