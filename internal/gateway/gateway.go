package gateway

import (
	"log/slog"
	"net/http"
	"strings"
	"sync"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/pending"
)

// Gateway stands in front of a homeserver under one configuration. What it remembers is in a
// [Store], which other gateways may share and which outlives it.
type Gateway struct {
	tenant
	lookups lookupRules // those of cfg, with what may be added
	server  Server
	waiting *pending.Source // its writes that wait

	site      *SiteFields // that the site's handlers name
	siteNames []string    // of the header fields that requests of ours have for the site
	oversized sync.Once   // the first of these that doesn't fit tells it

	served       sync.Once // the first request makes the store fit
	begin        func()    // is called before it is served, or nil
	notSupported sync.Once // logs once that sync_presence strip has no effect
	strays       strays
}

// NewGateway returns a gateway in a web server, at a site whose handlers name these fields.
func NewGateway(set *Settings, m *Store, server Server, fields *SiteFields, logger *slog.Logger) *Gateway {
	return &Gateway{
		tenant: tenant{cfg: set, store: m, heirs: new(heirs), logger: logger}, lookups: newLookupRules(&set.Rules), server: server, waiting: m.pendings.NewSource(set.Coalesce),
		site: fields, siteNames: fields.Names(),
	}
}

// BeforeServing has f called before the first request is served: until then, the configuration may yet fail. It is to be
// called before that, once.
func (g *Gateway) BeforeServing(f func()) { g.begin = f }

// tenant is one configuration of those that share a store. What outlives a request of a
// configuration's holds this, and no gateway.
type tenant struct {
	cfg    *Settings
	store  *Store
	heirs  *heirs
	logger *slog.Logger
}

// Settings returns what the gateway was made with.
func (g *Gateway) Settings() *Settings { return g.cfg }

// Fields returns the header fields that the site's handlers name.
func (g *Gateway) Fields() *SiteFields { return g.site }

// Serve answers a request or sends it on, perhaps another one than it came. An error that it
// returns is the next handler's, as it is, or a [Failure].
func (g *Gateway) Serve(w http.ResponseWriter, r *http.Request, next Next) error {
	g.served.Do(func() {
		g.store.resize(g.cfg.Sizes)
		g.store.brownOuts.Store(g.logger)
		if g.begin != nil {
			g.begin()
		}
	})

	if hasOpaqueTarget(r) && !g.cfg.Observe {
		writeMatrixError(w, r, http.StatusBadRequest, matrixError{
			Errcode: "M_UNRECOGNIZED", Error: "The request target must be a path or an http URL, and CONNECT is for WebSockets only",
		})
		return nil
	}
	if g.isTooEarly(r) {
		writeTooEarly(w, r)
		return nil
	}
	if !g.cfg.Observe && mayBeInHand(r.URL.Path) && g.isInHand(r) {
		return next.ServeHTTP(w, r)
	}
	return g.serve(w, r, next)
}

// serve is Serve of a request that has a path, and that no other gateway of the store has in hand.
func (g *Gateway) serve(w http.ResponseWriter, r *http.Request, next Next) error {
	method := methodOf(r)
	switch method {
	case http.MethodOptions:
		if g.cfg.Preflight {
			if kind, ok := newPreflightKind(r); ok && !g.site.ReadsAny(r.Header) && (g.cfg.Observe || !hasBody(r)) {
				return g.servePreflight(w, r, next, kind)
			}
		}
	case http.MethodGet, http.MethodHead, http.MethodPut:
		route, ok := presenceRoute(r)
		if ok {
			g.strays.judged.Store(true)
		}
		switch {
		case !ok:
		case g.cfg.Observe:
			return g.observe(w, r, next, route)
		case method == http.MethodPut:
			return g.serveWrite(w, r, next, route)
		default:
			return g.serveRead(w, r, next, route)
		}
	}
	return g.servePassing(w, r, next)
}

// servePassing passes on what isn't a presence request, and learns from what may say something of one.
func (g *Gateway) servePassing(w http.ResponseWriter, r *http.Request, next Next) error {
	method := methodOf(r)
	route, isSync := syncRoute(r)
	var done func()
	switch {
	case isSync && route != matrix.SlidingSync && (g.learns() || g.store.needs.learns.Load()):
		w, done = g.passNews(w, r, next, route)
	case g.learns():
		w, done = g.overhear(w, r, next, method)
	}
	if done != nil {
		defer done()
	}
	if isSync && g.watchesSyncs() {
		return g.serveSync(w, r, next, route)
	}
	if change, ok := matrix.ParseMembershipChange(method, r.URL.EscapedPath()); ok {
		return g.serveMembership(w, r, next, change)
	}
	return g.serveOther(w, r, next)
}

// serveOther passes on a request that isn't about presence, and looks at what may end what is
// remembered.
func (g *Gateway) serveOther(w http.ResponseWriter, r *http.Request, next Next) error {
	method := methodOf(r)
	if g.watchesActivity() && matrix.IsActivity(method, r.URL.EscapedPath()) {
		return g.serveActivity(w, r, next)
	}
	if revocation, ok := matrix.ParseRevocation(method, r.URL.EscapedPath()); ok {
		return g.serveRevocation(w, r, next, revocation)
	}
	if g.strays.concern(r.URL.Path) {
		w = g.countStrays(w)
	}
	return next.ServeHTTP(w, r)
}

// mayBeInHand tells of a path that it may be that of a presence or a sync. Of these, and of
// requests of our own, each gets through one gateway of a store: the first in its way, if there
// are two. For the second it would be one more request of the same user, and a fetch of the
// first's would wait there for itself.
func mayBeInHand(path string) bool {
	return strings.HasPrefix(path, matrix.ClientPrefix) &&
		(strings.Contains(path, "/presence/") || strings.HasSuffix(path, "/sync"))
}

// hasOpaqueTarget tells of a request that its URL's path doesn't tell where it goes. No client
// sends such to a homeserver:
//
//   - PUT x:http://h/_matrix/…: net/http keeps what is after the colon apart
//     from the path, and reverse_proxy sends it as the target. Dendrite takes the
//     write.
//   - CONNECT h: for a homeserver that goes along, all that follows is a tunnel. The same
//     holds for an extended CONNECT, which has a path, unless it is for a WebSocket:
//     reverse_proxy sends it on as a CONNECT, and what the client sends then follows
//     on the homeserver's connection as it is. That may be other requests.
func hasOpaqueTarget(r *http.Request) bool {
	return r.URL.Opaque != "" || methodOf(r) == http.MethodConnect
}

// presenceRoute recognises a presence request by the path that goes upstream. All
// its literal parts are in the decoded path too, which tells other requests
// apart for less.
func presenceRoute(r *http.Request) (matrix.PresenceRoute, bool) {
	if !strings.HasPrefix(r.URL.Path, matrix.ClientPrefix) || !strings.Contains(r.URL.Path, "/presence/") {
		return matrix.PresenceRoute{}, false
	}
	return matrix.ParsePresenceRoute(r.URL.EscapedPath())
}
