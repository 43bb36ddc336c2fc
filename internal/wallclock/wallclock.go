// Package wallclock is what the wall clock says. It is a package of its own because in a bubble of
// testing/synctest Go's two clocks are one: there, a suspend of the machine and a clock that
// somebody sets are shifts of this one.
package wallclock

import (
	"sync/atomic"
	"time"
)

var shift atomic.Int64 // nanoseconds

// Of returns what the wall clock says at a moment, in Unix nanoseconds.
func Of(now time.Time) int64 { return now.UnixNano() + shift.Load() }

// Shift sets by how much the wall clock differs from Go's. Only tests call it.
func Shift(by time.Duration) { shift.Store(int64(by)) }
