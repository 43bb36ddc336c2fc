package policy

import "time"

// Pass is a presence request that goes to the homeserver. The zero one is none.
type Pass struct {
	brownOut *BrownOut
	entered  int64
	sender   uint64
	era      uint64
	turn     uint64 // in off
}

const (
	// crowd is how many presence requests are so many that a homeserver that is too slow for them is found
	// out at once, and crowdAgain where a level has just been left. Early in a window it takes crowdSenders to say so: those
	// who are quick have not all come back yet.
	crowd, crowdAgain, crowdSenders = 128, 32, 8

	// coldCrowd is how many presence requests, of crowdSenders at least, are too many while nothing is known of the homeserver.
	coldCrowd = 32

	// soonest is how long a window lasts at least before it tells anything: what is slow is known sooner to be
	// under way than what is quick to have come back.
	soonest = 150 * time.Millisecond

	// probeEach is how often one is in off, and holdWait after how long a client is to try again in hold.
	probeEach, holdWait = 5 * time.Second, time.Second
)

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
			if v := b.window.judge(at, false); v.isEnough() && v.senders >= crowdSenders && v.slowness >= isSlow {
				b.due.Store(at) // until the end of the window there would be thousands
			}
		}
	})
	return pass, wait
}

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

// Spare notes that a presence request was answered by what is known for longer than usual, and need not enter.
func (b *BrownOut) Spare() { b.spared.Add(1) }

// Later returns after how long to try again with a request that can't go as it is.
func (b *BrownOut) Later() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.later()
}

// later returns after how long to try again.
func (b *BrownOut) later() time.Duration {
	d := holdWait
	if b.now() == BrownOutOff {
		d = probeEach
	}
	return d + time.Duration(b.jitter()*float64(d))
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

// isColdCrowd tells that many are under way before anything is known of the homeserver. It needs the lock.
func (b *BrownOut) isColdCrowd() bool {
	return b.now() < BrownOutHold && b.entrants.underWay >= coldCrowd && b.window.cold && b.window.sendersAway() >= crowdSenders
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
