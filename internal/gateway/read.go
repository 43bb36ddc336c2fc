package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

const (
	// fetchTimeout is how long the homeserver may take to answer a read that
	// several clients may be waiting for. Dendrite gives up after 10 seconds.
	fetchTimeout = 30 * time.Second

	// slowAfter is how long a reader waits for it if there is a stale answer.
	slowAfter = 5 * time.Second
)

// serveRead is the life of a GET or HEAD of a presence.
func (h *Gateway) serveRead(w http.ResponseWriter, r *http.Request, next Next, route matrix.PresenceRoute) error {
	h.memory.counters.requests[routeRead].Add(1)
	if !h.set.Cached && !h.set.limitsReads {
		return h.serveUncached(w, r, next, route)
	}
	authorization := r.Header["Authorization"]
	credential, err := matrix.ParseCredential(authorization, r.URL.RawQuery)
	switch {
	case errors.Is(err, matrix.ErrMissingToken) && route.Canonical:
		h.writeMissingToken(w, r, "Missing access token")
		return nil
	case errors.Is(err, matrix.ErrMissingToken):
		return h.bypass(w, r, next, "spelling")
	case err != nil:
		return h.serveUncertain(w, r, next)
	}
	// Before anything is looked up: what is known may change until the body comes.
	uncacheable := asksForProtocol(r) || h.set.Cached && route.Canonical && hasBody(r)

	now := h.memory.now()
	who := h.cached(credential, now)
	if !who.known() {
		if h.isRefused(credential, now) {
			return h.serveRefused(w, r, next, credential)
		}
		who = h.identify(r, next, credential, h.set.RejectedLimit)
		now = h.memory.now()
	}
	if who.down && h.set.Rules.StaleIfError > 0 {
		// As long as a stale answer is good enough, so is who was asking for it.
		who = h.cached(credential, now.Add(-h.set.Rules.StaleIfError))
	}
	switch {
	case who.userID == "" && r.Context().Err() != nil:
		h.note(r, outcomeCanceled)
		return fail(statusClientClosed, r.Context().Err())
	case who.unknown != nil && route.Canonical:
		h.writeUnknownToken(w, r, who.unknown)
		return nil
	case who.wait > 0:
		h.writeLimited(w, r, who.wait)
		return nil
	case who.refusal != nil && isAboutCredential(who.refusal):
		return h.serveRefused(w, r, next, credential)
	case who.userID == "":
		// Whatever it is, the homeserver's answer to the read itself is the
		// right one: we don't make it less available than it is.
		return h.serveUnidentified(w, r, next, "unknown-identity", h.memory.isKnown(credential))
	}

	// Every spelling counts: the homeserver would serve it.
	if wait, ok := h.memory.take(limitRead, h.set.classOf(who.userID).ReadLimit, who.userID, now); !ok {
		h.writeLimited(w, r, wait)
		return nil
	}
	switch {
	case !h.set.Cached:
		return h.serveUncached(w, r, next, route)
	case !route.Canonical:
		return h.bypass(w, r, next, "spelling")
	case uncacheable:
		return h.bypass(w, r, next, "request")
	case h.memory.isForItsOrigin(r):
		return h.bypass(h.memory.unlearnOrigins(w), r, next, "request")
	}
	return h.serveCached(w, r, next, reader{who.userID, route.UserID, credential}, now)
}

// serveUncertain passes on a read whose credential homeservers read differently. It
// is charged to the user of every token that it might be, so that such spellings
// are no way around a limit.
func (h *Gateway) serveUncertain(w http.ResponseWriter, r *http.Request, next Next) error {
	wasKnown := false
	might, _ := shownCredentials(r)
	for _, credential := range might {
		wasKnown = wasKnown || h.memory.isKnown(credential)
		if h.set.limitsReads && !h.isRefused(credential, h.memory.now()) {
			who := h.identify(r, next, credential, h.set.RejectedLimit)
			wait, ok := who.wait, who.wait == 0
			if ok && who.userID != "" {
				wait, ok = h.memory.take(limitRead, h.set.classOf(who.userID).ReadLimit, who.userID, h.memory.now())
			}
			if !ok {
				h.writeLimited(w, r, wait)
				return nil
			}
		}
	}
	return h.serveUnidentified(w, r, next, "uncertain-credential", wasKnown)
}

// serveRefused passes on a read of who was refused a moment ago. If it succeeds, that is
// over.
func (h *Gateway) serveRefused(w http.ResponseWriter, r *http.Request, next Next, c matrix.Credential) error {
	return h.serveUnidentified(onStatus(w, func(status int) {
		if isSuccess(status) {
			h.memory.accept(c)
		}
	}), r, next, "unknown-identity", true)
}

// serveUnidentified passes on a read of which it isn't known whose it is. If the
// homeserver doesn't know its token, that is charged to the client as in [inquiry.ask]. A
// token that the homeserver has known isn't made up, whatever others do from the same
// address.
func (h *Gateway) serveUnidentified(w http.ResponseWriter, r *http.Request, next Next, why string, wasKnown bool) error {
	if wasKnown {
		return h.bypass(w, r, next, why)
	}
	from, now := h.newClient(r, h.set.RejectedLimit), h.memory.now()
	if wait := h.memory.rejectedWait(from, now); wait > 0 {
		h.writeLimited(w, r, wait)
		return nil
	}
	isSites := h.isSites(r)
	w, finish := newWatch(w, func(status int) bool {
		return status == http.StatusUnauthorized && !isSites()
	}, func(answer *subresponse) {
		// The answer to a HEAD doesn't say why, but perhaps that it is a homeserver's.
		untold := r.Method == http.MethodHead && answer.isJSON() && !h.named.Authenticates
		if untold || answer.matrixError() == unknownToken {
			h.memory.chargeRejected(from, now)
		}
	})
	defer finish()
	return h.bypass(w, r, next, why)
}

// bypass sends a read to the homeserver as it came. Its answer is not stored.
// Why is a word for the detail of Cache-Status.
func (h *Gateway) bypass(w http.ResponseWriter, r *http.Request, next Next, why string) error {
	h.note(r, outcomeBypass)
	return h.forward(w, r, next, reasonBypass, func(int) {
		w.Header().Add("Cache-Status", cacheName+"; fwd=bypass; detail="+why)
	})
}

// serveUncached passes a read on where nothing is kept. What it shows may still end what is
// believed of the last write, or of syncs.
func (h *Gateway) serveUncached(w http.ResponseWriter, r *http.Request, next Next, route matrix.PresenceRoute) error {
	if !h.comparesShown() || r.Method != http.MethodGet || !route.Canonical {
		return h.bypass(w, r, next, "off")
	}
	ticket := h.lookup(reader{target: route.UserID}, h.memory.now()).Ticket
	watched, finish := newWatch(w, func(status int) bool { return status == http.StatusOK }, func(answer *subresponse) {
		if answer.isWholeJSON() {
			h.compareShown(ticket, route.UserID, answer)
		}
	})
	defer finish()
	return h.bypass(watched, r, next, "off")
}

// comparesShown tells whether this handler, or another of its memory, acts upon what it believes of
// a user's presence.
func (h *Gateway) comparesShown() bool {
	n := &h.memory.needs
	return h.set.Absorbs || h.set.SyncPresence == SyncLimit || n.absorbs.Load() || n.limitsSyncs.Load()
}

// compareShown compares what the homeserver shows of a user with what they last wrote, and said
// by syncs, unless the answer may be from before.
func (h *Gateway) compareShown(ticket cache.Ticket, target string, answer *subresponse) {
	if h.comparesShown() && !h.memory.presence.Overtaken(ticket) {
		h.memory.repeats.Observe(target, answer.body, h.knownDialect())
		h.memory.devices.Observe(target, answer.body, h.knownDialect(), h.memory.now())
	}
}

// reader is who reads whose presence.
type reader struct {
	viewer, target string
	credential     matrix.Credential
}

// serveCached answers a read from memory, or else from a fetch that it may share.
func (h *Gateway) serveCached(w http.ResponseWriter, r *http.Request, next Next, who reader, now time.Time) error {
	found := h.lookup(who, now)
	if h.writeFound(w, r, &found) {
		return nil
	}
	if found.Outcome == cache.Uncached {
		return h.bypass(w, r, next, "uncacheable")
	}

	result, own, err := h.fetch(r, next, who, found)
	if err == errIdentityEnded {
		return h.serveUnidentified(w, r, next, "unknown-identity", h.memory.isKnown(who.credential))
	}
	if err != nil {
		h.note(r, outcomeCanceled)
		return err
	}
	if result != nil && result.found != nil && h.writeFound(w, r, result.found) {
		return nil
	}
	if (result == nil || result.failed()) && found.Answer != nil {
		// Meanwhile it may have been overtaken by a write, or got too old.
		if found = h.lookup(who, h.memory.now()); found.Answer != nil {
			h.note(r, outcomeStale)
			writeKept(w, r, http.StatusOK, found.Answer.Fields, statusHit(found.Fresh)+"; detail=stale-if-error",
				found.Answer.AppendBody(nil, found.Age))
			return nil
		}
	}
	switch {
	case result == nil:
		return h.bypass(w, r, next, "busy")
	case result.err != nil:
		h.note(r, outcomeFailed)
		return passOn(w, r, result.subresponse)
	case result.large:
		return h.bypass(w, r, next, "large")
	}

	if own {
		h.note(r, outcomeMiss)
	} else {
		h.note(r, outcomeCollapsed)
	}
	status := cacheName + "; fwd=miss"
	switch {
	case !own && result.answer != nil:
		// What the answer says to one connection only is not for another.
		writeKept(w, r, result.status, result.answer.Fields, status+"; collapsed", result.body)
		return nil
	case !own:
		status += "; collapsed"
	case result.stored:
		status += "; stored"
	}
	writeSubresponse(w, r, result.subresponse, status)
	return nil
}

func (h *Gateway) lookup(who reader, now time.Time) cache.Found {
	return h.memory.presence.Lookup(who.viewer, who.target, &h.set.Rules, now)
}

// writeFound answers a read with what was found in memory, if that can be done.
func (h *Gateway) writeFound(w http.ResponseWriter, r *http.Request, found *cache.Found) bool {
	switch found.Outcome {
	case cache.Hit:
		buffer := bodies.Get().(*[]byte)
		*buffer = found.Answer.AppendBody((*buffer)[:0], found.Age)
		h.note(r, outcomeHit)
		writeKept(w, r, http.StatusOK, found.Answer.Fields, statusHit(found.Fresh), *buffer)
		bodies.Put(buffer)
	case cache.Denied:
		h.note(r, outcomeHit)
		writeKept(w, r, found.Denial.Status, found.Denial.Fields, statusHit(found.Fresh), []byte(found.Denial.Body))
	default:
		return false
	}
	return true
}

// bodies are buffers for the bodies of hits, none larger than what is kept and
// the digits by which it grows. A response writer is done with one when Write
// returns.
var bodies = sync.Pool{New: func() any { return new([]byte) }}

// fetched is what a fetch brought. It is immutable.
type fetched struct {
	*subresponse
	departed time.Time
	answer   *cache.Answer // a presence, or nil
	stored   bool

	// retrial is there if it failed, for those who shared it.
	retrial *retrial
	crashed bool // our own code panicked

	// found is set, and nothing else, if the answer had come into memory before
	// the fetch departed.
	found *cache.Found
}

// personal tells that an answer is about the credential with which it was asked
// for, so that nobody else may get it.
func (f *fetched) personal() bool {
	if f.found != nil {
		return f.found.Outcome == cache.Denied
	}
	return f.answered() && f.answer == nil
}

// answered tells that it is an answer, and not that there is none to share.
func (f *fetched) answered() bool { return f.found != nil || f.err == nil && !f.failed() && !f.large }

// fetchKey tells which readers may share a fetch.
type fetchKey struct {
	target     string
	generation uint64

	// settling keeps who came after a write has settled off a fetch that departed
	// before: by then another may have seen the new state.
	settling bool

	// credential is that of the reader, or empty for those whose permission is
	// fresh: they may share what anybody of them gets.
	credential [16]byte
}

// errIdentityEnded says that it is no longer known, or no longer true, on whose behalf
// a reader acts who has waited for another's fetch.
var errIdentityEnded = errors.New("the identity has ended meanwhile")

// fetch returns the homeserver's answer, by a request of this reader's or one that
// was on its way, and whether it was made for this reader. The result is nil if
// there is none in time and a stale answer could be served, or if too
// many fetches are under way.
func (h *Gateway) fetch(r *http.Request, next Next, who reader, found cache.Found) (result *fetched, own bool, err error) {
	var slow <-chan time.Time
	if found.Answer != nil {
		timer := time.NewTimer(slowAfter)
		defer timer.Stop()
		slow = timer.C
	}
	request, end := h.newFetch(r, next, who), time.Now().Add(fetchTimeout)
	key := fetchKey{target: who.target, generation: found.Ticket.Generation(), settling: found.Ticket.Settling()}
	shared := found.Permitted && !h.set.Rules.PerViewer
	for {
		if !shared {
			key.credential = h.memory.identities.Fingerprint(who.credential)
		}
		c, own, run := h.memory.fetches.join(key, found.Ticket.Settled(), func() *fetched {
			return h.sendFetch(request, who, fetchTimeout)
		})
		switch {
		case c == nil:
			return nil, false, nil
		case run != nil && slow == nil:
			// This reader has nothing else to wait for. To hand the request to
			// another goroutine takes longer than all that we do with it.
			run()
			return c.result, true, nil
		case run != nil:
			go run()
		}
		select {
		case <-c.done:
		case <-slow:
			return nil, false, nil
		case <-r.Context().Done():
			return nil, false, fail(statusClientClosed, fmt.Errorf("waiting for the homeserver: %w", r.Context().Err()))
		}
		// What another has been told may be from any time since it was asked for,
		// until now. It is no better than what is in memory: this reader must still
		// be known and permitted, and it must be fresh.
		now, result := h.memory.now(), c.result
		switch fresh := now.Sub(result.departed) < h.set.Rules.TTL; {
		case !own && result.isOfOneClient() && !(result.failed() && found.Answer != nil):
			return h.retry(r, request, who, result, end)
		case !result.answered(), own && result.found == nil:
			return result, own, nil
		case h.cached(who.credential, now).userID != who.viewer:
			return nil, false, errIdentityEnded
		case own, fresh && !shared && !h.memory.presence.DeniedSince(who.viewer, who.target, result.departed),
			fresh && !result.personal() && h.lookup(who, now).Permitted:
			return result, own, nil
		case !shared:
			return nil, false, nil // the homeserver takes longer than answers are fresh
		default:
			shared = false // it may say something else to this reader
		}
	}
}

// newFetch makes the request GET of a presence. Its path is in the one spelling that
// all readers of the target share, and of the query it has what says whose it is.
func (h *Gateway) newFetch(r *http.Request, next Next, who reader) subrequest {
	const before, after = matrix.ClientPrefix + "v3/presence/", "/status"
	return h.newSubrequest(r, next, &url.URL{
		Path: before + who.target + after, RawPath: before + url.PathEscape(who.target) + after, RawQuery: assertion(who.credential),
	}, who.credential.Token, originField)
}

// sendFetch sends a fetch and remembers what its answer says. It looks into memory once
// more, because a reader may come between the storing and the end of another's fetch:
//
//	1 reader: looks up, a miss        2 reader: looks up, a miss
//	1 reader: fetches, stores, is done
//	                                  2 reader: finds no call, begins one
func (h *Gateway) sendFetch(request subrequest, who reader, timeout time.Duration) *fetched {
	now := h.memory.now()
	found := h.lookup(who, now)
	if found.Outcome == cache.Hit || found.Outcome == cache.Denied {
		return &fetched{departed: now, found: &found}
	}
	result := &fetched{departed: now, subresponse: request.sendTwice(timeout, h.memory, reasonFetch, found.Answer != nil)}
	if result.failed() {
		result.retrial = newRetrial(h.newParty(who, &request))
	}
	if result.err != nil || result.site {
		return result
	}
	if !result.failed() {
		h.memory.answered(now)
		h.memory.learnOrigins(request.request, result.subresponse)
	}
	if result.local && isSuccess(result.status) {
		return result // it permits nothing
	}
	result.answer, result.stored = h.remember(found.Ticket, who, result.subresponse)
	if result.answer != nil {
		h.memory.host.note(result.host)
	}
	return result
}

// remember keeps what an answer says, and reports whether it was stored. The answer is
// nil if it isn't a presence.
func (h *Gateway) remember(ticket cache.Ticket, who reader, result *subresponse) (answer *cache.Answer, stored bool) {
	presence, rules := h.memory.presence, &h.set.Rules
	switch {
	case result.large:
		// Of an error there is nothing to keep, of any size.
		if result.status == http.StatusOK {
			presence.MarkUncached(ticket)
		}
	case result.status == http.StatusUnauthorized:
		h.memory.refused(who.credential, h.memory.holderOf(who.credential), result)
	case result.echoes:
		// A proxy names each browser's own origin, as a rule without a Vary. Whoever
		// asks with another must not decide for all.
	case !result.isJSON():
		// Not from a homeserver, or in an encoding that we didn't ask for.
	case result.status == http.StatusOK:
		answer, err := cache.ParseAnswer(result.body, keptList(result.header))
		if err == nil {
			h.compareShown(ticket, who.target, result)
		}
		if err != nil || variesByClient(result.header) {
			presence.MarkUncached(ticket)
			break
		}
		return answer, presence.Allow(who.viewer, ticket, answer, rules, result.arrived)
	case result.status == http.StatusForbidden || result.status == http.StatusNotFound:
		errcode := result.matrixError()
		if errcode == "" || errcode == "M_UNRECOGNIZED" || variesByClient(result.header) {
			break
		}
		return nil, presence.Deny(who.viewer, ticket, &cache.Denial{
			Status: result.status, Body: string(result.body), Fields: keptList(result.header),
			// A 404 may say that there is no presence yet; a 403 is about the viewer.
			UntilWrite: result.status == http.StatusNotFound,
		}, rules)
	}
	return nil, false
}
