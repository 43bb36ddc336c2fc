package gateway

import (
	"iter"
	"slices"
	"sync/atomic"
)

// heirs are the stores of the gateways that have come in a gateway's place. A new configuration has another
// store for the same hosts if that has another name, or if it can't be told that the homeserver is
// the same. Requests of the old one are still under way then, and what these change at the homeserver must not
// be unknown to the new store:
//
//	1 write:  is sent on by the old gateway
//	2 reload: the homeserver has a second address, so there is a new store
//	3 read:   shows the old state, which is stored there
//	1 write:  is acknowledged
//	4 read:   must not be answered by what 3 has stored
//
// The gateway's own store may live on, for other hosts: it has no heirs.
type heirs struct{ stores atomic.Pointer[[]*Store] }

// HandOver notes that a gateway of another store comes in this one's place.
func (g *Gateway) HandOver(to *Store) {
	if to != g.store && !slices.Contains(g.heirs.list(), to) {
		stores := append(slices.Clone(g.heirs.list()), to)
		g.heirs.stores.Store(&stores)
	}
}

// TakeBack undoes HandOver, for a configuration that was refused.
func (g *Gateway) TakeBack(from *Store) {
	if slices.Contains(g.heirs.list(), from) {
		stores := slices.DeleteFunc(slices.Clone(g.heirs.list()), func(m *Store) bool { return m == from })
		g.heirs.stores.Store(&stores)
	}
}

func (h *heirs) list() []*Store {
	if stores := h.stores.Load(); stores != nil {
		return *stores
	}
	return nil
}

// stores are the gateway's own and its heirs, all of which are to hear of what a request has ended.
func (t tenant) stores() iter.Seq[*Store] {
	return func(yield func(*Store) bool) {
		if yield(t.store) {
			slices.Values(t.heirs.list())(yield)
		}
	}
}

// tellHeirs has the heirs forget the presence of a user whom a request has changed, or may have. It is
// called before anybody is told.
func (t tenant) tellHeirs(userID string) {
	for _, m := range t.heirs.list() {
		m.changed(userID, t.settle())
	}
}
