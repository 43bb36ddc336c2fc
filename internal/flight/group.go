package flight

import "sync"

// MaxCalls bounds how many calls are under way in one group at a time. A call outlives the client
// that began it, so the number of clients doesn't bound it.
const MaxCalls = 4096

// Group makes one call out of several concurrent ones that may share an
// answer. Other than golang.org/x/sync/singleflight it can also let a caller
// wait for the next call, and it has a bound:
//
//	1 reader: begins call A
//	1 call A: the homeserver reads the old state
//	2 writer: the homeserver applies a write, not yet acknowledged
//	3 reader: goes by a way of its own, gets the new state
//	4 reader: must not get A's answer, which is older than what 3 has seen;
//	  joins B, which begins when A is done
//
// So under a write a target costs no more than one request at a time, and no
// reader gets a state from before it came.
type Group[K comparable, V any] struct {
	panicked func(reason any)
	crashed  func(err error) V

	mu    sync.Mutex // guards calls and their next
	calls map[K]*Call[V]
}

// Call is a call that several wait for.
type Call[V any] struct {
	fn     func() V
	done   chan struct{}
	result V // set before done is closed

	// next begins when this one is done, if anybody waits for it.
	next *Call[V]
}

// NewGroup returns a group without calls. It tells panicked, unless that is nil, of the panic of a
// call's function, and the call's result is then what crashed makes of the error.
func NewGroup[K comparable, V any](panicked func(reason any), crashed func(err error) V) *Group[K, V] {
	return &Group[K, V]{panicked: panicked, crashed: crashed, calls: make(map[K]*Call[V])}
}

func newCall[V any](fn func() V) *Call[V] {
	return &Call[V]{fn: fn, done: make(chan struct{})}
}

// Done returns a channel that is closed when the call is over.
func (c *Call[V]) Done() <-chan struct{} { return c.done }

// Result returns what the call brought. It may be called only when it is done.
func (c *Call[V]) Result() V { return c.result }

// Join returns the call whose result the caller is to use, and whether it is the
// caller's own. A caller that may not share the current call joins the next. There is
// none, nil, if too many are under way.
//
// If run is not nil the call is the caller's to begin, at once: by calling run, or in a
// goroutine if the caller won't stay for its end. If fn panics the call ends all the
// same, with an error for all who wait.
func (g *Group[K, V]) Join(key K, shareCurrent bool, fn func() V) (c *Call[V], own bool, run func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	current := g.calls[key]
	switch {
	case current == nil:
		if len(g.calls) >= MaxCalls {
			return nil, false, nil
		}
		first := newCall(fn)
		g.calls[key] = first
		return first, true, func() { g.run(key, first) }
	case shareCurrent:
		return current, false, nil
	case current.next == nil:
		current.next = newCall(fn)
		return current.next, true, nil
	default:
		return current.next, false, nil
	}
}

// run makes the current call of a key. If somebody waits for the next one, a goroutine
// makes that, so that whoever began this one can go.
func (g *Group[K, V]) run(key K, c *Call[V]) {
	defer g.finish(key, c)
	c.result = g.Alone(c.fn)
}

// Alone calls fn for a caller who shares that with nobody. If fn panics that is its result.
func (g *Group[K, V]) Alone(fn func() V) (result V) {
	if err := Guard(g.panicked, func() { result = fn() }); err != nil {
		result = g.crashed(err)
	}
	return result
}

// finish ends the current call of a key.
func (g *Group[K, V]) finish(key K, c *Call[V]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(c.done)
	next := c.next
	if c.next = nil; next == nil { // whoever keeps c doesn't keep all that came after
		delete(g.calls, key)
		return
	}
	g.calls[key] = next
	go g.run(key, next)
}
