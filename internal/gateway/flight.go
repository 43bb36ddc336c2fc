package gateway

import (
	"fmt"
	"sync"
)

// maxFlights bounds how many requests of ours are under way in one group at a
// time. A flight outlives the client that began it, so the number of clients
// doesn't bound it.
const maxFlights = 4096

// flights makes one request out of several concurrent ones that may share an
// answer. Other than golang.org/x/sync/singleflight it can also let a caller
// wait for the next departure, and it has a bound:
//
//	1 reader: begins flight A
//	1 flight A: the homeserver reads the old state
//	2 writer: the homeserver applies a write, not yet acknowledged
//	3 reader: goes by a way of its own, gets the new state
//	4 reader: must not get A's answer, which is older than what 3 has seen;
//	  boards B, which departs when A has landed
//
// So under a write a target costs no more than one request at a time, and no
// reader gets a state from before it came.
type flights[K comparable, V any] struct {
	// panicked is told of the panic of a flight's function, unless it is nil.
	panicked func(reason any)
	// crashed returns the result of a flight whose function has panicked.
	crashed func(err error) V

	mu    sync.Mutex // guards lanes and what they hold
	lanes map[K]*lane[V]
}

// lane is what there is for one key: a flight in the air, and the one that
// departs after it, if anybody waits for that.
type lane[V any] struct{ current, next *flight[V] }

type flight[V any] struct {
	fly    func() V
	landed chan struct{}
	result V // set before landed is closed
}

// board returns the flight whose result the caller is to use, and whether it is
// the caller's own. A caller that may not share the current flight gets on the
// next. There is none, nil, if too many are in the air.
//
// If depart is not nil the flight is the caller's to begin, at once: by calling
// depart, or in a goroutine if the caller won't stay for its end. If fly panics the
// flight lands all the same, with an error for all who wait.
func (g *flights[K, V]) board(key K, shareCurrent bool, fly func() V) (f *flight[V], own bool, depart func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.lanes[key]
	switch {
	case l == nil:
		if len(g.lanes) >= maxFlights {
			return nil, false, nil
		}
		if g.lanes == nil {
			g.lanes = make(map[K]*lane[V])
		}
		l = &lane[V]{current: newFlight(fly)}
		g.lanes[key] = l
		return l.current, true, func() { g.depart(key, l) }
	case shareCurrent:
		return l.current, false, nil
	case l.next == nil:
		l.next = newFlight(fly)
		return l.next, true, nil
	default:
		return l.next, false, nil
	}
}

func newFlight[V any](fly func() V) *flight[V] {
	return &flight[V]{fly: fly, landed: make(chan struct{})}
}

// depart flies the current flight of a lane. If somebody waits for the next one, a
// goroutine flies that, so that whoever began this one can go.
func (g *flights[K, V]) depart(key K, l *lane[V]) {
	f := l.current
	defer g.land(key, l)
	f.result = g.alone(f.fly)
}

// alone flies for a caller who shares that with nobody. If fly panics that is its result.
func (g *flights[K, V]) alone(fly func() V) (result V) {
	if err := guard(g.panicked, func() { result = fly() }); err != nil {
		result = g.crashed(err)
	}
	return result
}

// land ends the current flight of a lane.
func (g *flights[K, V]) land(key K, l *lane[V]) {
	f := l.current
	g.mu.Lock()
	defer g.mu.Unlock()
	close(f.landed)
	if l.current, l.next = l.next, nil; l.current == nil {
		delete(g.lanes, key)
	} else {
		go g.depart(key, l)
	}
}

// guard calls f, and tells of a panic and returns it as an error. In a goroutine of our own
// nobody else would, and that would be the end of the process.
func guard(panicked func(reason any), f func()) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			if panicked != nil {
				panicked(reason)
			}
			err = fmt.Errorf("a request of our own panicked: %v", reason)
		}
	}()
	f()
	return nil
}
