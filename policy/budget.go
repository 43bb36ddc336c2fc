package policy

import (
	"math"
	"time"
)

// budget is what is left of one under a limit.
type budget struct {
	tat int64

	// owed is how many events were used under a limit with a larger burst, and don't fit
	// into this one's. They count again under such a limit, so that nobody gains a burst
	// by going back and forth. When tat has passed they are paid, at the rate of
	// the fastest limit.
	owed float32

	limit uint16 // its index in limits

	// announced tells that somebody has been told how long to wait for the next event.
	announced bool
}

// wait returns how long from now there will be no event: one conforms if it comes no
// earlier than burst intervals before the arrival time that it would lead to.
func (b budget) wait(limit Limit, now int64) time.Duration {
	return time.Duration(max(0, b.tat-(limit.burst-1)*limit.interval-now))
}

// take takes one event, or returns how long from now there will be none.
func (b *budget) take(limit Limit, fastest, now int64) (wait time.Duration, ok bool) {
	if wait = b.wait(limit, now); wait > 0 {
		b.announced = true
		return wait, false
	}
	b.use(limit, fastest, now)
	return 0, true
}

// use takes one event, whether or not there is one.
func (b *budget) use(limit Limit, fastest, now int64) {
	if b.owed != 0 {
		b.owed = float32(b.owes(fastest, now))
	}
	b.tat = max(b.tat, now) + limit.interval
	b.announced = false
}

// owes returns how much of what is owed is not paid by now.
func (b budget) owes(fastest, now int64) float64 {
	return max(0, float64(b.owed)-float64(max(0, now-b.tat))/float64(fastest))
}

// move makes a budget one under another limit. As many events are used as before, so
// that another limit is neither a new budget nor a reason to wait for the old one:
//
//   - Under a larger burst there are at once as many more events as that is larger.
//   - Under a smaller one no more are used than that has. The rest is owed.
//   - Who has been told to wait doesn't wait for longer than that.
//   - A debt stays as many events.
func (b budget) move(from, to Limit, fastest, now int64) budget {
	inTAT := float64(max(0, b.tat-now)) / float64(from.interval)
	used, debt := inTAT+b.owes(fastest, now), max(0, inTAT-float64(from.burst))
	tat := now + int64(math.Ceil(min(used, float64(to.burst)+debt)*float64(to.interval)))
	if b.announced {
		due := now + int64(b.wait(from, now))
		tat = min(tat, due+(to.burst-1)*to.interval)
	}
	b.tat, b.owed = tat, float32(max(0, used-float64(max(0, tat-now))/float64(to.interval)))
	return b
}
