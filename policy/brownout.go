package policy

import (
	"hash/maphash"
	"math"
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
// In hold the number of presence requests under way is bounded. It begins with next to none, by which is seen how
// slow the homeserver is without presence. Then twice as many are tried, as long as that takes no time from others, and half
// as many are left when it does, see [trial]. While as much is wanted as when it was too much, that is tried again after some
// time, and then less and less often: each time messages wait for it. Only if a slow homeserver has next to none of
// them, or it hurts, the next level helps. And only when hardly anybody needed more for as long as it was calm, the
// level before will do. Whoever had one of the last places leaves
// the next ones to others, so that nobody decides alone what is seen of the homeserver.
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

// relapse is that a level came back soon after it was left.
type relapse struct {
	at, until int64         // until when the level before isn't tried again
	before    BrownOutLevel // which that is
	times     int           // one soon after the other
	wanted    float64       // presence requests a second
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

	// fewWanted is how many presence requests a second are no load.
	fewWanted = 2

	// calmTime is how long it must be calm before a level ends.
	calmTime = 8 * time.Second

	// soon is how soon after it was left a level that comes back is a relapse. Then the one before isn't tried
	// again for onceAgain, or for oftenAgain if there was another one within relapsed: each time that is in vain
	// messages wait for it. From off it is for less long, since no presence comes through there at all. It ends
	// when less than stillWanted is left of the load that it was.
	soon, relapsed        = time.Minute, 10 * time.Minute
	onceAgain, oftenAgain = 45 * time.Second, 5 * time.Minute
	onceOff, oftenOff     = 20 * time.Second, time.Minute
	stillWanted           = 0.7

	// soonest is how long a window lasts at least before it tells anything: what is slow is known sooner to be
	// under way than what is quick to have come back.
	soonest = 300 * time.Millisecond

	// crowd is how many presence requests are so many that a homeserver that is too slow for them is found
	// out at once, and crowdAgain where a level has just been left.
	crowd, crowdAgain = 128, 32

	// coldCrowd is how many presence requests, of so many senders at least, are too many while nothing is known of the homeserver.
	coldCrowd, coldSenders = 32, 8

	// shortShare is which part of the presence requests found no place when a level is needed.
	shortShare = 0.2

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
	over     bool // guarded by the lock
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
	p.brownOut.locked(now, func(at int64) {
		p.over = true
		p.brownOut.window.returns(p, failed, at)
	})
}

// Drop notes that a probe is over and tells nothing, because the homeserver hasn't seen it. After
// Arrives it does nothing.
func (p *Probe) Drop() {
	b := p.brownOut
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.over {
		return
	}
	p.over = true
	b.window.drops(p)
	b.untold = true
}

// Pass is a presence request that goes to the homeserver. The zero one is none.
type Pass struct {
	brownOut *BrownOut
	entered  int64
	sender   uint64
	era      uint64
	turn     uint64 // in off
}

// Enter lets a presence request go to the homeserver on behalf of a sender, or returns after how long to
// try again. Probing says of one that it departs as a [Probe]. [Pass.Leave] must be called when the homeserver is
// done with one that may go, however long its client takes for what comes then.
func (b *BrownOut) Enter(sender string, probing bool, now time.Time) (pass Pass, wait time.Duration) {
	hash := b.window.hash(sender)
	b.locked(now, func(at int64) {
		level := b.now()
		if level == BrownOutHold && !b.entrants.mayTakePlace(hash, at) || level == BrownOutOff && !b.mayProbe(hash, probing, at) {
			b.window.refuses(hash)
			wait = b.later()
			return
		}
		b.window.entered++
		pass = b.enter(hash, at)
		if level == BrownOutOff {
			b.turn++
			b.untold, pass.turn = true, b.turn
		}
		b.window.crowded = b.entrants.underWay >= crowd
		if b.isColdCrowd() {
			b.due.Store(at)
		} else if isCrowded, isSlow := b.isCrowded(at); isCrowded {
			if v := b.window.judge(at, false); v.isEnough() && v.slowness >= isSlow {
				b.due.Store(at) // until the end of the window there would be thousands
			}
		}
	})
	return pass, wait
}

// isColdCrowd tells that many are under way before anything is known of the homeserver. It needs the lock.
func (b *BrownOut) isColdCrowd() bool {
	return b.now() < BrownOutHold && b.entrants.underWay >= coldCrowd && b.window.cold && b.window.sendersAway() >= coldSenders
}

// isCrowded tells that so many are under way that it has to be seen at once whether the homeserver is too slow for
// them, and how slow that is. It needs the lock.
func (b *BrownOut) isCrowded(at int64) (is bool, slow float64) {
	level := b.now()
	if level >= BrownOutHold || time.Duration(at-b.window.began) < soonest {
		return false, 0
	}
	most, slow := crowd, float64(hurtSlowness)
	if b.mayRelapse(at) {
		most, slow = crowdAgain, 1
	}
	return b.entrants.underWay >= most, slow
}

// mayRelapse tells that the next level has just been left. It needs the lock.
func (b *BrownOut) mayRelapse(at int64) bool {
	left := b.left[b.now()+1]
	return left != 0 && time.Duration(at-left) < calmTime
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

// mayProbe lets one request through in off, if it is time for that. Whoever had one of the last probes lets
// others go first: nobody sends two in a row while there are any. And one that is no probe goes if no probe does for
// as long: else those who have no need of an answer would keep it from being found out that the homeserver is back.
// It needs the lock.
func (b *BrownOut) mayProbe(sender uint64, probing bool, at int64) bool {
	due := b.probeDue
	if rank := b.entrants.recent.rank(sender); rank >= 0 {
		due += int64(probeEach) >> (2 * rank)
	}
	if !probing {
		due += int64(probeEach)
	}
	if at < due {
		return false
	}
	b.entrants.recent.add(sender)
	b.probeDue = at + int64(probeEach)*3/4 + int64(b.jitter()*float64(probeEach)/2)
	return true
}

// Spare notes that a presence request was answered by what is known for longer than usual, and need not enter.
func (b *BrownOut) Spare() { b.spared.Add(1) }

// MayEnter tells whether Enter would let a request go that has waited, or after how long to ask again. It
// is no probe, and takes no place.
func (b *BrownOut) MayEnter(now time.Time) (wait time.Duration) {
	b.locked(now, func(at int64) {
		if level := b.now(); level == BrownOutOff || level == BrownOutHold && !b.entrants.hasPlace(at) {
			wait = b.later()
		}
	})
	return wait
}

// Join counts a request that goes up in any case, until [Pass.Leave].
func (b *BrownOut) Join(now time.Time) Pass {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.enter(0, b.at(now))
}

// enter needs the lock.
func (b *BrownOut) enter(sender uint64, at int64) Pass {
	b.entrants.enter(sender)
	return Pass{brownOut: b, entered: at, sender: sender, era: b.entrants.era}
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
	if b.now() == BrownOutOff && p.turn == b.turn && b.untold {
		b.probeDue = at
	}
	if p.era == b.entrants.era {
		b.entrants.leave(p.sender, time.Duration(at-p.entered), at, b.now() == BrownOutHold)
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

// next returns the level after a window, and adapts what holds within one. It needs the lock.
func (b *BrownOut) next(v *verdict, at int64) BrownOutLevel {
	level := b.now()
	if b.window.refusedShare() > shortShare {
		b.short = at
	}
	switch isFew := !v.isEnough() && (b.window.refused == 0 || b.window.wanted(at) < fewWanted); {
	case v.probes == 0 && !isFew: // nobody has told anything
		b.slow = 0
	case isFew, v.slowness <= calmSlowness:
		if b.slow = 0; b.calm == 0 {
			b.calm = max(1, b.window.began)
		}
		if level == BrownOutHold {
			b.entrants.adapt(v, b.window.refusedShare(), b.window.needed(at), at)
		}
	case v.slowness < 1:
		if b.slow = 0; b.calm != 0 {
			b.calm += at - b.window.began
		}
		if level == BrownOutHold {
			b.entrants.adapt(v, 0, b.window.needed(at), at)
		}
	default:
		return b.slowed(v, at)
	}
	if b.mayEnd(level, at) {
		return level - 1
	}
	return level
}

// mayEnd tells whether it was calm for so long that the level before will do. It needs the lock.
func (b *BrownOut) mayEnd(level BrownOutLevel, at int64) bool {
	if level == BrownOutNone {
		return false
	}
	if b.window.wanted(at) < stillWanted*b.relapse.wanted {
		b.relapse.until = 0 // it isn't the load any more that it was
	}
	since := b.calm
	if level == BrownOutHold {
		since = max(since, b.short)
	}
	isTooSoon := level-1 <= b.relapse.before && at < b.relapse.until
	return b.calm != 0 && time.Duration(at-since) >= calmTime && !isTooSoon
}

// slowed is next after a window in which the homeserver was slow.
func (b *BrownOut) slowed(v *verdict, at int64) BrownOutLevel {
	level := b.now()
	b.calm = 0
	if level == BrownOutOff || level != BrownOutHold && !v.isEnough() {
		return level
	}
	b.slow++
	hurts := v.slowness >= hurtSlowness
	if level == BrownOutHold {
		least := b.entrants.limit <= leastUnderWay
		b.entrants.narrow(v, b.window.needed(at), at)
		if b.slow < 2 || !least && !hurts {
			return level
		}
		return BrownOutOff
	}
	switch {
	case hurts: // what is older is no relief that is quick enough
		return BrownOutHold
	case b.slow < 2 && !(b.mayRelapse(at) && b.entrants.underWay >= crowdAgain):
		return level
	}
	return level + 1
}

// enterLevel begins a level. It needs the lock.
func (b *BrownOut) enterLevel(from, to BrownOutLevel, at int64) {
	if to < from {
		b.left[from] = at
	} else if left := b.left[from+1]; left != 0 && time.Duration(at-left) < soon {
		b.relapses(from, at)
	}
	switch {
	case to == BrownOutHold:
		b.entrants.limit, b.entrants.trial = leastUnderWay, trial{}
		if from == BrownOutOff {
			b.entrants.forget() // what hangs since then takes no place
		} else {
			b.entrants.trial.fails(0, at)
		}
	case to == BrownOutOff:
		b.probeDue = at + int64(b.jitter()*float64(probeEach))
	}
	b.slow, b.calm, b.short = 0, 0, at
	b.entrants.endRests(math.MaxInt64)
	b.level.Store(uint32(to))
}

// relapses notes that a level was tried in vain. It needs the lock.
func (b *BrownOut) relapses(level BrownOutLevel, at int64) {
	r := &b.relapse
	if r.at == 0 || time.Duration(at-r.at) > relapsed {
		r.times = 0
	}
	r.times++
	again := [2]time.Duration{onceAgain, oftenAgain}
	if level == BrownOutHold {
		again = [2]time.Duration{onceOff, oftenOff}
	}
	r.at, r.before, r.wanted = at, level, b.window.wanted(at)
	r.until = at + int64(again[min(r.times, 2)-1])
}
