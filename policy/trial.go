package policy

import "cmp"

const (
	// busyFactor is how many times as long as with next to no presence it takes when presence takes time from
	// others, in two windows, and busyAverage in trialWindows.
	busyFactor, busyAverage = 1.25, 1.1
	trialWindows            = 3

	// manyRefused is which part of the presence requests found no place when more are needed.
	manyRefused = 0.05

	// fewShare is which part of a worker's time presence may take at least, at the homeserver's best, however slow that is:
	// it isn't why. If all that is wanted would take no more, there is nothing to be tried.
	fewShare = 0.25
)

// trial is that more places are tried, until they take time from others: a message has many short turns at the
// homeserver, and waits in each for what is before it.
type trial struct {
	alone   float64 // how slow the homeserver is with next to no presence, as [verdict.stretch]; 0: it isn't known
	now     float64 // likewise with as many places as there are, in the last windows
	windows int     // since there are as many
	until   int64   // until when no more are tried; 0: nothing speaks against it
	times   int     // that they were too many
	needed  float64 // presence requests a second, the last time that they were; 0: it isn't known yet
}

// hears notes what a window says of as many places as there are.
func (t *trial) hears(stretch float64) {
	t.windows++
	t.now += (stretch - t.now) / float64(min(t.windows, trialWindows))
}

// isBusy tells that there are too many places.
func (t *trial) isBusy() bool {
	alone := max(1, t.alone)
	return t.windows >= 2 && t.now > busyFactor*alone || t.windows == trialWindows && t.now > busyAverage*alone
}

// isQuiet tells that there may be more.
func (t *trial) isQuiet() bool {
	return t.windows >= cmp.Or(min(t.times, 1)*trialWindows, 1) && t.now <= busyFactor*max(1, t.alone)
}

// changes notes that there is another number of places.
func (t *trial) changes() { t.now, t.windows = 0, 0 }

// fails notes that there are too many places.
func (t *trial) fails(needed float64, at int64) {
	if at >= t.until {
		t.times++
	}
	t.until, t.needed = at+int64(min(onceAgain<<min(t.times-1, 10), baseAge)), needed
	t.changes()
}

// adapt changes the number of places after a window that wasn't slow.
func (e *entrants) adapt(v *verdict, refused, needed float64, at int64) {
	t := &e.trial
	isLittle := v.best > 0 && needed*v.best.Seconds() < fewShare
	if isLittle || needed < stillWanted*t.needed {
		t.until, t.times, t.needed = 0, 0, 0
	} else if t.until != 0 && t.needed == 0 {
		t.needed = needed
	}
	share := v.share < fewShare
	switch isLeast := e.limit <= leastUnderWay; {
	case isLeast && v.probes > 0:
		t.hears(v.stretch)
		t.alone = t.now
	case !isLeast && v.isEnough():
		if t.hears(v.stretch); !share && t.isBusy() {
			e.narrow(v, needed, at)
			return
		}
	}
	if refused > manyRefused && at >= t.until && (share && t.times == 0 || t.isQuiet()) {
		e.limit *= 2
		t.changes()
	}
}

// narrow has half as many places, and for a while no more, if presence may be why the homeserver is slow.
func (e *entrants) narrow(v *verdict, needed float64, at int64) {
	if e.limit <= leastUnderWay {
		return
	}
	e.limit = max(leastUnderWay, e.limit/2)
	if e.trial.changes(); v.share >= fewShare {
		e.trial.fails(needed, at)
	}
}
