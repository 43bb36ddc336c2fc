package clock

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/wallclock"
)

// Clock tells the time by which what is remembered ages. Go measures durations by a
// clock that stands still while the machine is suspended (golang/go#24595): a laptop, or
// a virtual machine that was paused overnight, would wake up with everything as fresh as
// it was, the identities of tokens that were revoked meanwhile included. So whatever the
// wall clock gains on the monotonic one counts as time that has passed. A wall clock that
// is set back makes nothing younger, and one that is set forward makes everything older,
// which costs one question each.
type Clock struct {
	// look returns the time, and what the wall clock says, in Unix nanoseconds.
	look  func() (now time.Time, wall int64)
	start time.Time // differences from it are by the monotonic clock

	// ahead is by how much the wall clock was ahead of the monotonic one, as last noted, in
	// nanoseconds since some moment, and slept how much of that has come in leaps.
	ahead, slept atomic.Int64
	mu           sync.Mutex // orders changes of both
}

// leap is the smallest difference that counts. The two clocks aren't read at the same
// moment.
const leap = 250 * time.Millisecond

// New returns a clock that starts now.
func New() *Clock {
	return NewOf(func() (time.Time, int64) {
		now := time.Now()
		return now, wallclock.Of(now)
	})
}

// NewOf returns a clock that reads the time, and the wall clock in Unix nanoseconds, by look.
func NewOf(look func() (now time.Time, wall int64)) *Clock {
	now, wall := look()
	c := &Clock{look: look, start: now}
	c.ahead.Store(wall)
	return c
}

// Now returns the time. It never goes back.
func (c *Clock) Now() time.Time {
	now, wall := c.look()
	if c.leapt(now, wall) {
		now = c.note()
	}
	return now.Add(time.Duration(c.slept.Load()))
}

// Since returns how long ago a time of this clock was.
func (c *Clock) Since(then time.Time) time.Duration { return c.Now().Sub(then) }

// Stamp returns the time as a number of nanoseconds, larger than an hour.
func (c *Clock) Stamp() int64 { return int64(time.Hour + c.Since(c.start)) }

func (c *Clock) leapt(now time.Time, wall int64) bool {
	change := wall - int64(now.Sub(c.start)) - c.ahead.Load()
	return change >= int64(leap) || change <= -int64(leap)
}

// note notes that the wall clock has leapt. It looks again, because a process that was stopped
// between its two looks at the clocks has seen a leap where there is none.
func (c *Clock) note() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, wall := c.look()
	if c.leapt(now, wall) {
		ahead := wall - int64(now.Sub(c.start))
		c.slept.Add(max(0, ahead-c.ahead.Load()))
		c.ahead.Store(ahead)
	}
	return now
}
