package cluster

import (
	"sync"
	"time"
)

// remoteWrites are the writes of other nodes that are in flight.
type remoteWrites struct {
	mu     sync.Mutex // guards writes; memory may be called with it
	writes map[remoteKey]*remoteWrite
}

type remoteKey struct {
	node  string
	write uint64
}

type remoteWrite struct {
	fence Fence
	until time.Time // from when it counts as over if nothing more is said of it
}

// maxRemote is how many are kept, some 200 bytes each. Whoever has more in flight waits for their
// homeserver: then memory is dropped at each more, and is right.
const maxRemote = 100_000

// begin notes that a write begins, or is still in flight.
func (r *remoteWrites) begin(n *Node, e *Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key, until := remoteKey{e.Node, e.Write}, n.now().Add(lasting)
	if known := r.writes[key]; known != nil {
		known.until = until
		return
	}
	if len(r.writes) >= maxRemote {
		n.drop(Told, false)
		return
	}
	r.writes[key] = &remoteWrite{fence: n.memory.Begin(e.Subject), until: until}
}

// end notes that a write is over. If its beginning isn't known, it may have been at any time.
func (r *remoteWrites) end(n *Node, e *Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := remoteKey{e.Node, e.Write}
	if known := r.writes[key]; known != nil {
		delete(r.writes, key)
		known.fence.End()
		return
	}
	n.memory.Begin(e.Subject).End()
}

// expire ends those that nothing has been said of for long: their node is gone.
func (r *remoteWrites) expire(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, w := range r.writes {
		if now.After(w.until) {
			delete(r.writes, key)
			w.fence.End()
		}
	}
}

// endAll ends all of them, as nobody will.
func (r *remoteWrites) endAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, w := range r.writes {
		delete(r.writes, key)
		w.fence.End()
	}
}
