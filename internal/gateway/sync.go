package gateway

import (
	"net/http"
	"strings"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/cluster"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/devices"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// syncMode is what becomes of the presence that syncs set.
type syncMode int

const (
	syncPass  syncMode = iota
	SyncLimit          // within a budget, and without what changes nothing
	SyncStrip          // none of it reaches the homeserver
)

var SyncModes = map[string]syncMode{"": syncPass, "pass": syncPass, "limit": SyncLimit, "strip": SyncStrip}

// syncRoute recognises a sync that sets a presence.
func syncRoute(r *http.Request) (matrix.SyncRoute, bool) {
	if !strings.HasSuffix(r.URL.Path, "/sync") {
		return 0, false
	}
	return matrix.ParseSyncRoute(methodOf(r), r.URL.EscapedPath())
}

// syncVerdicts says what a verdict is called in metrics, how the sync itself was answered, and
// what the verdict is in mode observe, in which nothing is taken out.
var syncVerdicts = [devices.SyncVerdicts]struct {
	name     string
	outcome  outcome
	observed devices.SyncVerdict
}{
	devices.SyncChanged:   {"changed", outcomeForwarded, devices.SyncChanged},
	devices.SyncRepeated:  {"repeated", outcomeForwarded, devices.SyncRepeated},
	devices.SyncUnknown:   {"unknown", outcomeForwarded, devices.SyncUnknown},
	devices.SyncNone:      {"none", outcomeForwarded, devices.SyncNone},
	devices.SyncUnchanged: {"unchanged", outcomeStrippedUnchanged, devices.SyncRepeated},
	devices.SyncStripped:  {"stripped", outcomeStrippedUnchanged, devices.SyncUnknown},
	devices.SyncLimited:   {"limited", outcomeStrippedLimited, devices.SyncChanged},
	devices.SyncOutranked: {"outranked", outcomeStrippedLimited, devices.SyncChanged},
}

// serveSync is the life of a sync. It always goes to the homeserver, with another
// set_presence or as it came; whatever is uncertain goes as it came. It waits for no
// request of ours: what it would take to judge it is there for the next one.
func (g *Gateway) serveSync(w http.ResponseWriter, r *http.Request, next Next, route matrix.SyncRoute) error {
	g.askSoftwareInTime(r, next)
	dialect := g.knownDialect()
	switch {
	case !route.Sets(dialect), dialect == Dendrite && r.Method == http.MethodHead:
		return g.sendOn(w, r, next)
	case dialect == Auto && g.cfg.SyncPresence != syncPass:
		return g.passUnjudged(w, r, next)
	case g.cfg.SyncPresence == SyncStrip:
		return g.stripSync(w, r, next, dialect)
	case g.cfg.SyncPresence == SyncLimit && dialect == synapse:
		g.store.rateHint.Do(func() {
			g.logger.Warn("sync_presence limit is on and the homeserver is Synapse: raise rc_presence in homeserver.yaml " +
				"(rc_presence: {per_user: {per_second: 1000, burst_count: 1000}}) if you have not; by default Synapse charges " +
				"every sync, drops the presence of most without a word, and takes users who sync often for offline")
		})
	}
	credential, err := matrix.ParseCredential(r.Header["Authorization"], r.URL.RawQuery)
	userID := ""
	if err == nil {
		// Nothing is authorised by it, and the homeserver looks at the token itself.
		userID = g.store.identities.LastKnown(credential)
	}
	if userID == "" && route == matrix.SlidingSync {
		return g.passUnjudged(w, r, next) // no body is kept of who may have no account
	}
	asked, ok := g.readSync(r, route, dialect)
	switch {
	case !ok:
		return g.passUnjudged(w, r, next)
	case asked.sets == matrix.NoPresence:
		return g.passSync(w, r, next, devices.SyncNone)
	case userID == "":
		return g.passUnjudged(w, r, next)
	}

	now, device := g.store.now(), g.store.identities.DeviceOf(credential, userID)
	decision := g.store.devices.Sync(devices.SyncAsk{
		UserID: userID, Device: device, Presence: asked.sets, Timeout: asked.timeout,
	}, devices.SyncRules{
		Dialect: dialect, ObserveOnly: g.watchesOnly(), Refresh: g.refresh(),
		Allow: func() bool {
			if g.brownOut() >= policy.BrownOutHold {
				return false
			}
			_, ok := g.store.take(limitSync, g.cfg.ClassOf(userID).SyncLimit, userID, now)
			return ok
		},
	}, now)
	switch {
	case decision.Value == "":
	case g.cfg.Observe: // it goes as it came, and may change what it would not have
		decision.Changes = true
	default:
		asked.set(decision.Value)
	}
	return g.sendSync(w, r, next, credential, userID, decision)
}

// passUnjudged passes a sync on if it isn't known what the homeserver makes of it, or
// whose it is. So nothing about its user's presence is sure until the answer begins.
func (g *Gateway) passUnjudged(w http.ResponseWriter, r *http.Request, next Next) error {
	w, done := g.invalidateAround(w, r, next)
	defer done()
	return g.passSync(w, r, next, devices.SyncUnknown)
}

// invalidateAround forgets the presence of a sync's user, now and when the answer begins, or if
// there is none when it is done.
func (g *Gateway) invalidateAround(w http.ResponseWriter, r *http.Request, next Next) (watched http.ResponseWriter, done func()) {
	again := g.mayChange(r, next)
	answered := false
	w, finish := g.watchShown(w, r)
	watched = onStatus(w, func(int) {
		answered = true
		again()
	})
	return watched, func() {
		finish()
		if !answered {
			again()
		}
	}
}

// mayChange is for a request that may change its user's presence, in a way that isn't
// known. What is remembered of that is forgotten, and has to be again when the homeserver
// has acted upon the request. If it isn't known whose it is, that is asked for while the
// request is served, and forgotten when it turns out: nothing waits for it. If homeservers
// read its credential differently, it is anybody's whose token it has.
func (g *Gateway) mayChange(r *http.Request, next Next) (again func()) {
	shown, certain := shownCredentials(r)
	doubt := func(c matrix.Credential, userID string) {
		g.invalidate(userID)
		g.store.devices.Doubt(userID, g.store.identities.DeviceOf(c, userID), g.store.now())
	}
	forget := func() (known bool) {
		for _, c := range shown {
			if userID := g.store.identities.LastKnown(c); userID != "" {
				doubt(c, userID)
				known = true
			}
		}
		return known
	}
	answers := func() {}
	if !forget() && certain {
		answers = g.identifySoon(r, next, shown[0], func(userID string) { doubt(shown[0], userID) })
	}
	return func() {
		forget()
		answers()
	}
}

// invalidate forgets what a user's presence is, because it may have changed.
func (g *Gateway) invalidate(userID string) {
	for m := range g.stores() {
		m.changed(userID, g.settle())
	}
}

// changed forgets what a user's presence is, and what they last wrote.
func (m *Store) changed(userID string, settle time.Duration) {
	m.presence.Invalidate(userID, m.now(), settle)
	m.repeats.Disturb(userID)
	m.tell(cluster.Ends, userID)
}

// sendSync passes a sync on that was decided about.
func (g *Gateway) sendSync(w http.ResponseWriter, r *http.Request, next Next,
	credential matrix.Credential, userID string, decision devices.SyncDecision,
) (err error) {
	// A homeserver sets the presence before it waits for news, so this is no write
	// that is in flight until the answer comes: nothing could be kept for as long. What
	// it sets later than the settle time is seen when the answer begins.
	changes := func() {
		if decision.Changes {
			g.invalidate(userID)
		}
	}
	changes()
	status := 0
	isSites, isLocal := g.isSites(r), g.isLocal(r)
	refusal, finish := g.watchRefusal(w, r, credential)
	defer finish()
	w = onStatus(refusal, func(code int) {
		switch status = code; {
		case code == statusClientClosed:
		case isSites():
			status = http.StatusForbidden // whatever it is: the homeserver hasn't heard of it
		case isLocal(code):
			status = http.StatusBadGateway // nobody has said
		}
		changes() // the homeserver may have been slow
	})
	defer func() {
		if status == 0 {
			changes()
			if status = statusOf(g.server, err); r.Context().Err() != nil {
				status = statusClientClosed
			}
		}
		switch {
		case status == statusClientClosed: // it has asked all the same
			decision.End(true, g.store.now())
		case status >= http.StatusBadRequest && status < http.StatusInternalServerError:
			decision.Refuse()
		default:
			// Who is sent elsewhere has not been heard.
			decision.End(isSuccess(status) && (status != 0 || err == nil), g.store.now())
		}
	}()
	return g.passSync(w, r, next, decision.Verdict)
}

// stripSync keeps a sync from touching any presence.
func (g *Gateway) stripSync(w http.ResponseWriter, r *http.Request, next Next, dialect dialect) error {
	keep := dialect.NoChangeValue()
	if keep == "" {
		g.notSupported.Do(func() {
			g.logger.Error("sync_presence strip has no effect: the homeserver is tuwunel, which has no way to leave a sync's set_presence out; use sync_presence limit")
		})
		return g.passUnjudged(w, r, next)
	}
	query := matrix.ParseSyncQuery(dialect, r.URL.RawQuery)
	if query.Certain && query.Sets == matrix.NoPresence {
		return g.passSync(w, r, next, devices.SyncNone)
	}
	if g.cfg.Observe {
		w, done := g.invalidateAround(w, r, next)
		defer done()
		return g.passSync(w, r, next, devices.SyncStripped)
	}
	setQuery(r, query.Set(keep))
	return g.passSync(w, r, next, devices.SyncStripped)
}

// passSync counts a sync and sends it on. The time that it takes says nothing about
// the homeserver: it waits for news.
func (g *Gateway) passSync(w http.ResponseWriter, r *http.Request, next Next, verdict devices.SyncVerdict) error {
	c := g.store.counters
	if g.cfg.Observe {
		g.noteObserved(g.newVerdict(r), routeSync, syncVerdicts[verdict].outcome)
		verdict = syncVerdicts[verdict].observed
	}
	c.requests[routeSync].Add(1)
	c.syncWrites[verdict].Add(1)
	c.upstream[reasonSync].Add(1)
	g.noteAs(r, routeSync, syncVerdicts[verdict].outcome)
	return g.sendOn(w, r, next)
}

// askedSync is what a sync asks for, and how to have it ask for something else.
type askedSync struct {
	sets    matrix.Presence
	timeout time.Duration
	set     func(value string)
}

// readSync reads what a sync asks for. It reports false if that is uncertain.
func (g *Gateway) readSync(r *http.Request, route matrix.SyncRoute, dialect dialect) (asked askedSync, ok bool) {
	switch {
	case route != matrix.SlidingSync:
		query := matrix.ParseSyncQuery(dialect, r.URL.RawQuery)
		certain := query.Certain && (dialect != Dendrite || !mayHaveForm(r))
		return askedSync{query.Sets, query.Timeout, func(value string) { setQuery(r, query.Set(value)) }}, certain
	case dialect == Auto:
		return askedSync{}, false
	}
	body, ok := g.peekBody(r)
	if !ok {
		return askedSync{}, false
	}
	parsed, ok := matrix.ParseSyncBody(body)
	return askedSync{parsed.Sets, matrix.Unbounded, func(value string) { setBody(r, parsed.Set(value)) }}, ok
}

// mayHaveForm tells of a request with a form for a body, in which Dendrite looks for what the
// query doesn't say, of a GET too (Go's Request.FormValue).
func mayHaveForm(r *http.Request) bool {
	return r.ContentLength != 0 && strings.Contains(strings.ToLower(strings.Join(r.Header["Content-Type"], " ")), "multipart")
}

func setQuery(r *http.Request, rawQuery string) {
	r.URL.RawQuery = rawQuery
	r.RequestURI = r.URL.RequestURI()
}

// beginWrite notes a presence write that is on its way to the homeserver. What is returned must
// be called when that has answered it with a status, 0 for none: taken, it is what its device
// last asked for, as if by a sync. Unless it was taken or refused, it may have been.
func (t tenant) beginWrite(write *policy.PresenceWrite, began time.Time) (answered func(status int)) {
	if !t.watchesSyncs() {
		return func(int) {}
	}
	m, dialect := t.store, t.knownDialect()
	under := m.devices.BeginWrite(write.UserID, write.Fingerprint, dialect, began)
	return func(status int) {
		if status != 0 && status < http.StatusMultipleChoices {
			under.Taken(matrix.BodyPresence(write.Body, dialect), dialect, m.now())
		} else {
			under.Failed(status == 0 || status == statusClientClosed || status >= http.StatusInternalServerError, m.now())
		}
	}
}

// doubtAfterWrite has the next sync of a device go through, because a write of it waits, or went by
// and may have been taken. To Dendrite's syncs that is nothing, see [devices.DeviceWrite].
func (g *Gateway) doubtAfterWrite(userID string, device [16]byte) {
	if g.knownDialect() != Dendrite {
		g.store.devices.Doubt(userID, device, g.store.now())
	}
}
