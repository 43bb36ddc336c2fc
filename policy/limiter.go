package policy

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// Limiter keeps what is left of each user's budget. It is safe for use by
// several goroutines.
//
// A user costs one number, 56 bytes with its place in the table: the theoretical arrival time (TAT)
// of the generic cell rate algorithm (ITU-T I.371), in integer nanoseconds. A TAT in the past
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
	key        [LimiterKeySize]byte // of the hash of users
	shards     [limiterShards]limiterShard
	overflowed atomic.Uint64
}

const limiterShards = 64

// LimiterKeySize is the size in bytes of a limiter's key. It leaves room for most user IDs in one block of SHA-256.
const LimiterKeySize = 16

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

// NewLimiter returns a limiter for at most users users, rounded up to one in
// each of its shards. Of now only differences matter.
func NewLimiter(users int, now time.Time) *Limiter {
	l := &Limiter{epoch: now}
	rand.Read(l.key[:]) // never fails, see crypto/rand
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

// Rekey has users kept under a key that was kept, so that a snapshot made under it can be read.
// It must be called before the limiter is used.
func (l *Limiter) Rekey(key [LimiterKeySize]byte) { l.key = key }

// hash is the keyed hash of a user. It is one that a snapshot can keep the key of.
func (l *Limiter) hash(userID string) uint64 {
	var buffer [LimiterKeySize + matrix.MaxUserID]byte
	sum := sha256.Sum256(append(append(buffer[:0], l.key[:]...), userID...))
	return binary.BigEndian.Uint64(sum[:])
}

// locate returns a user's shard and hash, and the time as the shards count it.
func (l *Limiter) locate(userID string, now time.Time) (shard *limiterShard, hash uint64, t int64) {
	hash = l.hash(userID)
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
	b.tat = min(b.tat, t+(limit.burst+MaxDebt)*limit.interval)
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
