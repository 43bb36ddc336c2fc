package policy

import (
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
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

const (
	// maxSpan is how far from now an arrival time may be, 73 years: far from the end
	// of an int64, so that no sum with a clock overflows.
	maxSpan = int64(math.MaxInt64 / 4)

	// maxDebt is how many events a user may be charged for beyond their budget.
	maxDebt = 64

	// maxTimes is the largest n of [Limit.Times], of all calls in a row multiplied.
	maxTimes = 64
)

// NewLimit returns the budget of events per window with the given burst. A
// burst of 0 is as many as events. An error says which number is out of range, and
// the largest that can be computed with, for [Limit.Times] and with a debt too.
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
	// An interval that is too long has few events, so the product doesn't overflow either.
	if longest := maxSpan / (1 + maxDebt); l.interval > longest {
		return Limit{}, fmt.Errorf("a window of %v is too long to refill %d events in: at most %v", window, events,
			time.Duration(longest*int64(events)))
	}
	if most := min(maxSpan/l.interval, maxSpan/maxTimes) - maxDebt; l.burst > most {
		return Limit{}, fmt.Errorf("a burst of %d is too large to be refilled at %d events in %v: at most %d", burst, events, window, most)
	}
	return l, nil
}

// Interval is the time in which one event is refilled.
func (l Limit) Interval() time.Duration { return time.Duration(l.interval) }

// Times returns the budget that n users of this one have together. In all calls in a
// row n is at most maxTimes.
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
//
// A TAT means something only under the limit that it was made with, so that is noted
// beside it. Under another limit, after a reload or in another class, it is made
// anew, see [budget.move].
type Limiter struct {
	epoch      time.Time
	seed       maphash.Seed
	shards     [limiterShards]limiterShard
	overflowed atomic.Uint64
}

const limiterShards = 64

type limiterShard struct {
	mu sync.Mutex // guards all below

	// budgets is keyed by a 64-bit keyed hash. Two users with the same hash would
	// share a budget: with a million users that happens once in 37 million
	// tables, and nobody outside can search for it.
	budgets  map[uint64]budget
	capacity int

	limits  []Limit // that there are budgets under, of this configuration and older ones
	fastest int64   // the shortest interval of them

	overflow  budget
	latest    int64 // up to when events have been judged
	nextSweep int64 // when a full shard is searched for room again
}

// maxLimits is how many limits a shard has budgets under.
const maxLimits = 256

// budget is what is left of one under a limit.
type budget struct {
	tat int64

	// owed is how many events were used under a limit with a larger burst, and don't fit
	// into this one's. They count again under such a limit, so that nobody gains a burst
	// by going back and forth. When tat has passed they are paid, at the rate of
	// the fastest limit.
	owed float32

	limit uint16 // its index in limits

	// announced tells that somebody has been told how long to wait for the next event.
	announced bool
}

// NewLimiter returns a limiter for at most users users, rounded up to one in
// each of its shards. Of now only differences matter.
func NewLimiter(users int, now time.Time) *Limiter {
	l := &Limiter{epoch: now, seed: maphash.MakeSeed()}
	for i := range l.shards {
		shard := &l.shards[i]
		shard.budgets, shard.fastest = make(map[uint64]budget), math.MaxInt64
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

// locate returns a user's shard and hash, and the time as the shards count it.
func (l *Limiter) locate(userID string, now time.Time) (shard *limiterShard, hash uint64, t int64) {
	hash = maphash.String(l.seed, userID)
	return &l.shards[hash%limiterShards], hash, int64(now.Sub(l.epoch))
}

// Take takes one event from the user's budget. If there is none it takes
// nothing and returns how long from now the user must wait for one, more than 0.
func (l *Limiter) Take(userID string, limit Limit, now time.Time) (wait time.Duration, ok bool) {
	shard, hash, t := l.locate(userID, now)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	b, known := shard.find(hash, limit, t)
	if !known && !shard.hasRoom(t, limit) {
		l.overflowed.Add(1)
		shard.overflow = shard.under(limit, shard.overflow)
		return shard.overflow.take(limit, shard.fastest, t)
	}
	announced := b.announced
	if wait, ok = b.take(limit, shard.fastest, t); ok || !announced {
		shard.budgets[hash] = b
	}
	return wait, ok
}

// Charge takes an event that has happened already, and so may lead to a debt: the
// user waits for longer. For a user who finds no room it does nothing.
func (l *Limiter) Charge(userID string, limit Limit, now time.Time) {
	shard, hash, t := l.locate(userID, now)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	b, known := shard.find(hash, limit, t)
	if !known && !shard.hasRoom(t, limit) {
		l.overflowed.Add(1)
		return
	}
	b.use(limit, shard.fastest, t)
	b.tat = min(b.tat, t+(limit.burst+maxDebt)*limit.interval)
	shard.budgets[hash] = b
}

// Wait returns how long from now the user must wait for an event, or 0 if there is one.
// It takes nothing. Who found no room has no budget to wait for: a crowd must not shut
// everybody else out.
func (l *Limiter) Wait(userID string, limit Limit, now time.Time) time.Duration {
	shard, hash, t := l.locate(userID, now)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	b, known := shard.find(hash, limit, t)
	if !known {
		return 0
	}
	wait := b.wait(limit, t)
	if wait > 0 && !b.announced {
		b.announced = true
		shard.budgets[hash] = b
	}
	return wait
}

// wait returns how long from now there will be no event: one conforms if it comes no
// earlier than burst intervals before the arrival time that it would lead to.
func (b budget) wait(limit Limit, now int64) time.Duration {
	return time.Duration(max(0, b.tat-(limit.burst-1)*limit.interval-now))
}

// take takes one event, or returns how long from now there will be none.
func (b *budget) take(limit Limit, fastest, now int64) (wait time.Duration, ok bool) {
	if wait = b.wait(limit, now); wait > 0 {
		b.announced = true
		return wait, false
	}
	b.use(limit, fastest, now)
	return 0, true
}

// use takes one event, whether or not there is one.
func (b *budget) use(limit Limit, fastest, now int64) {
	if b.owed != 0 {
		b.owed = float32(b.owes(fastest, now))
	}
	b.tat = max(b.tat, now) + limit.interval
	b.announced = false
}

// owes returns how much of what is owed is not paid by now.
func (b budget) owes(fastest, now int64) float64 {
	return max(0, float64(b.owed)-float64(max(0, now-b.tat))/float64(fastest))
}

// move makes a budget one under another limit. As many events are used as before, so
// that another limit is neither a new budget nor a reason to wait for the old one:
//
//   - Under a larger burst there are at once as many more events as that is larger.
//   - Under a smaller one no more are used than that has. The rest is owed.
//   - Who has been told to wait doesn't wait for longer than that.
//   - A debt stays as many events.
func (b budget) move(from, to Limit, fastest, now int64) budget {
	inTAT := float64(max(0, b.tat-now)) / float64(from.interval)
	used, debt := inTAT+b.owes(fastest, now), max(0, inTAT-float64(from.burst))
	tat := now + int64(math.Ceil(min(used, float64(to.burst)+debt)*float64(to.interval)))
	if b.announced {
		due := now + int64(b.wait(from, now))
		tat = min(tat, due+(to.burst-1)*to.interval)
	}
	b.tat, b.owed = tat, float32(max(0, used-float64(max(0, tat-now))/float64(to.interval)))
	return b
}

// find returns what is left of a user's budget under a limit, and whether the user is
// known. One who isn't has a full one.
func (s *limiterShard) find(hash uint64, limit Limit, now int64) (b budget, known bool) {
	// An event may be judged late, as of when it came. Before what was used later was
	// used, that would look like a debt.
	s.latest = max(s.latest, now)
	b, known = s.budgets[hash]
	switch {
	case !known:
		return budget{tat: now, limit: s.indexOf(limit)}, false
	case s.limits[b.limit] == limit:
		return b, true
	}
	b = s.under(limit, b)
	s.budgets[hash] = b
	return b, true
}

// under returns a budget under a limit.
func (s *limiterShard) under(limit Limit, b budget) budget {
	from := s.limits[b.limit]
	if from == limit {
		return b
	}
	index := s.indexOf(limit)
	b = b.move(from, limit, s.fastest, s.latest)
	b.limit = index
	return b
}

// indexOf returns a limit's index. If there are too many limits, which takes as many
// reloads, all budgets are moved under this one; its users move theirs back.
func (s *limiterShard) indexOf(limit Limit) uint16 {
	i := slices.Index(s.limits, limit)
	switch {
	case i >= 0:
	case len(s.limits) < maxLimits:
		i = len(s.limits)
		s.limits = append(s.limits, limit)
		s.fastest = min(s.fastest, limit.interval)
	default:
		move := func(b budget) budget {
			b = b.move(s.limits[b.limit], limit, s.fastest, s.latest)
			b.limit = 0
			return b
		}
		for hash, b := range s.budgets {
			s.budgets[hash] = move(b)
		}
		s.overflow = move(s.overflow)
		i, s.limits, s.fastest = 0, []Limit{limit}, limit.interval
	}
	return uint16(i) // below maxLimits
}

// forget forgets the users whose budgets are full.
func (s *limiterShard) forget(now int64) {
	for hash, b := range s.budgets {
		if b.tat <= now && b.owes(s.fastest, now) == 0 {
			delete(s.budgets, hash)
		}
	}
}

// hasRoom reports whether there is a place for another user, perhaps that of one whose
// budget is full. A shard that has none is not searched again within the time of one
// event, or a second, so a crowd can't make each of its requests cost a search.
func (s *limiterShard) hasRoom(now int64, limit Limit) bool {
	if len(s.budgets) < s.capacity {
		return true
	}
	if now < s.nextSweep {
		return false
	}
	s.forget(now)
	if len(s.budgets) < s.capacity {
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
		n += len(l.shards[i].budgets)
		l.shards[i].mu.Unlock()
	}
	return n
}
