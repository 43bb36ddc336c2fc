package caddymodule

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// memories holds the memory of each cache name. A new configuration takes its
// references before the old one drops its own, so what is remembered
// survives a reload, and a reload that fails changes nothing.
var memories = caddy.NewUsagePool()

// memory is all that outlives a request. It holds data only: limits and
// lifetimes belong to the handlers, which a reload replaces.
type memory struct {
	presence      *cache.Presence
	identities    *policy.Identities
	reads, writes *policy.Limiter

	fetches flights[fetchKey, *fetched]
	lookups flights[lookupKey, lookup]
	// lookupSlots bounds how many lookups ask the homeserver at a time.
	lookupSlots chan struct{}
	health      lookupHealth
	fault       atomic.Int32 // why lookups fail, as last logged

	mu    sync.Mutex // guards sizes
	sizes sizes
}

// maxLookups is how many lookups ask the homeserver at a time. Each takes it less
// than a millisecond as a rule, so that is tens of thousands a second.
const maxLookups = 64

func newMemory(s sizes) *memory {
	now := time.Now()
	return &memory{
		presence:    cache.NewPresence(s.states, s.permissions, now),
		identities:  policy.NewIdentities(s.tokens, now),
		reads:       policy.NewLimiter(s.tokens, now),
		writes:      policy.NewLimiter(s.tokens, now),
		lookupSlots: make(chan struct{}, maxLookups),
		sizes:       s,
	}
}

// Destruct implements caddy.Destructor. It leaves the memory usable: requests
// may still be under way when the last configuration that names it is gone.
func (m *memory) Destruct() error { return nil }

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
}

// claims tells which handlers of a configuration go without a cache name, to
// refuse two that would get the same one. A handler drops its claim when it is
// cleaned up.
var claims = struct {
	sync.Mutex
	by map[claim]*Handler
}{by: make(map[claim]*Handler)}

type claim struct {
	// config is the same for all modules of a configuration, and for none of
	// another.
	config <-chan struct{}
	name   string
}

// takeMemory gets the handler's memory out of the pool.
func (h *Handler) takeMemory(ctx caddy.Context) error {
	name := ""
	if h.Cache != nil {
		name = h.Cache.Name
	}
	if name == "" {
		name = siteName(ctx)
		h.claim = claim{ctx.Done(), name}
		claims.Lock()
		other := claims.by[h.claim]
		if other == nil {
			claims.by[h.claim] = h
		}
		claims.Unlock()
		if other != nil {
			h.claim = claim{}
			return fmt.Errorf("two matrix_presence handlers in %s: give each a cache name, "+
				"the same one if they front the same homeserver, such as cache { name example.com }", name)
		}
	}
	value, _, err := memories.LoadOrNew(name, func() (caddy.Destructor, error) {
		return newMemory(h.set.sizes), nil
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

// siteName names the site whose route is being provisioned after its server and
// hosts, such as "srv0 matrix.example.com". A reload finds it again under that
// name, and another site doesn't, wherever it stands in the file.
func siteName(ctx caddy.Context) string {
	srv, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || srv == nil {
		return "default"
	}
	var hosts []string
	for _, route := range srv.Routes {
		// Routes are provisioned in order, and a route gets its handlers when all
		// of them are: the first one without is ours.
		if len(route.Handlers) > 0 || len(route.HandlersRaw) == 0 {
			continue
		}
		for _, set := range route.MatcherSets {
			for _, matcher := range set {
				switch match := matcher.(type) {
				case *caddyhttp.MatchHost:
					hosts = append(hosts, *match...)
				case caddyhttp.MatchHost:
					hosts = append(hosts, match...)
				}
			}
		}
		break
	}
	slices.Sort(hosts)
	return strings.Join(append([]string{srv.Name()}, slices.Compact(hosts)...), " ")
}
