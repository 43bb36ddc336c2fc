package gateway

import (
	"net/http"
	"sync"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

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
		rd.leave(r)
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

// bypassCharged passes on a read whose sender isn't known. If the homeserver
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

// comparesShown tells whether this gateway, or another of its store, acts upon what it believes of
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
