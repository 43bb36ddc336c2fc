package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

const (
	// fetchTimeout is how long the homeserver may take to answer a read that
	// several clients may be waiting for. Dendrite gives up after 10 seconds.
	fetchTimeout = 30 * time.Second

	// slowAfter is how long a reader waits for it if there is a stale answer.
	slowAfter = 5 * time.Second
)

// fetched is what a fetch brought. It is immutable.
type fetched struct {
	*subresponse
	departed time.Time
	answer   *cache.Answer // a presence, or nil
	stored   bool

	// retrial is there if it failed, for those who shared it.
	retrial *retrial
	crashed bool // our own code panicked

	// shed is set if it wasn't sent because presence gives way: how long to wait before trying again.
	shed time.Duration

	// found is set, and nothing else, if the answer had come into memory before
	// the fetch departed.
	found *cache.Found
}

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
func (g *Gateway) fetch(r *http.Request, next Next, who reader, found cache.Found) (result *fetched, own bool, err error) {
	var slow <-chan time.Time
	if found.Answer != nil {
		timer := time.NewTimer(slowAfter)
		defer timer.Stop()
		slow = timer.C
	}
	request, end := g.newFetch(r, next, who), time.Now().Add(fetchTimeout)
	key := fetchKey{target: who.target, generation: found.Ticket.Generation(), settling: found.Ticket.Settling()}
	shared := found.Permitted && !g.cfg.Rules.PerViewer
	for {
		if !shared {
			key.credential = g.store.identities.Fingerprint(who.credential)
		}
		c, own, run := g.store.fetches.Join(key, found.Ticket.Settled() && who.trust == trustAll, func() *fetched {
			return g.sendFetch(request, who, fetchTimeout)
		})
		switch {
		case c == nil:
			return nil, false, nil
		case run != nil && slow == nil:
			// This reader has nothing else to wait for. To hand the request to
			// another goroutine takes longer than all that we do with it.
			run()
			return c.Result(), true, nil
		case run != nil:
			go run()
		}
		select {
		case <-c.Done():
		case <-slow:
			return nil, false, nil
		case <-r.Context().Done():
			return nil, false, fail(statusClientClosed, fmt.Errorf("waiting for the homeserver: %w", r.Context().Err()))
		}
		switch mayShare(g.sharing(c.Result(), who, own, shared, found.Answer != nil)) {
		case shareAnswer:
			return c.Result(), own, nil
		case shareRetry:
			return g.retry(r, request, who, c.Result(), end)
		case shareEnded:
			return nil, false, errIdentityEnded
		case shareLate:
			return nil, false, nil
		case shareAlone:
			shared = false
		}
	}
}

// newFetch makes the request GET of a presence. Its path is in the one spelling that
// all readers of the target share, and of the query it has what says whose it is.
func (g *Gateway) newFetch(r *http.Request, next Next, who reader) subrequest {
	const before, after = matrix.ClientPrefix + "v3/presence/", "/status"
	path := before + who.target + after
	rawPath := path
	if escaped := url.PathEscape(who.target); escaped != who.target {
		rawPath = before + escaped + after
	}
	u := &url.URL{Path: path, RawPath: rawPath, RawQuery: g.assertion(who.credential)}
	return g.newSubrequest(r, next, u, who.credential.Token, originField)
}

// sendFetch sends a fetch and remembers what its answer says. It looks into memory once
// more, because a reader may come between the storing and the end of another's
// fetch:
//
//	1 reader: looks up, a miss        2 reader: looks up, a miss
//	1 reader: fetches, stores, is done
//	                                  2 reader: finds no call, begins one
func (g *Gateway) sendFetch(request subrequest, who reader, timeout time.Duration) *fetched {
	now := g.store.now()
	found := g.lookup(who.viewer, who.target, who.trust, now)
	if found.Outcome == cache.Hit || found.Outcome == cache.Denied {
		return &fetched{departed: now, found: &found}
	}
	pass, wait := g.enter(who.viewer, true)
	if wait > 0 {
		return &fetched{departed: now, shed: wait, subresponse: &subresponse{err: errShed, site: true}}
	}
	defer func() { pass.Leave(g.store.now()) }()
	probe := g.probes(policy.ProbeFetch, who.viewer)
	defer probe.drops() // if it panics
	result := &fetched{departed: now, subresponse: request.sendTwice(timeout, g.store, reasonFetch, found.Answer != nil)}
	probe.ends(result.subresponse)
	if result.failed() {
		result.retrial = newRetrial(g.newParty(who, &request))
	}
	g.keepFetched(result, found.Ticket, who, request.request)
	return result
}

// keepFetched remembers what a fetch has brought, which departed with this ticket.
func (g *Gateway) keepFetched(result *fetched, ticket cache.Ticket, who reader, request *http.Request) {
	if result.err != nil || result.site {
		return
	}
	if !result.failed() {
		g.store.answered(result.departed)
		g.store.learnOrigins(request, result.subresponse)
	}
	if result.local && (isSuccess(result.status) || isAged(result.header)) {
		return // it permits nothing, and refuses nothing
	}
	result.answer, result.stored = g.remember(ticket, who, result.subresponse)
	if result.answer != nil {
		g.store.host.note(result.host)
	}
}

// remember keeps what an answer says, and reports whether it was stored. The answer is
// nil if it isn't a presence.
func (g *Gateway) remember(ticket cache.Ticket, who reader, result *subresponse) (answer *cache.Answer, stored bool) {
	presence, rules := g.store.presence, g.rules()
	switch {
	case result.large:
		// Of an error there is nothing to keep, of any size.
		if result.status == http.StatusOK {
			presence.MarkUncached(ticket)
		}
	case result.status == http.StatusUnauthorized:
		g.store.refused(who.credential, g.store.identities.LastSession(who.credential), result)
	case result.echoes:
		// A proxy names each browser's own origin, as a rule without a Vary. Whoever
		// asks with another must not decide for all.
	case !result.isJSON():
		// Not from a homeserver, or in an encoding that we didn't ask for.
	case result.status == http.StatusOK:
		answer, err := cache.ParseAnswer(result.body, keptList(result.header))
		if err == nil {
			g.compareShown(ticket, who.target, result)
			if !answer.Resting() {
				g.store.sawOnline()
			}
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
		if errcode == "M_FORBIDDEN" {
			g.roomRefused(presence.RoomRefused(who.viewer, ticket, rules))
		}
		return nil, presence.Deny(who.viewer, ticket, &cache.Denial{
			Status: result.status, Body: string(result.body), Fields: keptList(result.header),
			// A 404 may say that there is no presence yet; a 403 is about the viewer.
			UntilWrite: result.status == http.StatusNotFound,
		}, rules)
	}
	return nil, false
}
