package gateway

import (
	"sync/atomic"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// needs is what the gateways of a store need to know of requests, so that all of them
// watch for it: those of the running configuration, and during a reload also those of the next.
//
//	1 site a absorbs: a write of "online" is remembered
//	2 site b does nothing of the kind: a sync sets "unavailable" through it
//	3 site a: "online" again, which is no repeat, as b must tell
//
// To watch is to look at a request and to forget what may no longer be true. What becomes of a
// request is its own gateway's business.
type needs struct {
	syncs, activity atomic.Bool
	// absorbs and limitsSyncs tell that some gateway acts upon what it knows, in mode enforce.
	absorbs, limitsSyncs atomic.Bool
	// caches and learns tell that some gateway remembers who may see whom, and learns that from syncs.
	caches, learns atomic.Bool
	settle         atomic.Int64 // the longest, in nanoseconds
	brownOut       atomic.Bool  // presence gives way at some gateway
}

// WatchFor has all gateways of a store watch for what one of them needs to know: those with
// these settings, which are all that are in use. What is remembered of devices and of the last
// writes ends if something is watched for that wasn't. What is remembered of who may see whom ends when nobody
// watches any more for what changes that.
func (m *Store) WatchFor(all []*Settings) {
	n := &m.needs
	var syncs, activity, absorbs, limitsSyncs, caches, learns, brownOut bool
	var settle time.Duration
	for _, set := range all {
		syncs, activity = syncs || set.watchesSyncs(), activity || set.watchesActivity()
		caches, learns = caches || set.Cached, learns || set.learns()
		if !set.Observe {
			absorbs, limitsSyncs = absorbs || set.Absorbs, limitsSyncs || set.SyncPresence == SyncLimit
		}
		settle = max(settle, set.Settle)
		brownOut = brownOut || set.BrownOut
	}
	began := n.syncs.Swap(syncs) != syncs && syncs
	began = n.activity.Swap(activity) != activity && activity || began
	n.absorbs.Store(absorbs)
	n.limitsSyncs.Store(limitsSyncs)
	n.settle.Store(int64(settle))
	if n.brownOut.Swap(brownOut) && !brownOut {
		m.brownOut.Reset(m.now()) // nobody is to find a level of then later
	}
	if began {
		m.repeats.Clear()
		m.devices.Clear()
	}
	if n.caches.Swap(caches) && !caches {
		m.presence.PurgeAll(m.now())
	}
	if !n.learns.Swap(learns) && learns {
		m.batches.begin(time.Now())
	}
}

// watchesSyncs tells whether this gateway, or another of its store, needs to know of syncs.
// One whose configuration has ended may have requests under way.
func (t tenant) watchesSyncs() bool { return t.cfg.watchesSyncs() || t.store.needs.syncs.Load() }

// watchesActivity tells the same of activity.
func (g *Gateway) watchesActivity() bool {
	return g.cfg.watchesActivity() || g.store.needs.activity.Load()
}

// watchesMemberships tells the same of what changes who may see whom.
func (g *Gateway) watchesMemberships() bool { return g.cfg.Cached || g.store.needs.caches.Load() }

// watchesOnly tells that this gateway lets all syncs through as they came. In mode observe it
// finds out what it would do only if nobody of the store does it: for who does, it has to
// be remembered what the homeserver was told, not what it would have been.
func (g *Gateway) watchesOnly() bool {
	return g.cfg.SyncPresence == syncPass || g.cfg.Observe && g.store.needs.limitsSyncs.Load()
}

// passesBy notes a write of a credential that is on its way in mode observe, or may have been taken.
// Handlers that act upon what the homeserver was told have the next sync go through.
func (g *Gateway) passesBy(userID string, c matrix.Credential) {
	if n := &g.store.needs; n.limitsSyncs.Load() || n.absorbs.Load() {
		g.doubtAfterWrite(userID, g.store.identities.DeviceOf(c, userID))
	}
}

// passedBy notes a write that the homeserver has taken in mode observe, in which it goes as it
// came: the next sync goes through and may change what that has set, and what waits of the device
// must not come after it. A homeserver that merges devices, or that isn't known, is still told
// what other devices wrote.
func (g *Gateway) passedBy(userID string, c matrix.Credential) {
	g.passesBy(userID, c)
	m := g.store
	device, dialect := m.identities.DeviceOf(c, userID), g.knownDialect()
	m.pendings.SupersedeDevice(userID, device, dialect == Dendrite)
}

// settle is for how long nothing is kept after a write: as long as any gateway of the store
// has it, because what one stores the others serve.
func (t tenant) settle() time.Duration {
	return max(t.cfg.Settle, time.Duration(t.store.needs.settle.Load()))
}
