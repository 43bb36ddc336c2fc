package policy

import (
	"encoding/binary"
	"errors"
	"math"
	"time"
)

// A snapshot keeps budgets over a restart. It has each of them as it is: when the budget is full
// again, counted from the moment of the snapshot, and under which limit that was made. Users are
// in it by the same keyed hash as in the table, so only a limiter with the same key can use it.

// Budgets are those of a snapshot.
type Budgets struct {
	limits []Limit
	users  []savedBudget
}

// savedBudget is what was left of somebody's budget.
type savedBudget struct {
	hash  uint64
	ahead int64 // tat, from the moment of the snapshot on
	owed  float32
	limit uint16 // its index in limits
	flags uint8
}

// The flags of a saved budget.
const (
	savedAnnounced = 1 << iota // see budget
	savedOverflow              // it is the overflow budget of the shard that the hash names
)

func (b savedBudget) isOverflow() bool { return b.flags&savedOverflow != 0 }

// savedBudgetSize and savedLimitSize are bytes in a snapshot.
const (
	savedBudgetSize = 8 + 8 + 4 + 2 + 1
	savedLimitSize  = 8 + 8
)

// MaxSaved is the size in bytes of the largest snapshot of so many users' budgets.
func MaxSaved(users int) int {
	return 2 + limiterShards*maxLimits*savedLimitSize + 4 + (max(limiterShards, users)+limiterShards)*savedBudgetSize
}

// Save appends the budgets that aren't full to b.
func (l *Limiter) Save(b []byte, now time.Time) []byte {
	var saved Budgets
	for i := range l.shards {
		l.shards[i].save(&saved, uint64(i), int64(now.Sub(l.epoch)))
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(saved.limits))) //nolint:gosec // G115: at most limiterShards*maxLimits
	for _, limit := range saved.limits {
		b = binary.BigEndian.AppendUint64(b, uint64(limit.interval)) //nolint:gosec // G115: above 0
		b = binary.BigEndian.AppendUint64(b, uint64(limit.burst))    //nolint:gosec // G115: above 0
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(saved.users))) //nolint:gosec // G115: a table's size
	for _, u := range saved.users {
		b = binary.BigEndian.AppendUint64(b, u.hash)
		b = binary.BigEndian.AppendUint64(b, uint64(u.ahead)) //nolint:gosec // G115: read back as it is
		b = binary.BigEndian.AppendUint32(b, math.Float32bits(u.owed))
		b = binary.BigEndian.AppendUint16(b, u.limit)
		b = append(b, u.flags)
	}
	return b
}

// save adds a shard's budgets.
func (s *limiterShard) save(saved *Budgets, index uint64, now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	indices := make(map[uint16]uint16) // of its limits in saved
	add := func(hash uint64, b budget, flags uint8) {
		if b.tat <= now && b.owes(s.fastest, now) == 0 {
			return // it is full
		}
		limit, ok := indices[b.limit]
		if !ok {
			limit = saved.indexOf(s.limits[b.limit])
			indices[b.limit] = limit
		}
		if b.announced {
			flags |= savedAnnounced
		}
		saved.users = append(saved.users, savedBudget{hash: hash, ahead: b.tat - now, owed: b.owed, limit: limit, flags: flags})
	}
	for hash, b := range s.budgets {
		add(hash, b, 0)
	}
	if len(s.limits) > 0 {
		add(index, s.overflow, savedOverflow)
	}
}

// indexOf returns a limit's index.
func (b *Budgets) indexOf(limit Limit) uint16 {
	for i, other := range b.limits {
		if other == limit {
			return uint16(i)
		}
	}
	b.limits = append(b.limits, limit)
	return uint16(len(b.limits) - 1) //nolint:gosec // G115: at most limiterShards*maxLimits
}

// errBudgets says that what should be budgets is something else.
var errBudgets = errors.New("the budgets can't be read")

// ReadBudgets reads what [Limiter.Save] wrote, which must be all of b.
func ReadBudgets(b []byte) (read Budgets, err error) {
	if len(b) < 2 {
		return Budgets{}, errBudgets
	}
	n := int(binary.BigEndian.Uint16(b))
	if b = b[2:]; len(b) < n*savedLimitSize+4 {
		return Budgets{}, errBudgets
	}
	for range n {
		limit := Limit{interval: int64(binary.BigEndian.Uint64(b)), burst: int64(binary.BigEndian.Uint64(b[8:]))} //nolint:gosec // G115: checked
		if !limit.isComputable() {
			return Budgets{}, errBudgets
		}
		read.limits = append(read.limits, limit)
		b = b[savedLimitSize:]
	}
	users := int(binary.BigEndian.Uint32(b))
	if b = b[4:]; len(b) != users*savedBudgetSize {
		return Budgets{}, errBudgets
	}
	read.users = make([]savedBudget, 0, users)
	for range users {
		u, ok := read.user(b)
		if !ok {
			return Budgets{}, errBudgets
		}
		read.users = append(read.users, u)
		b = b[savedBudgetSize:]
	}
	return read, nil
}

// user reads a user's budget, and reports false if it is none that there can be.
func (b *Budgets) user(text []byte) (u savedBudget, ok bool) {
	u = savedBudget{
		hash:  binary.BigEndian.Uint64(text),
		ahead: int64(binary.BigEndian.Uint64(text[8:])), //nolint:gosec // G115: checked
		owed:  math.Float32frombits(binary.BigEndian.Uint32(text[16:])),
		limit: binary.BigEndian.Uint16(text[20:]),
		flags: text[22],
	}
	switch {
	case int(u.limit) >= len(b.limits), u.flags&^(savedAnnounced|savedOverflow) != 0,
		u.ahead < -maxSpan || u.ahead > maxSpan, !(u.owed >= 0) || math.IsInf(float64(u.owed), 1),
		u.isOverflow() && u.hash >= limiterShards:
		return savedBudget{}, false
	}
	return u, true
}

// isComputable tells of a limit that no sum with it overflows, with a debt too.
func (l Limit) isComputable() bool {
	return l.interval > 0 && l.burst > 0 && l.burst <= maxSpan/l.interval-MaxDebt
}

// Restore takes budgets over from a snapshot that was made so long ago. What has been used meanwhile
// counts too. Users who find no place are left out. It returns how many were taken over.
func (l *Limiter) Restore(saved Budgets, elapsed time.Duration, now time.Time) (users int) {
	t, ago := int64(now.Sub(l.epoch)), min(max(0, int64(elapsed)), maxSpan)
	for _, u := range saved.users {
		shard := &l.shards[u.hash%limiterShards]
		if shard.restore(u, saved.limits[u.limit], u.ahead-ago, t) && !u.isOverflow() {
			users++
		}
	}
	return users
}

// restore takes a budget over whose arrival time is so far ahead. It reports false if it is full by now, or
// there is no place for it.
func (s *limiterShard) restore(u savedBudget, limit Limit, ahead, now int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest = max(s.latest, now)
	b := budget{
		tat: now + min(ahead, (limit.burst+MaxDebt)*limit.interval), owed: u.owed,
		limit: s.indexOf(limit), announced: u.flags&savedAnnounced != 0,
	}
	if b.tat <= now && b.owes(s.fastest, now) == 0 {
		return false
	}
	if u.isOverflow() {
		if s.overflow != (budget{}) {
			b = s.together(s.overflow, b, now)
		}
		s.overflow = b
		return true
	}
	live, known := s.budgets[u.hash]
	switch {
	case known:
		b = s.together(live, b, now)
	case len(s.budgets) >= s.capacity:
		return false
	}
	s.budgets[u.hash] = b
	return true
}

// together returns one budget for two, under its limit: what has been used of either is used of it.
func (s *limiterShard) together(live, saved budget, now int64) budget {
	limit := s.limits[live.limit]
	if s.limits[saved.limit] != limit {
		saved = saved.move(s.limits[saved.limit], limit, s.fastest, s.latest)
	}
	owed := live.owes(s.fastest, now) + saved.owes(s.fastest, now)
	used := max(0, live.tat-now) + max(0, saved.tat-now)
	live.tat, live.owed = now+min(used, (limit.burst+MaxDebt)*limit.interval), float32(owed)
	return live
}
