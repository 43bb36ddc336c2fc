package caddymodule

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// memories holds the memory of each cache name. A new configuration takes its
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

	fetches flights[fetchKey, *fetched]
	whoAmIs flights[whoAmIKey, owner]
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
	// back.
	learning chan struct{}

	mu    sync.Mutex // guards sizes
	sizes sizes
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
	now := time.Now()
	m := &memory{
		name:       name,
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
		asking:     newTurnstile(maxWhoAmIs, maxWhoAmIsEach, maxWhoAmIsWaiting),
		counters:   newCounters(name),
		learning:   make(chan struct{}, maxLearning),
		sizes:      s,
	}
	for limit := range m.talkers {
		m.talkers[limit] = policy.NewTalkers(maxTalkers, now)
	}
	return m
}

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

// claims tells which handlers of a configuration go without a cache name, to
// refuse two of a server that would get the same one. A handler drops its claim
// when it is cleaned up.
var claims = struct {
	sync.Mutex
	by map[claim]*Handler
}{by: make(map[claim]*Handler)}

type claim struct {
	server *caddyhttp.Server // another one in each configuration
	name   string
}

// takeMemory gets the handler's memory out of the pool.
func (h *Handler) takeMemory(ctx caddy.Context) error {
	name := ""
	if h.Cache != nil {
		name = h.Cache.Name
	}
	if name == "" {
		server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
		name = siteName(server)
		h.claim = claim{server, name}
		claims.Lock()
		other := claims.by[h.claim]
		if other == nil {
			claims.by[h.claim] = h
		}
		claims.Unlock()
		if other != nil {
			h.claim = claim{}
			return fmt.Errorf("two matrix_presence handlers for %s: give each a cache name, "+
				"the same one if they front the same homeserver, such as cache { name example.com }", name)
		}
	}
	value, _, err := memories.LoadOrNew(name, func() (caddy.Destructor, error) {
		return newMemory(name, h.set.sizes), nil
	})
	if err != nil {
		return fmt.Errorf("taking the memory %q: %w", name, err)
	}
	h.memory, h.memoryName = value.(*memory), name
	return nil
}

// dropMemory undoes what takeMemory did, as far as that came. The handler stays
// usable for requests that are still under way.
func (h *Handler) dropMemory() error {
	if h.claim != (claim{}) {
		claims.Lock()
		delete(claims.by, h.claim)
		claims.Unlock()
	}
	if h.memory == nil {
		return nil
	}
	_, err := memories.Delete(h.memoryName)
	return err
}

// ownRoute returns the server's route that is being provisioned, or nil. Routes are
// provisioned in order, and a route gets its handlers when all of them are: the first
// one without is it.
func ownRoute(server *caddyhttp.Server) *caddyhttp.Route {
	for i := range server.Routes {
		if route := &server.Routes[i]; len(route.Handlers) == 0 && len(route.HandlersRaw) > 0 {
			return route
		}
	}
	return nil
}

// siteName names the site whose route is being provisioned by its hosts, or by its
// addresses if it has none: what an admin would know it by. So a reload finds its
// memory again wherever it stands in the file, and so do its other ports: a site
// is often served on several.
//
// The server's own name is of no use. It counts the servers, so that a site
// added before this one would take its memory over.
func siteName(server *caddyhttp.Server) string {
	if server == nil {
		return "default"
	}
	var hosts []string
	if route := ownRoute(server); route != nil {
		for _, set := range route.MatcherSets {
			for _, matcher := range set {
				if match, ok := matcher.(*caddyhttp.MatchHost); ok {
					hosts = append(hosts, *match...)
				}
			}
		}
	}
	if len(hosts) == 0 {
		hosts = append(hosts, server.Listen...)
	}
	slices.Sort(hosts)
	return strings.Join(slices.Compact(hosts), " ")
}
