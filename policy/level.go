package policy

import (
	"math"
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

const (
	// fewWanted is how many presence requests a second are no load.
	fewWanted = 2

	// calmTime is how long it must be calm before a level ends.
	calmTime = 8 * time.Second

	// shortShare is which part of the presence requests found no place when a level is needed.
	shortShare = 0.2
)

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
	case hurts && !b.mayRelapse(at): // what is older is no relief that is quick enough
		return BrownOutHold
	case !hurts && b.slow < 2 && !(b.mayRelapse(at) && b.entrants.underWay >= crowdAgain):
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
	if to > from {
		b.window.since = at
	}
	b.slow, b.calm, b.short = 0, 0, at
	b.entrants.endRests(math.MaxInt64)
	b.level.Store(uint32(to))
}
