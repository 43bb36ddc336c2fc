package policy

import (
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// BrownOutLevel says how far presence gives way.
type BrownOutLevel uint32

const (
	BrownOutNone  BrownOutLevel = iota
	BrownOutSpare               // what is known is good enough for longer
	BrownOutHold                // and few presence requests are under way at a time
	BrownOutOff                 // and none but one, now and then, to see how the homeserver is
	BrownOutLevels
)

// BrownOutNames are the words for the levels.
var BrownOutNames = [BrownOutLevels]string{"none", "spare", "hold", "off"}

// BrownOut lets presence give way while the homeserver is slow. It learns how slow that is by probes, which
// are requests that are made anyway, see [ProbeKind]: by the time of half of them, compared with
// the shortest of the last minutes. It looks at them in windows, and goes up a level after two slow
// windows in a row, to hold after one that hurts, and down one when it was calm for long enough. Between slow and calm it
// stays as it is, and so it does where there are too few probes to tell.
//
// In hold the number of presence requests under way is bounded as TCP bounds what it sends: some more after
// each calm window that needed more, half as many after each slow one. Only if a slow homeserver
// has next to none of them, or it hurts, the next level helps. And only when nobody needed more for
// as long as it was calm, the level before will do.
//
// A level that came back soon after it was left is kept for longer, so that a load that stays the same makes
// no more than a few changes.
//
// It is safe for use by several goroutines. Where nobody gives way, [BrownOut.Level] is a load of a number.
type BrownOut struct {
	epoch  time.Time
	jitter func() float64
	tell   func(BrownOutChange)

	level   atomic.Uint32
	due     atomic.Int64 // when the window ends
	failing atomic.Bool

	mu     sync.Mutex // guards all below
	window window
	slow   int   // windows in a row
	calm   int64 // since when it is; 0: it isn't
	left   [BrownOutLevels]int64
	again  [BrownOutLevels]int64 // when a level came back soon after it was left

	underWay int      // presence requests
	places   []*place // that are taken in hold
	most     int      // under way at once in this window
	limit    int      // of those under way, in hold
	short    int64    // when too many found no place

	probeDue   int64
	lastProber uint64
	turn       uint64 // the number of the last request that was let through in off
	untold     bool   // that has told nothing of the homeserver yet
}

// place is one of those that a request takes in hold.
type place struct {
	sender uint64
	until  int64 // when it is free again; 0: its request is under way
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

	// calmTime is how long it must be calm before a level ends, and calmAgain for a level that came back
	// within backSoon, as long as that is no longer ago than backLong.
	calmTime, calmAgain = 8 * time.Second, 30 * time.Second
	backSoon, backLong  = time.Minute, 5 * time.Minute

	// restFactor is for how many times as long as a request took its place stays taken, in hold, but
	// for no longer than holdWait.
	restFactor = 2

	// crowd is how many presence requests are so many that a homeserver that is too slow for them is found
	// out at once.
	crowd = 128

	// leastUnderWay is how many presence requests are under way in hold at least.
	leastUnderWay = 2

	// probeEach is how often one is in off, and holdWait after how long a client is to try again in hold.
	probeEach, holdWait = 5 * time.Second, time.Second
)

// NewBrownOut returns one that nothing gives way to. Jitter returns numbers from 0 to 1, so that several
// nodes of one homeserver don't do the same at once. It tells of each change, without a lock, and of now
// only differences matter.
func NewBrownOut(now time.Time, jitter func() float64, tell func(BrownOutChange)) *BrownOut {
	b := &BrownOut{epoch: now, jitter: jitter, tell: tell}
	seed := maphash.MakeSeed()
	b.window.hash = func(sender string) uint64 { return maphash.String(seed, sender) }
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

// Probe is a request of ours that tells how slow the homeserver is.
type Probe struct {
	brownOut *BrownOut
	kind     ProbeKind
	left     int64
	place    int
	number   uint64
	sender   uint64
}

// Departs notes a probe that leaves on behalf of a sender. [Probe.Arrives], or [Probe.Drop], must be called.
func (b *BrownOut) Departs(kind ProbeKind, sender string, now time.Time) (p *Probe) {
	b.locked(now, func(at int64) {
		p = &Probe{brownOut: b, kind: kind, left: at}
		b.window.leaves(p, sender)
		b.untold = false
	})
	return p
}

// Arrives notes that a probe has come back, or has failed: by a 5xx, or by no answer in time.
func (p *Probe) Arrives(failed bool, now time.Time) {
	p.brownOut.locked(now, func(at int64) { p.brownOut.window.returns(p, failed, at) })
}

// Drop notes that a probe is over and tells nothing, because the homeserver hasn't seen it.
func (p *Probe) Drop() {
	b := p.brownOut
	b.mu.Lock()
	defer b.mu.Unlock()
	b.window.drops(p)
	b.untold = true
}

// Pass is a presence request that goes to the homeserver. The zero one is none.
type Pass struct {
	brownOut *BrownOut
	entered  int64
	place    *place // in hold
	turn     uint64 // in off
}

// Enter lets a presence request go to the homeserver on behalf of a sender, or returns after how long to
// try again. Probing says of one that it departs as a [Probe]. [Pass.Leave] must be called when the homeserver is
// done with one that may go, however long its client takes for what comes then.
func (b *BrownOut) Enter(sender string, probing bool, now time.Time) (pass Pass, wait time.Duration) {
	b.locked(now, func(at int64) {
		hash := b.window.hash(sender)
		switch b.now() {
		case BrownOutHold:
			if !b.mayTakePlace(hash, at) {
				wait = b.later()
				return
			}
			pass.place = &place{sender: hash}
			b.places = append(b.places, pass.place)
		case BrownOutOff:
			if !b.mayProbe(hash, probing, at) {
				b.window.refused++
				wait = b.later()
				return
			}
			b.turn++
			b.untold, pass.turn = true, b.turn
		}
		b.window.entered++
		b.enter(&pass, at)
		if b.now() < BrownOutHold && b.underWay >= crowd {
			if v := b.window.judge(at); v.probes >= enoughProbes && v.slowness >= hurtSlowness {
				b.due.Store(at) // until the end of the window there would be thousands
			}
		}
	})
	return pass, wait
}

// enter counts a request. It needs the lock.
func (b *BrownOut) enter(pass *Pass, at int64) {
	b.underWay++
	b.most = max(b.most, b.underWay)
	pass.brownOut, pass.entered = b, at
}

// taken returns how many places are taken in hold, and how many of these by one sender. It needs the lock.
func (b *BrownOut) taken(sender uint64, at int64) (all, own int) {
	b.places = slices.DeleteFunc(b.places, func(p *place) bool { return p.until != 0 && p.until <= at })
	all = b.underWay
	for _, p := range b.places {
		if p.until != 0 {
			all++
		}
		if p.sender == sender {
			own++
		}
	}
	return all, own
}

// mayTakePlace tells whether in hold another request of a sender may be under way. Nobody has more than
// half of the places: whoever asks all the time would have all of them. It needs the lock.
func (b *BrownOut) mayTakePlace(sender uint64, at int64) bool {
	all, own := b.taken(sender, at)
	greedy := own >= max(1, b.limit/2)
	if all < b.limit && !greedy {
		return true
	}
	if !greedy || own == all { // what one has too many of is no sign that there are too few
		b.window.refused++
	}
	return false
}

// later returns after how long to try again.
func (b *BrownOut) later() time.Duration {
	d := holdWait
	if b.now() == BrownOutOff {
		d = probeEach
	}
	return d + time.Duration(b.jitter()*float64(d))
}

// Later returns after how long to try again with a request that can't go as it is.
func (b *BrownOut) Later() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.later()
}

// mayProbe lets one request through in off, if it is time for that. Nobody sends two in a row while there
// are others, and one that is no probe goes if no probe does for as long: else those who have no need of
// an answer would keep it from being found out that the homeserver is back.
func (b *BrownOut) mayProbe(sender uint64, probing bool, at int64) bool {
	due := b.probeDue
	if sender == b.lastProber {
		due += int64(probeEach)
	}
	if !probing {
		due += int64(probeEach)
	}
	if at < due {
		return false
	}
	b.lastProber = sender
	b.probeDue = at + int64(probeEach)*3/4 + int64(b.jitter()*float64(probeEach)/2)
	return true
}

// MayEnter tells whether Enter would let a request go that has waited, or after how long to ask again. It
// is no probe, and takes no place.
func (b *BrownOut) MayEnter(now time.Time) (wait time.Duration) {
	b.locked(now, func(at int64) {
		full := b.now() == BrownOutOff
		if b.now() == BrownOutHold {
			all, _ := b.taken(0, at)
			full = all >= b.limit
		}
		if full {
			wait = b.later()
		}
	})
	return wait
}

// Join counts a request that goes up in any case, until [Pass.Leave].
func (b *BrownOut) Join(now time.Time) (pass Pass) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.enter(&pass, b.at(now))
	return pass
}

// Leave notes, the first time, that a request is over. In hold its place stays taken for a while, longer if
// the homeserver took long: else those that wait would leave it no moment for anything but presence. In off
// the turn of one that has told nothing is the next one's.
func (p *Pass) Leave(now time.Time) {
	b := p.brownOut
	if b == nil {
		return
	}
	p.brownOut = nil
	at := b.at(now)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.underWay--
	switch level := b.now(); {
	case level == BrownOutOff && p.turn == b.turn && b.untold:
		b.probeDue = at
	case level == BrownOutHold:
		if p.place == nil && len(b.places) < b.limit { // it came before
			p.place = new(place)
			b.places = append(b.places, p.place)
		}
		if p.place != nil {
			p.place.until = at + min(restFactor*(at-p.entered), int64(holdWait))
		}
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
	v := b.window.judge(at)
	if b.now() < BrownOutHold && v.probes < enoughProbes && lasted < longWindow {
		return change, false // until there are more
	}
	if v.probes > 0 {
		b.failing.Store(2*v.failed > v.probes)
	}
	from := b.now()
	to := b.next(&v, at)
	if to == from {
		b.restart(at)
		return change, false
	}
	b.enterLevel(from, to, at)
	if to == BrownOutHold && from < to {
		// As many as there would be if each took as long as at its best (Little's law), or half of that.
		b.limit = max(leastUnderWay, int(float64(b.most)/v.slowness/slowFactor/2))
	}
	b.restart(at)
	return BrownOutChange{from, to, v.slowness, v.best}, true
}

// restart begins a window. It needs the lock.
func (b *BrownOut) restart(at int64) {
	b.window.restart(at)
	b.most = b.underWay
	b.due.Store(at + int64(shortWindow)*4/5 + int64(b.jitter()*float64(shortWindow)*2/5))
}

// next returns the level after a window, and adapts what holds within one. It needs the lock.
func (b *BrownOut) next(v *verdict, at int64) BrownOutLevel {
	level, short := b.now(), b.window.isShort()
	if short {
		b.short = at
	}
	switch {
	case v.probes == 0:
		if b.window.refused == 0 && b.calm == 0 {
			b.calm = at // nobody wants anything
		}
		b.slow = 0
	case v.slowness <= calmSlowness:
		if b.slow = 0; b.calm == 0 {
			b.calm = at
		}
		if level == BrownOutHold && short && v.slowness <= easySlowness {
			b.limit += 2
		}
	case v.slowness < 1:
		if b.slow = 0; b.calm != 0 {
			b.calm += at - b.window.began
		}
		b.limit = max(leastUnderWay, b.limit-1-b.limit/8)
	default:
		return b.slowed(v)
	}
	if b.calm == 0 || level == BrownOutNone {
		return level
	}
	since := b.calm
	if level == BrownOutHold {
		since = max(since, b.short)
	}
	if time.Duration(at-since) >= b.patience(level, at) {
		return level - 1
	}
	return level
}

// slowed is next after a window in which the homeserver was slow.
func (b *BrownOut) slowed(v *verdict) BrownOutLevel {
	level := b.now()
	b.calm = 0
	if v.probes < enoughProbes && level != BrownOutHold || level == BrownOutOff {
		return level
	}
	b.slow++
	hurts := v.slowness >= hurtSlowness
	if level == BrownOutHold {
		least := b.limit <= leastUnderWay
		b.limit = max(leastUnderWay, b.limit/2)
		if b.slow < 2 || !least && !hurts {
			return level
		}
		return BrownOutOff
	}
	switch {
	case hurts: // what is older is no relief that is quick enough
		return BrownOutHold
	case b.slow < 2:
		return level
	}
	return level + 1
}

// patience is for how long it must be calm before a level ends.
func (b *BrownOut) patience(level BrownOutLevel, at int64) time.Duration {
	if again := b.again[level]; again != 0 && time.Duration(at-again) < backLong {
		return calmAgain
	}
	return calmTime
}

// enterLevel begins a level. It needs the lock.
func (b *BrownOut) enterLevel(from, to BrownOutLevel, at int64) {
	switch {
	case to < from:
		b.left[from] = at
	case b.left[to] != 0 && time.Duration(at-b.left[to]) < backSoon:
		b.again[to] = at
	}
	switch {
	case to == BrownOutHold:
		b.limit = leastUnderWay
	case to == BrownOutOff:
		b.probeDue, b.lastProber = at+int64(b.jitter()*float64(probeEach)), 0
	}
	b.slow, b.calm, b.short, b.places = 0, 0, at, nil
	b.level.Store(uint32(to))
}
