package policy

import "time"

// relapse is that a level came back soon after it was left.
type relapse struct {
	at, until int64         // until when the level before isn't tried again
	before    BrownOutLevel // which that is
	times     int           // one soon after the other
	wanted    float64       // presence requests a second
}

const (
	// soon is how soon after it was left a level that comes back is a relapse. Then the one before isn't tried
	// again for onceAgain, or for oftenAgain if there was another one within relapsed: each time that is in vain
	// messages wait for it. From off it is for less long, since no presence comes through there at all. It ends
	// when less than stillWanted is left of the load that it was.
	soon, relapsed        = time.Minute, 10 * time.Minute
	onceAgain, oftenAgain = 45 * time.Second, 5 * time.Minute
	onceOff, oftenOff     = 20 * time.Second, time.Minute
	stillWanted           = 0.7
)

// mayRelapse tells that the next level has just been left. It needs the lock.
func (b *BrownOut) mayRelapse(at int64) bool {
	left := b.left[b.now()+1]
	return left != 0 && time.Duration(at-left) < calmTime
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
