package caddymodule

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/cluster"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

// clusterNamespace is where guest modules are that are a [Cluster].
const clusterNamespace = "http.handlers.matrix_presence.cluster"

// Cluster is a module that keeps the log which several nodes before one homeserver share. What it
// opens must stay usable when the configuration that it came with has ended.
type Cluster interface {
	// Key is equal for clusters that are the same, and unequal for all others. It is no secret.
	Key() string

	// Open returns the log of the nodes with this cache name. It connects to nothing yet.
	Open(name string) cluster.Log

	// Rules say what a node does with it.
	Rules() gateway.ClusterRules
}

// parseCluster parses "cluster <module> { … }".
func (h *Handler) parseCluster(d *caddyfile.Dispenser) error {
	module, raw, err := parseGuest(d, clusterNamespace, "cluster", "store")
	if err != nil {
		return err
	}
	h.ClusterRaw = raw
	h.cluster, _ = module.(Cluster) // for what options mean together
	return nil
}

// parseGuest parses the name of an option and a guest module of a namespace, with its block. It returns the
// module, and its JSON with its name under a key.
func parseGuest(d *caddyfile.Dispenser, namespace, option, key string) (caddyfile.Unmarshaler, []byte, error) {
	if !d.NextArg() {
		return nil, nil, d.Errf("parsing %s: expected the name of a module, such as redis", option)
	}
	name := d.Val()
	module, err := caddyfile.UnmarshalModule(d, namespace+"."+name)
	if err != nil {
		if _, unknown := caddy.GetModule(namespace + "." + name); unknown != nil {
			return nil, nil, d.Errf("parsing %s: this Caddy has no %[1]s '%s'. Build it with the module that has: "+
				"--with github.com/caddy-matrix/caddy-matrix-presence/redis for redis", option, name)
		}
		return nil, nil, fmt.Errorf("parsing %s: %w", option, err)
	}
	return module, caddyconfig.JSONModuleObject(module, key, name, nil), nil
}

// loadCluster loads the guest module, if there is one.
func (h *Handler) loadCluster(ctx caddy.Context) (Cluster, error) {
	if h.ClusterRaw == nil {
		return nil, nil
	}
	module, err := ctx.LoadModule(h, "ClusterRaw")
	if err != nil {
		return nil, fmt.Errorf("loading the cluster: %w", err)
	}
	c, ok := module.(Cluster)
	if !ok {
		return nil, fmt.Errorf("loading the cluster: a %T is none", module)
	}
	return c, nil
}

// checkCluster refuses what a cluster can't be together with. C is nil if there is none.
func checkCluster(h *Handler, c Cluster) error {
	switch {
	case c == nil:
	case h.Cache == nil || h.Cache.Name == "":
		return blame("cluster", "checking cluster: it needs a cache name, the same on all nodes, %s", suchAs)
	}
	return nil
}

// checkOneCluster refuses a cluster that isn't that of another handler of the same store and configuration: what is
// remembered there can be as new as one log only. It needs the plans' lock.
func (h *Handler) checkOneCluster(p *plan, store string) (err error) {
	eachStore(func(name string, m *pooled) {
		for other := range m.tenants {
			if name == store && other.plan == p && h.cluster != nil && other.cluster != nil && other.clusterKey() != h.clusterKey() {
				err = fmt.Errorf("the matrix_presence handlers of the cache %s can't be part of two clusters: give all of them the same options of cluster", store)
			}
		}
	})
	return err
}

// clusterKey tells a handler's cluster from others of its store.
func (h *Handler) clusterKey() string { return h.Cache.Name + "\x00" + h.cluster.Key() }

// member is a store's part in a cluster, for so many handlers. It begins before one of them serves its first request,
// and when their configuration has started: one that is only checked, or that fails, changes nothing of what is
// remembered.
type member struct {
	handlers int // the plans' lock guards it
	join     func() (leave func())

	mu    sync.Mutex // guards all below
	leave func()     // nil: it hasn't begun
	ended bool
}

// begin has the store take part. It does nothing when it is called again.
func (m *member) begin() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.leave == nil && !m.ended {
		m.leave = m.join()
	}
}

func (m *member) end() {
	m.mu.Lock()
	leave := m.leave
	m.ended = true
	m.mu.Unlock()
	if leave != nil {
		leave() // without the lock: it waits for goroutines
	}
}

// join makes the store part of a handler's cluster, unless it is already: it stays so over a
// reload. It needs the plans' lock.
func (p *pooled) join(h *Handler) *member {
	m := p.members[h.clusterKey()]
	if m == nil {
		log, rules := h.cluster.Open(h.Cache.Name), h.cluster.Rules()
		m = &member{join: func() (leave func()) { return p.store.Join(log, rules, guestLog("cluster")) }}
		p.members[h.clusterKey()] = m
	}
	m.handlers++
	return m
}

// leave undoes a join, and returns what is to be called without the lock. It needs the plans' lock.
func (p *pooled) leave(h *Handler) (end func()) {
	m := p.members[h.clusterKey()]
	if m.handlers--; m.handlers > 0 {
		return func() {}
	}
	delete(p.members, h.clusterKey())
	return m.end
}

// beginMembers has the store take part in all its clusters.
func (p *pooled) beginMembers() {
	plans.Lock()
	members := slices.Collect(maps.Values(p.members))
	plans.Unlock()
	for _, m := range members {
		m.begin()
	}
}
