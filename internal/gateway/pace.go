package gateway

import (
	"time"
)

// pace tells how long news took to come, by the stamps that the homeserver's clock gives them. The
// clocks of two machines differ, so it is by the quickest of the last minutes.
type pace struct {
	quickest [2]time.Duration // our clock less the homeserver's, in this span of time and in the one before
	began    time.Time        // when this one did
	newest   int64            // the highest stamp so far
}

// paceSpan is how long a span is. Clocks that drift apart, or are set, are believed after two.
const paceSpan = 5 * time.Minute

// unknownPace is longer than any.
const unknownPace = time.Duration(1<<63 - 1)

func newPace() pace { return pace{quickest: [2]time.Duration{unknownPace, unknownPace}} }

// isLate reports whether news with this stamp took longer than most to come, or may have: of the
// first, and of what repeats an old stamp, nobody knows.
func (p *pace) isLate(stamp int64, now time.Time, most time.Duration) bool {
	if now.Sub(p.began) > paceSpan {
		p.began = now
		p.quickest = [2]time.Duration{unknownPace, p.quickest[0]}
	}
	known := min(p.quickest[0], p.quickest[1])
	took := now.Sub(time.UnixMilli(stamp))
	if stamp > p.newest {
		p.newest = stamp
		p.quickest[0] = min(p.quickest[0], took)
	}
	return known == unknownPace || took-known > most
}
