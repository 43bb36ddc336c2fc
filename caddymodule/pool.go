package caddymodule

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

// stores holds each store by its name, see plan. A new configuration takes its
// references before the old one drops its own, so what is remembered
// survives a reload, and a reload that fails changes nothing.
var stores = caddy.NewUsagePool()

// eachStore calls f with each store of the running configuration and its name.
func eachStore(f func(name string, m *pooled)) {
	stores.Range(func(key, value any) bool {
		f(key.(string), value.(*pooled))
		return true
	})
}

// allStores returns the stores of the running configuration, by name. Who needs the plans' lock
// takes it after this: a configuration that begins has that lock when it takes the pool's.
func allStores() (all []*pooled) {
	eachStore(func(_ string, m *pooled) { all = append(all, m) })
	slices.SortFunc(all, func(a, b *pooled) int { return strings.Compare(a.name, b.name) })
	return all
}

// pooled is a store in the pool.
type pooled struct {
	store *gateway.Store
	name  string

	// tenants are the handlers that have it, and where they stand. The plans' lock guards
	// it.
	tenants map[*Handler]*site

	// since is the ID of the plan of the configuration that it is new in.
	since planID

	// feeds are those that the store follows, by their key. The plans' lock guards them.
	feeds map[string]*following

	// members are its parts in clusters, by their key. The plans' lock guards them.
	members map[string]*member

	// keepers are what keeps it in files, by their paths. The plans' lock guards them.
	keepers map[string]*keeping
}

// newPooled returns a new store of a name.
func newPooled(name string, s gateway.Sizes) *pooled {
	latency := func(reason string) gateway.Observer { return upstreamSeconds.WithLabelValues(name, reason) }
	return &pooled{
		store: gateway.NewStore(s, latency, logPanic), name: name,
		tenants: make(map[*Handler]*site), feeds: make(map[string]*following), members: make(map[string]*member),
		keepers: make(map[string]*keeping),
	}
}

// logPanic logs a panic of a request of our own, which belongs to no handler of the running
// configuration for certain.
func logPanic(reason any) {
	caddy.Log().Named("http.handlers.matrix_presence").Error("a request of our own panicked",
		zap.Any("panic", reason), zap.Stack("stack"))
}

// Destruct implements caddy.Destructor. It leaves the store usable: requests
// may still be under way when the last configuration that names it is gone.
func (p *pooled) Destruct() error {
	// As the other counters do, these begin anew with another store of the name.
	// Each by its name: to look for them goes through those of all stores.
	for _, reason := range gateway.ReasonNames {
		upstreamSeconds.DeleteLabelValues(p.name, reason)
	}
	return nil
}

// takeStore gets the handler's store out of the pool, and makes its gateway.
func (h *Handler) takeStore(ctx caddy.Context, set *gateway.Settings) error {
	name := ""
	if h.Cache != nil {
		name = h.Cache.Name
	}
	plans.Lock()
	defer plans.Unlock()
	plan, site, err := planFor(ctx, name)
	if err != nil {
		return err
	}
	if err := cmp.Or(h.checkOneCluster(plan, site.store), plan.checkSnapshot(site.store, h.snapshot)); err != nil {
		return err
	}
	server := serverOf(ctx)
	value, _, err := stores.LoadOrNew(site.store, func() (caddy.Destructor, error) {
		m := newPooled(site.store, set.Sizes)
		m.since = plan.id
		return m, nil
	})
	if err != nil {
		return fmt.Errorf("taking the store %q: %w", site.store, err)
	}
	if set.Dialect == gateway.Auto {
		set.Dialect = gateway.Dialects[site.dialect]
	}
	h.pooled, h.plan = value.(*pooled), plan
	h.gateway = gateway.NewGateway(set, h.pooled.store, caddyServer{}, plan.fieldsIn(server), ctx.Slogger())
	plan.taken++
	if plan.app != nil {
		plans.of[plan.app] = plan
	}
	h.pooled.tenants[h] = site
	h.pooled.update()
	doubt, begin := h.inherit(site, plan), func() {}
	if h.feed != nil {
		h.pooled.follow(h.feed)
	}
	if h.cluster != nil {
		begin = h.pooled.join(h).begin
	}
	h.gateway.BeforeServing(func() { doubt(); begin() })
	if h.snapshot != "" {
		h.keeper = h.pooled.keep(h, site)
	}
	return nil
}

// dropStore undoes what takeStore did. The handler stays usable for requests that
// are still under way.
func (h *Handler) dropStore() error {
	stop, leave, end := func() {}, func() {}, func() {}
	defer func() { stop(); leave(); end() }() // without the lock: they wait for goroutines
	plans.Lock()
	defer plans.Unlock()
	if h.feed != nil {
		stop = h.pooled.unfollow(h.feed)
	}
	if h.cluster != nil {
		leave = h.pooled.leave(h)
	}
	if h.plan.taken--; h.plan.taken == 0 {
		delete(plans.of, h.plan.app)
	}
	delete(h.pooled.tenants, h)
	h.pooled.update()
	gone, err := stores.Delete(h.pooled.name)
	if h.keeper != nil {
		end = h.pooled.unkeep(h, gone)
	}
	if gone {
		eachStore(func(_ string, m *pooled) {
			for other := range m.tenants {
				other.gateway.TakeBack(h.pooled.store)
			}
		})
	}
	return err
}

// inherit has the handlers of the configuration before tell the handler's store, if that is new to requests of the
// site, what those change that they still have under way. What is over need not have settled yet. And what a store
// remembers that others have had till now may be untrue after what has come to the site meanwhile: doubt is to be called
// before the handler serves, as until then the configuration may yet fail. It needs the plans' lock.
func (h *Handler) inherit(s *site, p *plan) (doubt func()) {
	here, elsewhere := make(map[*Handler]*site), make(map[*Handler]*site)
	eachStore(func(_ string, m *pooled) {
		for other, was := range m.tenants {
			switch {
			case other.plan == p:
			case m == h.pooled:
				here[other] = was
			default:
				elsewhere[other] = was
			}
		}
	})
	isNew := h.pooled.since == p.id
	if !isNew && !s.comesFrom(slices.Collect(maps.Values(elsewhere)), slices.Collect(maps.Values(here))) {
		return func() {}
	}
	follows := false
	for other, was := range elsewhere {
		if s.mayFollow(was) {
			other.gateway.HandOver(h.pooled.store)
			follows = true
		}
	}
	switch {
	case !isNew:
		return p.doubtOnce(h.pooled.store)
	case follows:
		h.pooled.store.DoubtAll()
	}
	return func() {}
}

// update has all who use the store watch for what one of them needs to know. It needs the
// plans' lock.
func (p *pooled) update() {
	p.store.WatchFor(p.allSettings())
}

// allSettings returns those of all handlers that have the store. It needs the plans' lock.
func (p *pooled) allSettings() (all []*gateway.Settings) {
	for h := range p.tenants {
		all = append(all, h.gateway.Settings())
	}
	return all
}
