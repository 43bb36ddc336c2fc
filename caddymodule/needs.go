package caddymodule

import (
	"sync/atomic"
	"time"
)

// needs is what the handlers of a memory need to know of requests, so that all of them
// watch for it: those of the running configuration, and during a reload also those of the next.
//
//	1 site a absorbs: a write of "online" is remembered
//	2 site b does nothing of the kind: a sync sets "unavailable" through it
//	3 site a: "online" again, which is no repeat, as b must tell
//
// To watch is to look at a request and to forget what may no longer be true. What becomes of a
// request is its own handler's business.
type needs struct {
	syncs, activity atomic.Bool
	// absorbs and limitsSyncs tell that some handler acts upon what it knows, in mode enforce.
	absorbs, limitsSyncs atomic.Bool
	settle               atomic.Int64 // the longest, in nanoseconds
}

// update is called when there are others. It needs the plans' lock.
func (n *needs) update(tenants map[*Handler]*site) {
	var syncs, activity, absorbs, limitsSyncs bool
	var settle time.Duration
	for h := range tenants {
		syncs, activity = syncs || h.set.watchesSyncs(), activity || h.set.watchesActivity()
		if !h.set.observe {
			absorbs, limitsSyncs = absorbs || h.set.absorbs, limitsSyncs || h.set.sync == syncLimit
		}
		settle = max(settle, h.set.settle)
	}
	n.syncs.Store(syncs)
	n.activity.Store(activity)
	n.absorbs.Store(absorbs)
	n.limitsSyncs.Store(limitsSyncs)
	n.settle.Store(int64(settle))
}

// watchesSyncs tells whether this handler, or another of its memory, needs to know of syncs.
// One whose configuration has ended may have requests under way.
func (h *Handler) watchesSyncs() bool { return h.set.watchesSyncs() || h.memory.needs.syncs.Load() }

// watchesActivity tells the same of activity.
func (h *Handler) watchesActivity() bool {
	return h.set.watchesActivity() || h.memory.needs.activity.Load()
}

// settle is for how long nothing is kept after a write: as long as any handler of the memory
// has it, because what one stores the others serve.
func (h *Handler) settle() time.Duration {
	return max(h.set.settle, time.Duration(h.memory.needs.settle.Load()))
}
