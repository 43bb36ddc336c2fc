package gateway

import (
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"weak"
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

// HandOver notes that a gateway of another store comes in this one's place. So it does in the place of those that
// this one's store has followed: a request may outlive two configurations.
func (g *Gateway) HandOver(to *Store) {
	if to == g.store {
		return
	}
	g.store.ancestors.each(func(h *heirs) { h.add(to) })
	g.heirs.add(to)
}

// TakeBack undoes HandOver, for a configuration that was refused, or is over.
func (g *Gateway) TakeBack(from *Store) {
	g.store.ancestors.each(func(h *heirs) { h.remove(from) })
	g.heirs.remove(from)
}

// add notes that a store is one of them, and with the store whose it is.
func (h *heirs) add(to *Store) {
	if !slices.Contains(h.list(), to) {
		stores := append(slices.Clone(h.list()), to)
		h.stores.Store(&stores)
		to.ancestors.add(h)
	}
}

func (h *heirs) remove(from *Store) {
	if slices.Contains(h.list(), from) {
		stores := slices.DeleteFunc(slices.Clone(h.list()), func(m *Store) bool { return m == from })
		h.stores.Store(&stores)
	}
}

// ancestors are the heirs of the gateways, of other stores, that a store is one of. They are as many as
// there were handlers in the configuration before the one that the store is new in, and in those whose
// stores that one's have followed in the same way.
type ancestors struct {
	mu  sync.Mutex // guards all
	all []weak.Pointer[heirs]
}

func (a *ancestors) add(h *heirs) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all = append(a.all, weak.Make(h))
}

// each calls f with each whose gateway may have requests under way.
func (a *ancestors) each(f func(h *heirs)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all = slices.DeleteFunc(a.all, func(p weak.Pointer[heirs]) bool { return p.Value() == nil })
	for _, p := range a.all {
		if h := p.Value(); h != nil {
			f(h)
		}
	}
}

func (h *heirs) list() []*Store {
	if stores := h.stores.Load(); stores != nil {
		return *stores
	}
	return nil
}

// stores are the gateway's own and its heirs. All of them hear of what a request has ended.
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
