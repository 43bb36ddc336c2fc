package gateway

import (
	"errors"
	"net/http"
	"slices"
	"sync"
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

// readEnds says how the steps that end a read are counted, and for what is passed on as it came,
// the word for the detail of Cache-Status.
var readEnds = [policy.ReadSteps]struct {
	outcome outcome
	detail  string
}{
	policy.ReadRefuseMissing:   {outcomeRejected, ""},
	policy.ReadRefuseUnknown:   {outcomeRejected, ""},
	policy.ReadLimit:           {outcomeLimited, ""},
	policy.ReadShed:            {outcomeShed, ""},
	policy.ReadPassOff:         {outcomeBypass, "off"},
	policy.ReadPassSpelling:    {outcomeBypass, "spelling"},
	policy.ReadPassUncertain:   {outcomeBypass, "uncertain-credential"},
	policy.ReadPassUnknown:     {outcomeBypass, "unknown-identity"},
	policy.ReadPassRefused:     {outcomeBypass, "unknown-identity"},
	policy.ReadPassRequest:     {outcomeBypass, "request"},
	policy.ReadPassOrigin:      {outcomeBypass, "request"},
	policy.ReadPassUncacheable: {outcomeBypass, "uncacheable"},
	policy.ReadPassBusy:        {outcomeBypass, "busy"},
	policy.ReadPassLarge:       {outcomeBypass, "large"},
	policy.ReadAnswer:          {outcomeHit, ""},
	policy.ReadAnswerOlder:     {outcomeOlder, ""},
	policy.ReadAnswerStale:     {outcomeStale, ""},
	policy.ReadForward:         {outcomeMiss, ""},
	policy.ReadShare:           {outcomeCollapsed, ""},
	policy.ReadFail:            {outcomeFailed, ""},
	policy.ReadCancel:          {outcomeCanceled, ""},
}

// beginReading makes a read of which nothing has been found out that costs anything. It is made in its
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

// serveRead is the life of a GET or HEAD of a presence in mode enforce.
func (g *Gateway) serveRead(w http.ResponseWriter, r *http.Request, next Next, route matrix.PresenceRoute) error {
	g.store.counters.requests[routeRead].Add(1)
	var rd reading
	g.beginReading(&rd, r, route)
	step := policy.DecideRead(&rd.ReadFacts)
	for ; !step.Ends(); step = policy.DecideRead(&rd.ReadFacts) {
		g.findOutForRead(step, &rd, r, next)
	}
	g.note(r, readEnds[step].outcome)
	if rd.Place == policy.PlaceTaken {
		pass := rd.pass
		leave := func() { pass.Leave(g.store.now()) }
		defer leave()
		// The client may take as long as it likes for the rest.
		w = onStatus(w, func(int) { leave() })
	}
	return g.endRead(step, &rd, w, r, next)
}

// findOutForRead carries out a step that finds out a fact, while the client waits.
func (g *Gateway) findOutForRead(step policy.ReadStep, rd *reading, r *http.Request, next Next) {
	switch step {
	case policy.ReadLookForBody:
		rd.Body = policy.BodyGood
		if asksForProtocol(r) || hasBody(r) {
			rd.Body = policy.BodyBad
		}
	case policy.ReadAskOwner:
		g.askOwner(rd, r, next)
	case policy.ReadStaleOwner:
		g.noteStaleOwner(rd)
		rd.leave(r)
	case policy.ReadTakeBudget:
		g.takeRead(rd, rd.who.userID)
	case policy.ReadTakeBudgets:
		g.askForBudgets(rd, r, next)
	case policy.ReadCheckClient:
		rd.now, rd.from = g.store.now(), g.newClient(r, g.cfg.RejectedLimit)
		g.checkClient(rd)
	case policy.ReadLookUp:
		g.lookUpRead(rd, g.store.isForItsOrigin(r))
	case policy.ReadFetch:
		g.fetchRead(rd, r, next)
	case policy.ReadTakePlace:
		rd.pass, rd.wait = g.enter(g.senderOf(r, rd.who.userID), false)
		rd.Place = placeFact(rd.wait)
	}
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

// leave notes if the client has left and that may be why nobody knows whose the credential is.
func (rd *reading) leave(r *http.Request) {
	if err := r.Context().Err(); err != nil && rd.who.userID == "" {
		rd.Owner, rd.err = policy.OwnerGone, fail(statusClientClosed, err)
	}
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

// endRead carries out a step that ends a read.
func (g *Gateway) endRead(step policy.ReadStep, rd *reading, w http.ResponseWriter, r *http.Request, next Next) error {
	detail := readEnds[step].detail
	switch step {
	case policy.ReadRefuseMissing:
		writeMissingToken(w, r, "Missing access token")
	case policy.ReadRefuseUnknown:
		writeRejection(w, r, rd.who.unknown)
	case policy.ReadLimit:
		writeLimited(w, r, rd.wait)
	case policy.ReadShed:
		if rd.wait == 0 { // it wasn't asked whether there is a place
			rd.wait = g.store.brownOut.Later()
		}
		writeShed(w, r, rd.wait)
	case policy.ReadPassOff:
		return g.serveUncached(w, r, next, rd.route)
	case policy.ReadPassRefused:
		return g.serveRefused(w, r, next, rd.credential)
	case policy.ReadPassUncertain, policy.ReadPassUnknown:
		if !rd.wasKnown {
			return g.bypassCharged(w, r, next, detail, rd.from, rd.now)
		}
		return g.bypass(w, r, next, detail)
	case policy.ReadPassOrigin:
		return g.bypass(g.store.unlearnOrigins(w), r, next, detail)
	case policy.ReadAnswer:
		if rd.found.ByRoom {
			g.store.counters.byRoom.Add(1)
		}
		writeFound(w, r, &rd.found)
	case policy.ReadAnswerOlder:
		g.store.brownOut.Spare()
		writeOld(w, r, &rd.found, brownOutDetail)
	case policy.ReadAnswerStale:
		writeOld(w, r, &rd.found, "; detail=stale-if-error")
	case policy.ReadForward, policy.ReadShare:
		writeFetched(w, r, rd.result, rd.own)
	case policy.ReadFail:
		return passOn(w, r, rd.result.subresponse)
	case policy.ReadCancel:
		return rd.err
	default:
		return g.bypass(w, r, next, detail)
	}
	return nil
}

// serveRefused passes on a read of who was refused a moment ago. If it succeeds, that is
// over.
func (g *Gateway) serveRefused(w http.ResponseWriter, r *http.Request, next Next, c matrix.Credential) error {
	return g.bypass(onStatus(w, func(status int) {
		if isSuccess(status) {
			g.store.identities.Accept(c)
		}
	}), r, next, readEnds[policy.ReadPassRefused].detail)
}

// bypassCharged passes on a read of which it isn't known whose it is. If the homeserver
// doesn't know its token, that is charged to the client as in [whoAmI.askHomeserver].
func (g *Gateway) bypassCharged(w http.ResponseWriter, r *http.Request, next Next, detail string, from client, now time.Time) error {
	isSites := g.isSites(r)
	w, finish := newWatch(w, func(status int) bool {
		return status == http.StatusUnauthorized && !isSites()
	}, func(answer *subresponse) {
		g.chargeUnidentified(r.Method, answer, from, now)
	})
	defer finish()
	return g.bypass(w, r, next, detail)
}

// chargeUnidentified charges a client for a read that the homeserver has answered with status 401,
// if it says that it doesn't know the token.
func (g *Gateway) chargeUnidentified(method string, answer *subresponse, from client, now time.Time) {
	// The answer to a HEAD doesn't say why, but perhaps that it is a homeserver's.
	untold := method == http.MethodHead && answer.isJSON() && !g.site.Authenticates
	if untold || answer.matrixError() == unknownToken {
		g.store.chargeRejected(from, now)
	}
}

// bypass sends a read to the homeserver as it came. Its answer is not stored.
func (g *Gateway) bypass(w http.ResponseWriter, r *http.Request, next Next, detail string) error {
	return g.forward(w, r, next, reasonBypass, func(int) {
		w.Header().Add("Cache-Status", cacheName+"; fwd=bypass; detail="+detail)
	})
}

// serveUncached passes a read on where nothing is kept. What it shows may still end what is
// believed of the last write, or of syncs.
func (g *Gateway) serveUncached(w http.ResponseWriter, r *http.Request, next Next, route matrix.PresenceRoute) error {
	if !g.comparesShown() || r.Method != http.MethodGet || !route.Canonical {
		return g.bypass(w, r, next, "off")
	}
	ticket := g.store.presence.Ticket(route.UserID, g.store.now())
	watched, finish := newWatch(w, func(status int) bool { return status == http.StatusOK }, func(answer *subresponse) {
		if answer.isWholeJSON() {
			g.compareShown(ticket, route.UserID, answer)
		}
	})
	defer finish()
	return g.bypass(watched, r, next, "off")
}

// comparesShown tells whether this handler, or another of its store, acts upon what it believes of
// a user's presence.
func (g *Gateway) comparesShown() bool {
	n := &g.store.needs
	return g.cfg.Absorbs || g.cfg.SyncPresence == SyncLimit || n.absorbs.Load() || n.limitsSyncs.Load()
}

// compareShown compares what the homeserver shows of a user with what they last wrote, and said
// by syncs, unless the answer may be from before.
func (g *Gateway) compareShown(ticket cache.Ticket, target string, answer *subresponse) {
	if g.comparesShown() && !g.store.presence.Overtaken(ticket) {
		g.store.repeats.Observe(target, answer.body, g.knownDialect())
		g.store.devices.Observe(target, answer.body, g.knownDialect(), g.store.now())
	}
}

// reader is who reads whose presence.
type reader struct {
	viewer, target string
	credential     matrix.Credential
	trust          trust // in what is remembered
}

// writeFetched passes on what a fetch brought.
func writeFetched(w http.ResponseWriter, r *http.Request, result *fetched, own bool) {
	status := statusMiss
	switch {
	case !own && result.answer != nil:
		// What the answer says to one connection only is not for another.
		writeKept(w, r, result.status, result.answer.Fields, statusCollapsed, result.body)
		return
	case !own:
		status = statusCollapsed
	case result.stored:
		status = statusStored
	}
	writeSubresponse(w, r, result.subresponse, status)
}

// writeOld answers a read with a state that is no longer fresh.
func writeOld(w http.ResponseWriter, r *http.Request, found *cache.Found, detail string) {
	writeKept(w, r, http.StatusOK, found.Answer.Fields, statusHit(found.Fresh)+detail, found.Answer.AppendBody(nil, found.Age))
}

// lookup looks into memory, as far as that is trusted.
func (g *Gateway) lookup(viewer, target string, trusted trust, now time.Time) cache.Found {
	if trusted != trustAll {
		return g.lookupDoubted(viewer, target, trusted, now)
	}
	return g.store.presence.Lookup(viewer, target, g.rules(), now)
}

// lookupDoubted is lookup in a memory that isn't trusted as it is.
func (g *Gateway) lookupDoubted(viewer, target string, trusted trust, now time.Time) cache.Found {
	if trusted == trustNothing {
		return cache.Found{Ticket: g.store.presence.Ticket(target, now).Doubted()}
	}
	return g.store.presence.Lookup(viewer, target, g.store.recent(g.rules()), now)
}

// writeFound answers a read with a hit.
func writeFound(w http.ResponseWriter, r *http.Request, found *cache.Found) {
	if found.Outcome == cache.Denied {
		writeKept(w, r, found.Denial.Status, found.Denial.Fields, statusHit(found.Fresh), []byte(found.Denial.Body))
		return
	}
	buffer := bodies.Get().(*[]byte)
	*buffer = found.Answer.AppendBody((*buffer)[:0], found.Age)
	writeKept(w, r, http.StatusOK, found.Answer.Fields, statusHit(found.Fresh), *buffer)
	bodies.Put(buffer)
}

// bodies are buffers for the bodies of hits, none larger than what is kept and
// the digits by which it grows. A response writer is done with one when Write
// returns.
var bodies = sync.Pool{New: func() any { return new([]byte) }}
