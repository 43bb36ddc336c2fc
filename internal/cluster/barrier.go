package cluster

import (
	"runtime"
	"sync"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/flight"
)

// barrier has one pull in flight, and one that waits. Who comes joins the one that waits, and never
// the one in flight, which may have passed the log before the write that they have to see:
//
//	1 read:  begins a pull, which passes the log
//	2 write: begins, is sent and acknowledged
//	3 read:  begins; what pull 1 brings doesn't show the write
type barrier struct {
	pull     func() error
	panicked func(reason any) // is told of a panic of pull's

	mu       sync.Mutex // guards all below
	inFlight bool
	next     *round
}

// round is a pull that waits, or is in flight.
type round struct {
	done chan struct{}
	err  error // once that is closed
}

// pass returns when a pull is over that began after it was called.
func (b *barrier) pass() error {
	b.mu.Lock()
	if !b.inFlight {
		b.inFlight = true
		b.mu.Unlock()
		// A lone reader has nothing else to do. To wake another goroutine costs as much as the pull.
		defer b.finish() // also if it panics: nobody would pass any more
		return b.pull()
	}
	if b.next == nil {
		b.next = &round{done: make(chan struct{})}
	}
	r := b.next
	b.mu.Unlock()
	<-r.done // it takes no longer than its calls may
	return r.err
}

// finish ends the pull in flight, and lets the one that waits begin.
func (b *barrier) finish() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.inFlight = b.next != nil; b.inFlight {
		go b.run()
	}
}

// run makes the pull that waits. Whoever can go on first does, and may join it: on a busy machine all wait
// for a processor, and each pull that isn't made leaves it to somebody.
func (b *barrier) run() {
	runtime.Gosched()
	b.mu.Lock()
	r := b.next
	b.next = nil
	b.mu.Unlock()
	defer b.finish()
	defer close(r.done)
	if err := flight.Guard(b.panicked, func() { r.err = b.pull() }); err != nil {
		r.err = err
	}
}
