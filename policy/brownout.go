package policy

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

// BrownOut lets presence give way while the homeserver is slow. It learns how slow that is by probes, which
// are requests that are made anyway, see [ProbeKind]: by the time of half of them, compared with
// the shortest of the last minutes. It looks at them in windows, and goes up a level after two slow
// windows in a row, to hold after one that hurts, and down one when it was calm for long enough. Between slow and calm it
// stays as it is, and so it does where there are too few probes to tell.
//
// In hold the number of presence requests under way is bounded. It begins with next to none, by which is seen how
// slow the homeserver is without presence. Then twice as many are tried, as long as that takes no time from others, and half
// as many are left when it does, see [trial]. While as much is wanted as when it was too much, that is tried again after some
// time, and then less and less often: each time messages wait for it. Only if a slow homeserver has next to none of
// them, or it hurts, the next level helps. And only when hardly anybody needed more for as long as it was calm, the
// level before will do. Whoever had one of the last places leaves the next ones to others, so that nobody decides
// alone what is seen of the homeserver.
//
// A level that came back soon after it was left is a relapse: it is kept for longer, so that a load that stays
// the same makes no more than a few changes, but only as long as about as much is wanted as then. What so few ask
// that it can't be told how slow the homeserver is, is no load and keeps no level.
//
// As long as nothing is known of the homeserver, as after a start, what is slow can't be told before hundreds
// are under way. So many of many users are hold at once then.
//
// It is safe for use by several goroutines. Where nobody gives way, [BrownOut.Level] is a load of a number.
type BrownOut struct {
	epoch  time.Time
	jitter func() float64
	tell   func(BrownOutChange)

	level   atomic.Uint32
	due     atomic.Int64 // when the window ends
	failing atomic.Bool
	spared  atomic.Int64 // since the window began

	mu      sync.Mutex // guards all below
	window  window
	slow    int                   // windows in a row
	calm    int64                 // since when it is; 0: it isn't
	left    [BrownOutLevels]int64 // when a level was left for the one before
	relapse relapse

	short int64 // when too many found no place

	entrants entrants
	probeDue int64
	turn     uint64 // the number of the last request that was let through in off
	untold   bool   // that has told nothing of the homeserver yet
}

// BrownOutChange is one of the level.
type BrownOutChange struct {
	From, To BrownOutLevel
	// Slowness is how many times as long as what is slow half of the probes took, and Best the shortest time
	// of one in the last minutes.
	Slowness float64
	Best     time.Duration
}

const (
	// shortWindow is how long a window lasts at least, and longWindow how long one with too few
	// probes may. What comes later has no window: the machine slept.
	shortWindow, longWindow = 2 * time.Second, 10 * time.Second

	// offWindow is how long one in off may last until it has heard of some senders' probes.
	offWindow = 3 * probeEach
)

// NewBrownOut returns one that nothing gives way to. Jitter returns numbers from 0 to 1, so that several
// nodes of one homeserver don't do the same at once. It tells of each change, without a lock, and of now
// only differences matter.
func NewBrownOut(now time.Time, jitter func() float64, tell func(BrownOutChange)) *BrownOut {
	b := &BrownOut{epoch: now, jitter: jitter, tell: tell}
	seed := maphash.MakeSeed()
	b.window.hash = func(sender string) uint64 { return maphash.String(seed, sender) }
	b.window.draw = b.window.hash("")
	b.restart(0)
	return b
}

// at returns a time as nanoseconds since shortly before the epoch, so that none is 0.
func (b *BrownOut) at(now time.Time) int64 { return max(1, int64(now.Sub(b.epoch))) }

// IsNone tells that nothing gives way, without the time.
func (b *BrownOut) IsNone() bool { return b.level.Load() == uint32(BrownOutNone) }

// Level returns how far presence gives way now.
func (b *BrownOut) Level(now time.Time) BrownOutLevel {
	if b.IsNone() {
		return BrownOutNone
	}
	if b.at(now) >= b.due.Load() {
		b.locked(now, func(int64) {})
	}
	return b.now()
}

// IsFailing tells that the homeserver has failed to answer most of the last probes.
func (b *BrownOut) IsFailing() bool { return b.failing.Load() }

func (b *BrownOut) now() BrownOutLevel { return BrownOutLevel(b.level.Load()) }

// Reset has nothing give way, as long as nothing new is known of the homeserver. What is under way doesn't count.
func (b *BrownOut) Reset(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := b.at(now)
	b.enterLevel(b.now(), BrownOutNone, at)
	b.left, b.relapse = [BrownOutLevels]int64{}, relapse{}
	b.entrants.forget()
	b.failing.Store(false)
	b.window.forget(at)
	b.restart(at)
}

// locked calls f with the lock, after the window has ended if it is time for that.
func (b *BrownOut) locked(now time.Time, f func(at int64)) {
	at := b.at(now)
	b.mu.Lock()
	change, changed := b.tick(at)
	f(at)
	b.mu.Unlock()
	if changed {
		b.tell(change)
	}
}

// tick ends the window if it is time for that. It needs the lock.
func (b *BrownOut) tick(at int64) (change BrownOutChange, changed bool) {
	if at < b.due.Load() {
		return change, false
	}
	lasted := time.Duration(at - b.window.began)
	if lasted > 2*longWindow {
		// Nobody has asked anything, or the machine slept. In both cases what is under way says nothing.
		b.window.forget(at)
	}
	isCold := b.isColdCrowd()
	v := b.window.judge(at, b.now() == BrownOutOff)
	if !isCold && b.isTooEarly(&v, lasted) {
		return change, false // until there are more
	}
	if v.probes > 0 {
		b.failing.Store(2*v.failed > v.senders)
	}
	b.window.spared = int(b.spared.Swap(0))
	from := b.now()
	to := b.next(&v, at)
	if isCold {
		to = BrownOutHold
	}
	if to == from {
		b.restart(at)
		return change, false
	}
	b.enterLevel(from, to, at)
	b.restart(at)
	return BrownOutChange{from, to, v.slowness, v.best}, true
}

// isTooEarly tells that a window has yet to hear of more senders. In hold few go, and it has to be quick.
func (b *BrownOut) isTooEarly(v *verdict, lasted time.Duration) bool {
	switch b.now() {
	case BrownOutHold:
		return false
	case BrownOutOff:
		return v.senders < enoughSenders && lasted < offWindow
	}
	return !v.isEnough() && lasted < longWindow
}

// restart begins a window. It needs the lock.
func (b *BrownOut) restart(at int64) {
	b.window.restart(at)
	b.due.Store(at + int64(shortWindow)*4/5 + int64(b.jitter()*float64(shortWindow)*2/5))
}
