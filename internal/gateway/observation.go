package gateway

import (
	"net/http"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// observation is what is known of a request when it is over.
type observation struct {
	gateway  *Gateway
	kind     route
	verdict  verdict
	departed time.Time
	pass     policy.Pass  // as if it needed one
	asks     []whoAmI     // whose the credential is, or each that it might be
	answer   *subresponse // the homeserver's

	// A read.
	reading   reading
	method    string
	opaque    bool // it has a body, or a protocol that the cache has no part in
	forOrigin bool // its answer is for its origin
	ticket    cache.Ticket
	claimed   *reader // it would have gone in the place of a question, see firstRead; else nil

	// A write.
	writing writing
	valid   bool // the body is whole, and one that a homeserver may take
	unread  bool // nobody has read the body to its end, so it can't be judged
	beside  bool // another gateway of the store absorbs repeats in mode enforce
}

// newObservation returns what is known of a request before it is sent on.
func (g *Gateway) newObservation(r *http.Request, next Next, kind route, route matrix.PresenceRoute) *observation {
	seen := &observation{gateway: g, kind: kind, verdict: g.newVerdict(r), method: r.Method, departed: g.store.now()}
	if kind == routeWrite {
		seen.writing = newWriting(r, route)
		seen.writing.now = seen.departed
		if seen.writing.Credential == policy.CredentialCertain {
			seen.asks = append(seen.asks, g.newWhoAmI(r, next, seen.writing.credential, g.cfg.RejectedLimit))
		}
		return seen
	}
	seen.ticket = g.store.presence.Ticket(route.UserID, seen.departed)
	g.beginReading(&seen.reading, r, route)
	seen.reading.now, seen.reading.from = seen.departed, g.newClient(r, g.cfg.RejectedLimit)
	might := seen.reading.shown
	switch {
	case !g.cfg.limitsReads && (!g.cfg.Cached || seen.reading.Credential != policy.CredentialCertain):
		return seen // nobody's question
	case seen.reading.Credential == policy.CredentialCertain:
		might = []matrix.Credential{seen.reading.credential}
		if who, ok := g.readsFirst(r, &seen.reading); ok {
			seen.claimed = &who
		}
	}
	for _, c := range might {
		seen.asks = append(seen.asks, g.newWhoAmI(r, next, c, g.cfg.RejectedLimit))
	}
	return seen
}

// acknowledged tells that the homeserver has said that it took the write.
func (s *observation) acknowledged() bool {
	return s.answer.err == nil && isSuccess(s.answer.status)
}

// outcome returns what would have become of the request, and remembers what there is to
// remember. It calls ask for what isn't known of whose the request is. If ask is nil, it reports
// false when it comes to that, and can be called again.
func (s *observation) outcome(ask func(whoAmI) owner) (o outcome, ok bool) {
	if s.kind == routeWrite {
		wr := &s.writing
		step := policy.DecideWrite(&wr.WriteFacts)
		for ; !step.Ends(); step = policy.DecideWrite(&wr.WriteFacts) {
			if !s.findOutForWrite(step, ask) {
				return 0, false
			}
		}
		s.endWrite(step)
		return writeEnds[step], true
	}
	rd := &s.reading
	step := policy.DecideRead(&rd.ReadFacts)
	for ; !step.Ends(); step = policy.DecideRead(&rd.ReadFacts) {
		if !s.findOutForRead(step, ask) {
			return 0, false
		}
	}
	s.endRead(step)
	return readEnds[step].outcome, true
}

// owner returns whose one of the credentials is. It reports false if that has to be asked for and
// ask is nil.
func (s *observation) owner(i int, ask func(whoAmI) owner) (who owner, ok bool) {
	g, question := s.gateway, s.asks[i]
	who = g.cached(question.credential, s.departed)
	switch {
	case who.known() || g.isRefused(question.credential, s.departed):
	case ask == nil:
		return who, false
	default:
		who = ask(question)
		s.keepFirst(who)
	}
	return who, true
}

// keepFirst is [firstRead.keep]: what a read has brought that would have gone in the place of the question
// is kept, also if its user is over a limit then.
func (s *observation) keepFirst(who owner) {
	if s.claimed == nil || s.opaque || s.method != http.MethodGet || who.userID != s.claimed.viewer ||
		s.answer.err != nil || s.answer.site || s.answer.local || !s.answer.isForReader() {
		return
	}
	s.reading.first = &fetched{subresponse: s.answer}
	s.gateway.remember(s.ticket, *s.claimed, s.answer)
}

// findOutForRead is [Gateway.findOutForRead] for a read that is over.
func (s *observation) findOutForRead(step policy.ReadStep, ask func(whoAmI) owner) (ok bool) {
	g, rd := s.gateway, &s.reading
	switch step {
	case policy.ReadLookForBody:
		rd.Body = policy.BodyGood
		if s.opaque {
			rd.Body = policy.BodyBad
		}
	case policy.ReadAskOwner:
		who, ok := s.owner(0, ask)
		if !ok {
			return false
		}
		rd.noteOwner(who)
		if !who.known() && g.isRefused(rd.credential, s.departed) {
			rd.Owner = policy.OwnerRefused
		}
	case policy.ReadStaleOwner:
		g.noteStaleOwner(rd)
	case policy.ReadTakeBudget:
		g.takeRead(rd, rd.who.userID)
	case policy.ReadTakeBudgets:
		for i := range s.asks {
			if _, ok := s.owner(i, nil); !ok && ask == nil {
				return false
			}
		}
		g.takeReads(rd, func(i int) owner {
			who, _ := s.owner(i, ask)
			return who
		})
	case policy.ReadCheckClient:
		g.checkClient(rd)
	case policy.ReadLookUp:
		g.lookUpRead(rd, s.forOrigin)
	case policy.ReadFetch:
		rd.Fetched = s.answer.fact(true)
		if g.placeLeft(rd.BrownOut) == policy.PlaceFull {
			rd.Fetched = policy.FetchShed
		}
		rd.Stale = (s.answer.failed() || rd.Fetched == policy.FetchShed && rd.Failing) && rd.found.Answer != nil
	case policy.ReadTakePlace:
		rd.Place = g.placeLeft(rd.BrownOut)
	}
	return true
}

// endRead remembers what there is to remember of a read for which this is the end.
func (s *observation) endRead(step policy.ReadStep) {
	g, rd := s.gateway, &s.reading
	switch step {
	case policy.ReadForward, policy.ReadPassLarge:
		if rd.first == nil && s.method == http.MethodGet && !s.answer.site && !s.answer.local {
			g.remember(s.ticket, rd.reader(), s.answer)
		}
	case policy.ReadPassOff:
		if s.method == http.MethodGet && rd.Canonical && s.answer.status == http.StatusOK && s.answer.isWholeJSON() {
			g.compareShown(s.ticket, rd.route.UserID, s.answer)
		}
	case policy.ReadPassRefused:
		if isSuccess(s.answer.status) {
			g.store.identities.Accept(rd.credential)
		}
	case policy.ReadPassUncertain, policy.ReadPassUnknown:
		if !rd.wasKnown && s.answer.status == http.StatusUnauthorized && !s.answer.site {
			g.chargeUnidentified(s.method, s.answer, rd.from, s.departed)
		}
	}
}

// findOutForWrite is [Gateway.findOutForWrite] for a write that is over.
func (s *observation) findOutForWrite(step policy.WriteStep, ask func(whoAmI) owner) (ok bool) {
	g, wr := s.gateway, &s.writing
	switch step {
	case policy.WriteAskOwner:
		who, ok := s.owner(0, ask)
		if !ok {
			return false
		}
		g.noteWriter(wr, who)
	case policy.WriteReadBody:
		wr.Body = policy.BodyBad
		if s.valid || s.unread {
			wr.Body = policy.BodyGood
		}
	case policy.WriteLookAtQueue:
		g.behindQueue(wr, false) // the homeserver gets all of them
	case policy.WriteCompare:
		g.compareWrite(wr)
	case policy.WriteTakePlace:
		wr.Place = g.placeLeft(g.brownOut())
	case policy.WriteTakeBudget:
		wait, ok := g.store.take(limitWrite, wr.class.WriteLimit, wr.UserID, wr.now)
		g.noteBudget(wr, wait, ok)
	case policy.WriteLetWait:
		wr.Wait = policy.WaitRefused
		if wr.due <= g.cfg.Coalesce.MaxAge && matrix.TakesBody(wr.PresenceWrite.Body, g.knownDialect()) {
			wr.Wait = policy.WaitAccepted
		}
	}
	return true
}

// endWrite remembers what there is to remember of a write for which this is the end.
func (s *observation) endWrite(step policy.WriteStep) {
	if step != policy.WriteForward {
		return
	}
	g, write, taken := s.gateway, &s.writing.PresenceWrite, s.valid && s.acknowledged()
	if taken {
		g.beginWrite(write, s.departed)(s.answer.status)
	}
	if s.beside {
		return // it was remembered as none that could be repeated
	}
	attempt := g.store.repeats.Begin(write.UserID, s.departed)
	if taken {
		attempt.End(write)
	} else {
		attempt.End(nil)
	}
}
