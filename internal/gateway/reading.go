package gateway

import (
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// reading is a read that is being decided about, by [policy.DecideRead]: the facts, and what they
// were found out from.
type reading struct {
	policy.ReadFacts
	route      matrix.PresenceRoute
	credential matrix.Credential   // if it is certain
	shown      []matrix.Credential // else, each that it might be

	now      time.Time     // at which it is judged
	who      owner         // of the credential
	wait     time.Duration // until there is budget again, if there is none
	from     client        // who is charged for made-up tokens
	wasKnown bool          // the homeserver has known one of the tokens
	first    *fetched      // what it has brought already, instead of a question whose it is
	found    cache.Found   // in memory
	result   *fetched      // by a fetch
	own      bool          // that one was made for this reader
	trust    trust         // in what is remembered
	pass     policy.Pass   // to the homeserver, while presence gives way
	err      error         // why nobody waits for an answer
}

// beginReading makes a read with the facts that cost nothing to find out. It is made in its
// place, since the stack of a new goroutine, which each request has over HTTP/2 and HTTP/3, is small.
func (g *Gateway) beginReading(rd *reading, r *http.Request, route matrix.PresenceRoute) {
	rd.Cached, rd.Limited, rd.StaleIfError = g.cfg.Cached, g.cfg.limitsReads, g.cfg.Rules.StaleIfError > 0
	if rd.BrownOut = g.brownOut(); rd.BrownOut >= policy.BrownOutHold {
		rd.Failing = g.store.brownOut.IsFailing()
	}
	rd.route, rd.Canonical = route, route.Canonical
	credential, err := matrix.ParseCredential(r.Header["Authorization"], r.URL.RawQuery)
	rd.credential, rd.Credential = credential, credentialFact(err)
	if rd.Credential == policy.CredentialUncertain {
		rd.shown, _ = shownCredentials(r)
	}
}

// credentialFact returns what parsing a credential has told.
func credentialFact(err error) policy.CredentialFact {
	switch {
	case err == nil:
		return policy.CredentialCertain
	case errors.Is(err, matrix.ErrMissingToken):
		return policy.CredentialMissing
	}
	return policy.CredentialUncertain
}

// askOwner finds out whose the credential of a read is.
func (g *Gateway) askOwner(rd *reading, r *http.Request, next Next) {
	if g.cfg.Cached {
		rd.trust = g.store.trusts()
	}
	rd.now = g.store.now()
	rd.noteOwner(g.cached(rd.credential, rd.now))
	if !rd.who.known() {
		g.askUnknownOwner(rd, r, next)
	}
}

// askUnknownOwner has the homeserver say whose the credential of a read is.
func (g *Gateway) askUnknownOwner(rd *reading, r *http.Request, next Next) {
	if g.isRefused(rd.credential, rd.now) {
		rd.Owner = policy.OwnerRefused
		return
	}
	who := g.identifyReader(r, next, rd)
	rd.now = g.store.now()
	rd.noteOwner(who)
	rd.leave(r)
}

// noteOwner notes whose the credential of a read is.
func (rd *reading) noteOwner(who owner) {
	rd.who, rd.wait, rd.Owner = who, max(who.wait, who.shed), who.fact()
}

// leave notes if the client has left while it was asked whose the credential is.
func (rd *reading) leave(r *http.Request) {
	if err := hasLeft(r); err != nil {
		rd.Owner, rd.err = policy.OwnerGone, err
	}
}

// hasLeft is the error of a request whose client has left. What it came for isn't sent on: over HTTP/3
// reverse_proxy would take that for a failure of the homeserver, since it meets the body that the
// client broke off before it looks whether the request is over.
func hasLeft(r *http.Request) error {
	if err := r.Context().Err(); err != nil {
		return fail(statusClientClosed, err)
	}
	return nil
}

// noteStaleOwner notes whose the credential of a read is, for what is stale.
func (g *Gateway) noteStaleOwner(rd *reading) {
	var who owner
	who.userID, who.unknown = g.store.identities.LookupStale(rd.credential, rd.now, g.cfg.Lifetimes, g.cfg.Rules.StaleIfError)
	rd.noteOwner(who)
}

// takeRead charges a user for a read.
func (g *Gateway) takeRead(rd *reading, userID string) {
	rd.Budget = policy.BudgetLeft
	if wait, ok := g.store.take(limitRead, g.cfg.ClassOf(userID).ReadLimit, userID, rd.now); !ok {
		rd.Budget, rd.wait = policy.BudgetEmpty, wait
	}
}

// askForBudgets finds out whose each token is that an uncertain credential might be, and charges them.
func (g *Gateway) askForBudgets(rd *reading, r *http.Request, next Next) {
	rd.now = g.store.now()
	g.takeReads(rd, func(i int) owner {
		who := g.identify(r, next, rd.shown[i], g.cfg.RejectedLimit)
		rd.now = g.store.now()
		return who
	})
}

// takeReads charges the user of each token that an uncertain credential might be, whom ask tells.
func (g *Gateway) takeReads(rd *reading, ask func(i int) owner) {
	rd.Budget = policy.BudgetLeft
	for i := range rd.shown {
		if g.isRefused(rd.shown[i], rd.now) {
			continue
		}
		switch who := ask(i); {
		case who.wait > 0:
			rd.Budget, rd.wait = policy.BudgetEmpty, who.wait
		case who.shed > 0:
			rd.Place, rd.wait = policy.PlaceFull, who.shed
		case who.userID != "":
			g.takeRead(rd, who.userID)
		}
		if rd.Budget == policy.BudgetEmpty {
			return
		}
	}
}

// checkClient finds out whether the client of a read may show tokens that the homeserver may not
// know. A token that it has known isn't made up, whatever others do from the same address.
func (g *Gateway) checkClient(rd *reading) {
	rd.wasKnown = rd.Credential == policy.CredentialCertain && g.store.identities.IsKnown(rd.credential) ||
		slices.ContainsFunc(rd.shown, g.store.identities.IsKnown)
	rd.Client = policy.BudgetLeft
	if rd.wasKnown {
		return
	}
	if rd.wait = g.store.rejectedWait(rd.from, rd.now); rd.wait > 0 {
		rd.Client = policy.BudgetEmpty
	}
}

// lookUpRead looks into memory for a read.
func (g *Gateway) lookUpRead(rd *reading, forOrigin bool) {
	switch {
	case forOrigin:
		rd.Found = policy.FoundForOrigin
		return
	case rd.first != nil:
		rd.Found = policy.FoundNothing
		return
	}
	rd.found = g.lookup(rd.who.userID, rd.route.UserID, rd.trust, rd.now)
	rd.Found = FactOf(rd.found.Outcome)
}

// FactOf returns what a read is decided by of what was found in memory.
func FactOf(outcome cache.Outcome) policy.FoundFact {
	switch outcome {
	case cache.Hit, cache.Denied:
		return policy.FoundAnswer
	case cache.Uncached:
		return policy.FoundUncached
	case cache.Older:
		return policy.FoundOlder
	default:
		return policy.FoundNothing
	}
}

func (rd *reading) reader() reader {
	return reader{rd.who.userID, rd.route.UserID, rd.credential, rd.trust}
}

// fetchRead gets the homeserver's answer to a read.
func (g *Gateway) fetchRead(rd *reading, r *http.Request, next Next) {
	if rd.result, rd.own = rd.first, true; rd.first == nil {
		rd.result, rd.own, rd.err = g.fetch(r, next, rd.reader(), rd.found)
	}
	switch {
	case rd.err == errIdentityEnded:
		rd.Fetched = policy.FetchEnded
	case rd.err != nil:
		rd.Fetched = policy.FetchCanceled
	case rd.result == nil:
		rd.Fetched = policy.FetchNothing
	case rd.result.found != nil:
		rd.Fetched, rd.found = policy.FetchFound, *rd.result.found
		return
	case rd.result.shed > 0:
		rd.Fetched, rd.wait = policy.FetchShed, rd.result.shed
	default:
		rd.Fetched = rd.result.fact(rd.own)
	}
	failed := rd.result == nil || rd.result.failed() || rd.Fetched == policy.FetchShed && rd.Failing
	if rd.err != nil || rd.found.Answer == nil || !failed {
		return
	}
	// Meanwhile it may have been overtaken by a write, or got too old.
	found := g.lookup(rd.who.userID, rd.route.UserID, rd.trust, g.store.now())
	if rd.Stale = found.Answer != nil; rd.Stale {
		rd.found = found
	}
}

// fact returns what a request has brought.
func (s *subresponse) fact(own bool) policy.FetchFact {
	switch {
	case s.err != nil:
		return policy.FetchFailed
	case s.large:
		return policy.FetchLarge
	case own:
		return policy.FetchOwn
	}
	return policy.FetchShared
}

// reader is who reads whose presence.
type reader struct {
	viewer, target string
	credential     matrix.Credential
	trust          trust // in what is remembered
}

// lookup looks into memory, as far as that is trusted.
func (g *Gateway) lookup(viewer, target string, trusted trust, now time.Time) cache.Found {
	if trusted != trustAll {
		return g.lookupDoubted(viewer, target, trusted, now)
	}
	return g.store.presence.Lookup(viewer, target, g.rules(), now)
}

// lookupDoubted is lookup in a store that isn't trusted as it is.
func (g *Gateway) lookupDoubted(viewer, target string, trusted trust, now time.Time) cache.Found {
	if trusted == trustNothing {
		return cache.Found{Ticket: g.store.presence.Ticket(target, now).Doubted()}
	}
	return g.store.presence.Lookup(viewer, target, g.store.recent(g.rules()), now)
}
