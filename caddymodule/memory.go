package caddymodule

import (
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// memories holds each memory by its name, see plan. A new configuration takes its
// references before the old one drops its own, so what is remembered
// survives a reload, and a reload that fails changes nothing.
var memories = caddy.NewUsagePool()

// eachMemory calls f with each memory of the running configuration and its name.
func eachMemory(f func(name string, m *memory)) {
	memories.Range(func(key, value any) bool {
		f(key.(string), value.(*memory))
		return true
	})
}

// memory is all that outlives a request. It holds data only: limits and
// lifetimes belong to the handlers, which a reload replaces.
type memory struct {
	clock         *clock // by which all of it ages
	name          string
	presence      *cache.Presence
	identities    *policy.Identities
	reads, writes *policy.Limiter
	syncs         *policy.Limiter // changes of presence by syncs
	devices       *policy.Devices
	software      software
	// rejected is about clients, by their address: who has shown how many tokens
	// that the homeserver doesn't know.
	rejected *policy.Limiter
	// repeats is about what users last wrote, pendings about what is still to be
	// written.
	repeats  *policy.Repeats
	pendings pendings
	// talkers are the users who were over a limit most often.
	talkers [limitCount]*policy.Talkers

	preflights *preflights
	refusals   *refusals

	fetches flights[fetchKey, *fetched]
	whoAmIs flights[[16]byte, owner] // by the credential's fingerprint
	// asking bounds how many of them the homeserver is asked at a time.
	asking *turnstile
	faults faultLog
	outage outage
	host   goodHost
	losses lossLog
	// rateHint is the hint about Synapse's rc_presence.
	rateHint sync.Once

	counters *counters
	// learning has a place for each request whose owner is asked for behind its client's
	// back, confirming for each of which the homeserver has said that it is somebody's.
	learning, confirming *seats

	mu    sync.Mutex // guards sizes
	sizes sizes

	// tenants are the handlers that have this memory, and where they stand. The plans' lock
	// guards it.
	tenants map[*Handler]*site
	needs   needs
}

// maxWhoAmIs is how many tokens the homeserver is asked about at a time. Each takes
// it about a millisecond, so that is tens of thousands a second.
const maxWhoAmIs = 64

// maxWhoAmIsEach is how many of them come from one client, as far as its address
// tells it from others.
const maxWhoAmIsEach = 8

// maxWhoAmIsWaiting is how many wait for that. It leaves room for those flights that
// haven't come to wait yet.
const maxWhoAmIsWaiting = maxFlights / 2

func newMemory(name string, s sizes) *memory {
	clock := newClock()
	now := clock.now()
	m := &memory{
		name:       name,
		clock:      clock,
		presence:   cache.NewPresence(s.states, s.permissions, now),
		identities: policy.NewIdentities(s.tokens, now),
		reads:      policy.NewLimiter(s.tokens, now),
		writes:     policy.NewLimiter(s.tokens, now),
		syncs:      policy.NewLimiter(s.tokens, now),
		devices:    policy.NewDevices(s.tokens, now),
		rejected:   policy.NewLimiter(s.tokens, now),
		repeats:    policy.NewRepeats(s.tokens, now),
		pendings:   pendings{sending: make(chan struct{}, maxDeliveries)},
		preflights: newPreflights(),
		fetches:    flights[fetchKey, *fetched]{crashed: func(err error) *fetched { return &fetched{subresponse: &subresponse{err: err}, crashed: true} }},
		whoAmIs:    flights[[16]byte, owner]{crashed: func(err error) owner { return owner{err: err, crashed: true} }},
		refusals:   newRefusals(),
		asking:     newTurnstile(maxWhoAmIs, maxWhoAmIsEach, maxWhoAmIsWaiting),
		counters:   newCounters(name),
		learning:   newSeats(maxLearning, maxLearningEach),
		confirming: newSeats(maxLearning, maxLearningEach),
		sizes:      s,
		tenants:    make(map[*Handler]*site),
	}
	for limit := range m.talkers {
		m.talkers[limit] = policy.NewTalkers(maxTalkers, now)
	}
	return m
}

// now returns the time by which all that is remembered ages.
func (m *memory) now() time.Time { return m.clock.now() }

// Destruct implements caddy.Destructor. It leaves the memory usable: requests
// may still be under way when the last configuration that names it is gone.
func (m *memory) Destruct() error {
	// As the other counters do, these begin anew with another memory of the name.
	upstreamSeconds.DeletePartialMatch(prometheus.Labels{"cache": m.name})
	return nil
}

// resize makes the tables fit s. It is called when a handler serves its first
// request, not when it is provisioned: that configuration may yet fail.
func (m *memory) resize(s sizes) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sizes == s {
		return
	}
	m.sizes = s
	m.presence.Resize(s.states, s.permissions)
	m.identities.Resize(s.tokens)
	m.reads.Resize(s.tokens)
	m.writes.Resize(s.tokens)
	m.syncs.Resize(s.tokens)
	m.devices.Resize(s.tokens)
	m.rejected.Resize(s.tokens)
	m.repeats.Resize(s.tokens)
}

// takeMemory gets the handler's memory out of the pool.
func (h *Handler) takeMemory(ctx caddy.Context) error {
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
	server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	h.named = plan.fieldsIn(server)
	h.siteNames = h.named.names()
	value, _, err := memories.LoadOrNew(site.memory, func() (caddy.Destructor, error) {
		return newMemory(site.memory, h.set.sizes), nil
	})
	if err != nil {
		return fmt.Errorf("taking the memory %q: %w", site.memory, err)
	}
	h.memory, h.memoryName, h.plan, h.site = value.(*memory), site.memory, plan, site
	if h.set.dialect == auto {
		h.set.dialect = dialects[site.dialect]
	}
	plan.taken++
	if plan.app != nil {
		plans.of[plan.app] = plan
	}
	h.memory.tenants[h] = site
	h.memory.needs.update(h.memory.tenants)
	return nil
}

// dropMemory undoes what takeMemory did, if it did. The handler stays usable for requests that
// are still under way.
func (h *Handler) dropMemory() error {
	plans.Lock()
	defer plans.Unlock()
	if h.memory == nil {
		return nil
	}
	if h.plan.taken--; h.plan.taken == 0 {
		delete(plans.of, h.plan.app)
	}
	delete(h.memory.tenants, h)
	h.memory.needs.update(h.memory.tenants)
	_, err := memories.Delete(h.memoryName)
	return err
}
