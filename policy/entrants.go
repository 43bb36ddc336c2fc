package policy

import (
	"math"
	"slices"
	"time"
)

const (
	// leastUnderWay is how many presence requests are under way in hold at least.
	leastUnderWay = 2

	// restFactor is for how many times as long as a request took its place stays taken, in hold, but
	// for no longer than holdWait: each place is at most a tenth of what one of the homeserver's workers can do.
	restFactor = 9

	// Of fewPlaces a sender has one, and of more the same part, if others wait.
	fewPlaces = 8
)

// entrants are the presence requests that were let through to the homeserver. In hold each has one of a few
// places. While others wait nobody has more than a part of them, and of next to none whoever had one of late
// leaves the next to the others.
type entrants struct {
	era      uint64 // of those that count
	underWay int

	limit  int // of those under way, in hold
	trial  trial
	rests  []rest
	taken  [places]int // places, also those that rest, by parts of the senders
	recent recent
	others int64 // until when somebody waits who had no place of late
}

// rest is a place that stays taken for a while after a request is over.
type rest struct {
	sender uint64
	until  int64
}

func partOf(sender uint64) uint64 { return sender >> (64 - 6) }

// enter counts a request.
func (e *entrants) enter(sender uint64) {
	e.underWay++
	e.taken[partOf(sender)]++
}

// leave takes out a request that is over. If it rests, its place stays taken for a while, longer if the homeserver
// took long: else those that wait would leave it no moment for anything but presence.
func (e *entrants) leave(sender uint64, took time.Duration, at int64, rests bool) {
	e.underWay--
	if rests && len(e.rests) < e.limit {
		e.rests = append(e.rests, rest{sender, at + int64(min(restFactor*took, holdWait))})
		return
	}
	e.taken[partOf(sender)]--
}

// endRests ends those that have lasted until then.
func (e *entrants) endRests(at int64) {
	e.rests = slices.DeleteFunc(e.rests, func(r rest) bool {
		if r.until > at {
			return false
		}
		e.taken[partOf(r.sender)]--
		return true
	})
}

// hasPlace tells whether in hold another request may be under way.
func (e *entrants) hasPlace(at int64) bool {
	e.endRests(at)
	return e.underWay+len(e.rests) < e.limit
}

// mayTakePlace is hasPlace for a sender.
func (e *entrants) mayTakePlace(sender uint64, at int64) bool {
	ok, had := e.hasPlace(at), e.recent.rank(sender) >= 0
	if !ok && !had {
		e.others = at + int64(longWindow) // when they will have come again
	}
	if !ok || at < e.others && (had && e.limit < fewPlaces || e.taken[partOf(sender)] >= max(1, e.limit/fewPlaces)) {
		return false
	}
	e.recent.add(sender)
	return true
}

// forget has those count no more that are under way.
func (e *entrants) forget() {
	e.endRests(math.MaxInt64)
	e.era++
	e.underWay, e.taken = 0, [places]int{}
}

// recent are some senders, the last one first.
type recent [16]uint64

// rank returns how many came after a sender, or -1 if it is none of them.
func (r *recent) rank(sender uint64) int { return slices.Index(r[:], sender) }

// add notes that a sender came last.
func (r *recent) add(sender uint64) {
	i := r.rank(sender)
	if i < 0 {
		i = len(r) - 1
	}
	copy(r[1:i+1], r[:i])
	r[0] = sender
}
