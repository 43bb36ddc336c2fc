package scripted

import (
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// What a request of Synapse 1.160 costs in CPU time: measured with wrk on 16
// connections, on the machine of the first benchmarks, and less what it costs
// this homeserver to answer at all.
const (
	readCost   = 491*time.Microsecond - ownCost
	whoamiCost = 442*time.Microsecond - ownCost
	writeCost  = 522*time.Microsecond - ownCost
	ownCost    = 60 * time.Microsecond
)

// interpreter is Python's lock: one request at a time.
var interpreter sync.Mutex

// spend burns CPU time, if the homeserver is to have Synapse's cost. It goes by the
// thread's own clock: on a busy machine a wall clock would also count the time
// in which somebody else ran.
func (h *homeserver) spend(cost time.Duration) {
	if !h.options.Cost {
		return
	}
	interpreter.Lock()
	defer interpreter.Unlock()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for until := threadTime() + cost; threadTime() < until; {
	}
}

func threadTime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) // it can't fail for one's own thread
	return time.Duration(t.Nano())
}
