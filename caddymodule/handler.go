package caddymodule

import (
	"encoding/json"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/snapshot"
)

func init() {
	caddy.RegisterModule(Handler{})
}

// Handler stands in front of a Matrix homeserver. It limits presence requests by
// Matrix user, refuses writes to other users' presence, and answers presence
// reads from memory where the homeserver would have answered the same. All other
// requests pass through it untouched, but a CONNECT, which only a WebSocket over HTTP/2 or
// HTTP/3 may be.
//
// The homeserver is whatever the next handlers proxy to. There must be exactly
// one: a handler before several would take one's word for whose access token it is at
// the other. Where it may be several, in a wildcard site that chooses by host or in a named
// route that leaves that to its sites, a handler is refused unless a cache name says that it is
// one. Give several each a site with a handler of its own.
//
// It stands before the site's respond, error, abort, handle and handle_path by default:
// put it into a route, or set the order "matrix_presence before reverse_proxy", for these
// to come first.
//
// Answers from memory have the homeserver's header fields Content-Type,
// Cache-Control, Vary, Access-Control-*, Content-Language, Expires, Pragma and
// its security policies (Content-Security-Policy, X-Content-Type-Options and the
// like); others belong to the one response that they came with.
//
// All options have defaults that are safe on Synapse, Dendrite and tuwunel.
//
// Presence answers carry a Cache-Status field (RFC 9211), and the handler
// sets these variables for access logs and other handlers:
//
// Placeholder | Description
// ------------|-------------
// `{http.vars.matrix_presence.cache}` | `hit`, `miss`, `stale` or `bypass`; reads, and preflights answered from memory
// `{http.vars.matrix_presence.decision}` | `forwarded`: the homeserver answered; `stripped_unchanged`: it answered a sync whose presence was taken out, because it changes nothing or for sync_presence strip; `stripped_limited`: likewise, over the limit or because another device comes first; `answered`: its answer from memory; `absorbed`: a repeated write, answered here; `coalesced`: a write over the limit, which waits; `rejected`: 401, no token or an unknown one; `refused`: 403, another user's presence; `limited`: 429; `shed`: 429, presence gives way to a slow homeserver; `invalid`: 400 or 413, a body that no homeserver takes; `failed`: the homeserver could not be asked; `canceled`: the client left before
// `{http.vars.matrix_presence.observed}` | in mode observe, what would have become of the request: an outcome of the metric caddy_matrix_presence_observed_total
type Handler struct {
	// WriteLimit is the budget of presence writes of each Matrix user, whatever
	// their devices, tokens and spellings of a path. Over it, the answer is 429.
	// Default: 6 in 1m, burst 5.
	WriteLimit *Limit `json:"write_limit,omitempty"`

	// ReadLimit is each user's budget of presence reads, whether or not they are
	// answered from memory. Default: 100 in 1s, burst 5000.
	ReadLimit *Limit `json:"read_limit,omitempty"`

	// SyncLimit is each user's budget of changes of presence by syncs, see SyncPresence. Over
	// it a device keeps the state that it had, until it asks again when there is
	// budget, as far as that takes no sync that says more than its client asks for, or
	// what this client has not said by a sync before. Otherwise, and if it had no state,
	// it goes as it asks. Default: 6 in 1m, burst 5.
	SyncLimit *Limit `json:"sync_limit,omitempty"`

	// Exempt lists users whom no limit applies to, such as bots and bridges, as
	// user ID patterns: "@bridge_*:example.com", where "*" stands for any run
	// of characters. It comes before the classes. The homeserver must reserve names like
	// these, such as by an appservice's exclusive namespace: otherwise anybody can register
	// one, and has no limits.
	Exempt []string `json:"exempt,omitempty"`

	// Classes give some users budgets and modes of their own. The first whose
	// patterns match a user applies.
	Classes []Class `json:"classes,omitempty"`

	// Mode is "enforce", or "observe": then every request goes to the homeserver as
	// it came, and every answer is the homeserver's. What this configuration would
	// have done is counted in the metric caddy_matrix_presence_observed_total, and who
	// would have been limited is listed by the admin endpoint
	// /matrix_presence/limited_users. Default: enforce.
	Mode string `json:"mode,omitempty"`

	// RepeatWrites is what becomes of a write that repeats what the same device of
	// the user last wrote successfully, with nothing since that might have changed
	// the presence, and no read that went to the homeserver and showed something else:
	// "pass", or "absorb": it is answered 200 here, unless the last one that went to the
	// homeserver is as old as Refresh. It costs no budget. A client that leaves, or
	// writes less often, may look offline up to Refresh sooner: the homeserver counts
	// from what it has heard. Default: pass.
	RepeatWrites string `json:"repeat_writes,omitempty"`

	// Refresh is how often what a user repeats goes to the homeserver all the same, so
	// that its timers are fed: at most 25s. By so much sooner may a client look offline
	// that leaves. With SyncPresence limit it is also for how long after
	// a device's last word another one's lower state is held down, where the homeserver
	// doesn't merge devices itself (Dendrite), unless its token has ended. Default: 20s.
	Refresh caddy.Duration `json:"refresh,omitempty"`

	// OverLimit is what becomes of a write over WriteLimit: "reject" answers 429, and
	// "coalesce" answers 200 and delivers it when the budget is refilled, unless the
	// same device has written something else by then. Such a 200 says that the write
	// is in order and will be tried, not that it has happened. A body that the
	// homeserver may refuse gets 429. If it refuses one all the same, what that took
	// the place of is sent. Default: reject.
	OverLimit string `json:"over_limit,omitempty"`

	// Coalesce bounds the writes that wait under OverLimit coalesce.
	Coalesce *Coalesce `json:"coalesce,omitempty"`

	// SyncPresence is what becomes of the presence that a sync sets, which is online if it
	// names none: "pass" leaves it alone; "limit" lets changes through within
	// SyncLimit, drops what is remembered of the user's presence then, and takes out
	// what changes nothing, as far as the homeserver hears of the device again before
	// it takes it for offline, if that comes as regularly as before. A client that slows
	// down or leaves may look offline up to Refresh sooner, and on Dendrite a lower state
	// may show up to 10s sooner. "strip" keeps syncs from touching any presence, which
	// tuwunel has no way for. Nothing else of a sync is changed.
	//
	// Syncs are GET /sync and, on tuwunel, simplified sliding sync up to MaxBody. What
	// can't be told of one for certain, such as whose it is, leaves it as it came.
	//
	// With limit, Synapse's own rc_presence must be raised, in homeserver.yaml:
	//
	//	rc_presence:
	//	  per_user:
	//	    per_second: 1000
	//	    burst_count: 1000
	//
	// Synapse charges it for every sync, also for one that sets no presence, and ignores
	// the presence of what is over it without a word. By default that is one sync in ten
	// seconds: what is let through here would mostly be dropped there, and users who
	// sync often would be taken for offline. Default: pass.
	SyncPresence string `json:"sync_presence,omitempty"`

	// Sync was the name of SyncPresence before its first release. It is refused, by an error
	// that names the new one.
	Sync json.RawMessage `json:"sync,omitempty"`

	// Homeserver says how syncs and the bodies of writes are read: "synapse",
	// "dendrite", "tuwunel", or "auto": as the homeserver itself says at
	// /_matrix/federation/v1/version, at /_matrix/client/versions (MSC4383) or in a
	// Server field. It is asked when a sync comes that is looked at, which doesn't wait for
	// that. As long as it doesn't say, syncs are left alone, and only those writes are
	// refused that none of the three takes for what they say; Dendrite doesn't say where
	// its federation is off. Default: auto.
	Homeserver string `json:"homeserver,omitempty"`

	// Preflight is what becomes of the OPTIONS requests that browsers send before
	// presence requests: "pass", or "local": they are answered here as the homeserver
	// itself has answered one of the same method, header fields and, unless that
	// allows all, origin. It is asked again after five minutes. Where it names no
	// Access-Control-Max-Age, that is two hours, as long as Chromium believes.
	// Default: pass.
	Preflight string `json:"preflight,omitempty"`

	// BrownOut is whether presence gives way first while the homeserver is slow, "on" or "off". How slow it
	// is, is told by our own lookups and fetches. Then a presence is shown for twice its ttl, or until
	// stale_if_error if that is longer, to those whose permission is fresh; then few presence requests go to
	// the homeserver at a time, and then next to none: reads get 429, and so do writes, unless
	// over_limit is "coalesce", and then these wait. Nothing but presence is touched. Default: off.
	BrownOut string `json:"brown_out,omitempty"`

	// Cache configures what is remembered of answers to reads.
	Cache *Cache `json:"cache,omitempty"`

	// Learn configures what is learned from answers that pass by: who may see whom, from lists of a
	// room's members and from syncs, and whose an access token is. They pass as they come. Nothing is
	// learned of who may see whom until it is known which homeserver it is. To read a sync costs an
	// eighth of what it costs to pass it on, and a list of members three times as much. Default: off.
	Learn *Learn `json:"learn,omitempty"`

	// Identity configures what is remembered of whose access token is whose.
	Identity *Identity `json:"identity,omitempty"`

	// FeedRaw is a module by which the homeserver tells of changes by itself: of presences, of who is
	// in which room, of tokens that end. While it is connected and nothing is known to be
	// missing, what it covers is kept for its live_ttl in place of ttl and forbidden_ttl, and a
	// change is seen as soon as it tells. Only Synapse has one. Default: none.
	FeedRaw json.RawMessage `json:"feed,omitempty" caddy:"namespace=http.handlers.matrix_presence.feeds inline_key=source"`

	// ClusterRaw is a module that keeps the log by which several nodes before one homeserver share
	// their users' budgets, and what each remembers is as new as what the others have written. All
	// nodes must have the same cache name. Default: none, and each node is alone.
	ClusterRaw json.RawMessage `json:"cluster,omitempty" caddy:"namespace=http.handlers.matrix_presence.cluster inline_key=store"`

	// Snapshot is a file in which budgets, and whose token is whose, survive a restart of the process. Budgets
	// are written each five minutes and at the end, identities only at the end. Its folder must be there, and two
	// more files are beside it: one of the same name with .identities at the end, and one with .key, without which
	// neither can be used. All handlers of a store must name the same file or none. Placeholders are
	// replaced. A relative path begins in the working directory. Default: none, and a restart forgets everything.
	Snapshot string `json:"snapshot,omitempty"`

	// MaxBody is the size in bytes of the largest body of a write. A larger one is
	// answered with 413. Default: 65536.
	MaxBody int64 `json:"max_body,omitempty"`

	// PresenceValues are the values of presence that are let through, compared
	// without case. Default: those that the homeserver may take, once it is recognised
	// (see Homeserver). On Synapse these are online, unavailable, offline and
	// org.matrix.msc3026.busy; on Dendrite the first three in any case; on tuwunel
	// all, where an unknown one makes the device offline. Until then they are the
	// first three, busy and org.matrix.msc3026.busy.
	PresenceValues []string `json:"presence_values,omitempty"`

	gateway *gateway.Gateway
	pooled  *pooled // the store that it has
	plan    *plan
	feed    Feed    // or nil
	cluster Cluster // likewise

	snapshot   string           // the absolute path, or empty
	snapshotAt caddyfile.Token  // where it stands
	keeper     *snapshot.Keeper // or nil
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.matrix_presence",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision checks the configuration and takes the store that it shares with
// other handlers of its homeserver, and with its own predecessor before a
// reload.
func (h *Handler) Provision(ctx caddy.Context) error {
	// Before all that may fail: Caddy's admin endpoint shows the metrics of a
	// configuration that was refused until there is another one.
	if err := registerMetrics(ctx); err != nil {
		return err
	}
	feed, err := h.loadFeed(ctx)
	if err != nil {
		return err
	}
	h.feed = feed
	if h.cluster, err = h.loadCluster(ctx); err != nil {
		return err
	}
	set, err := h.settings()
	if err != nil {
		return err
	}
	if h.snapshot, err = h.snapshotPath(); err != nil {
		return err
	}
	if err := h.takeStore(ctx, set); err != nil {
		return err
	}
	if set.Coalesces {
		if err := flushWhenStopping(ctx, h.gateway); err != nil {
			return err
		}
	}
	if h.keeper != nil || h.cluster != nil {
		return h.followRun(ctx)
	}
	return nil
}

// Cleanup delivers the writes that wait, and gives the store back. Requests may still be
// under way.
func (h *Handler) Cleanup() error {
	if h.gateway == nil {
		return nil // it was refused
	}
	h.gateway.Flush()
	return h.dropStore()
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	err := h.gateway.Serve(w, r, next)
	if failure, ok := err.(*gateway.Failure); ok {
		return caddyhttp.Error(failure.Status, failure.Err)
	}
	return err
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
