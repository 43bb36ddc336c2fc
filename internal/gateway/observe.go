package gateway

import (
	"errors"
	"net/http"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// In mode observe every request goes to the homeserver as it came, and its answer to the
// client as that came. What this configuration would have done is found out afterwards,
// from the request, the answer and what is remembered, which is kept up as if the mode
// were enforce: by the same decisions, of which each step is carried out here from what is
// known by then. Only a budget is what it is: who goes on after a 429 that
// nobody told them is limited more often than they would be.

// observe passes a presence request on and counts what would have become of it.
func (g *Gateway) observe(w http.ResponseWriter, r *http.Request, next Next, route matrix.PresenceRoute) error {
	kind := routeOf(r)
	g.store.counters.requests[kind].Add(1)
	seen := g.newObservation(r, next, kind, route)
	if kind == routeWrite {
		return g.observeWrite(w, r, next, seen)
	}
	g.note(r, outcomeBypass)
	opaque, timed := func() bool { return true }, probe{}
	if !asksForProtocol(r) {
		opaque = watchBody(r)
		if r.ContentLength == 0 { // else its client decides how long it takes
			seen.pass = g.joins()
			// It goes as it came, and may have been sent for it to fail: nobody without an account tells anything.
			if sender := g.store.identities.LastKnown(seen.reading.credential); sender != "" {
				timed = g.probes(policy.ProbeFetch, sender)
			}
		}
	}
	isSites, begun := g.isSites(r), false
	return g.observeAnswer(w, r, next, reasonBypass, seen, func(status int) {
		begun = true
		seen.pass.Leave(g.store.now())
		timed.ends(&subresponse{status: status, site: isSites()})
	}, func() {
		if !begun {
			timed.ends(seen.answer)
		}
		seen.pass.Leave(g.store.now())
		seen.opaque, seen.forOrigin = opaque(), g.store.isForItsOrigin(r)
	})
}

// observeWrite is observe for a write.
func (g *Gateway) observeWrite(w http.ResponseWriter, r *http.Request, next Next, seen *observation) error {
	g.note(r, outcomeForwarded)
	seen.beside = g.store.needs.absorbs.Load()
	target, credential := seen.writing.target, seen.writing.credential
	// Somebody else's changes nothing, and nobody knows whose until the homeserver takes it.
	writer, certain := "", seen.writing.Credential == policy.CredentialCertain
	if certain {
		writer = g.store.identities.LastKnown(credential)
	}
	body := newCopied(r, g.observedBody(certain, writer, target))
	var fence cache.Write
	var attempt policy.Attempt
	own := writer == target
	var told announcement
	if own {
		told = g.store.announce(r.Context(), target)
		fence = g.store.presence.BeginWrite(target)
		g.passesBy(target, credential)
		if seen.beside {
			attempt = g.store.repeats.Begin(target, seen.departed)
		}
	}
	return g.observeAnswer(w, r, next, reasonWrite, seen, func(status int) {
		told.end(r.Context())
		switch {
		case !isSuccess(status):
		case own:
			g.tellHeirs(target)
			g.passedBy(target, credential)
		case writer == "":
			g.invalidate(target)
		}
	}, func() {
		seen.unread = body.unread(r) && r.ContentLength <= g.cfg.MaxBody
		sent, whole := body.take()
		seen.writing.PresenceWrite.Body = sent
		seen.valid = whole && !seen.unread && !isCutOff(r, sent) && matrix.CheckPresenceBody(sent, g.cfg.PresenceValues, g.knownDialect()) == nil
		if own {
			g.tellHeirs(target)
			g.passesBy(target, credential) // it may have failed on the way back
			g.endFence(fence, seen.departed, seen.valid && seen.acknowledged(), sent)
			told.end(r.Context())
		}
		if own && seen.beside {
			attempt.End(nil)
		}
	})
}

// observeAnswer sends a request on as it came, and judges it when that is over. It calls answers
// with the status before that goes out, and over before the judgement.
func (g *Gateway) observeAnswer(w http.ResponseWriter, r *http.Request, next Next, why reason, seen *observation,
	answers func(status int), over func(),
) error {
	isSites, isLocal := g.isSites(r), g.isLocal(r)
	recorder := &recorder{responseWriter: responseWriter{w}}
	// Also if that panics, because the homeserver's answer breaks off.
	defer func() {
		answer := recorder.answer()
		answer.arrived = g.store.now()
		answer.site = answer.status >= http.StatusMultipleChoices && isSites() || g.site.Authenticates && answer.isAuthentication()
		answer.local = isLocal(answer.status) || isAged(answer.header)
		answer.echoes = echoesOrigin(r.Header, answer.header)
		seen.answer = answer
		over()
		g.judge(seen)
	}()
	return g.forward(recorder, r, next, why, func(status int) {
		recorder.status, recorder.header = status, w.Header().Clone()
		answers(status)
	})
}

// observedBody is the size of the largest body of a write that is kept while the write is under
// way: as much as is judged, and no more than a client sends if nobody knows yet whether its
// sender has an account.
func (g *Gateway) observedBody(certain bool, writer, target string) int64 {
	switch {
	case !certain, writer != "" && writer != target:
		return 0 // it would be refused, whatever it says
	case writer == "":
		return min(g.cfg.MaxBody, maxNamedBody)
	}
	return g.cfg.MaxBody
}

// judge finds out what would have become of a request. If it isn't known whose that is,
// the homeserver is asked meanwhile: the client is not to wait for that.
func (g *Gateway) judge(seen *observation) {
	o, ok := seen.outcome(nil)
	if !ok {
		later := seen.asks[0].inBackground(g.store.learning, func() {
			o, _ := seen.outcome(func(q whoAmI) owner { return q.ask(nil) })
			g.store.counters.observed[seen.kind][o].Add(1)
		})
		if later {
			return
		}
		o, _ = seen.outcome(func(whoAmI) owner {
			return owner{err: errors.New("too many requests are being observed")}
		})
	}
	g.noteObserved(seen.verdict, seen.kind, o)
}

// noteObserved counts what would have become of a request and says so in its variable.
func (g *Gateway) noteObserved(v verdict, route route, o outcome) {
	g.store.counters.observed[route][o].Add(1)
	v.tell(o)
}

// observation is what is known of a request when it is over.
type observation struct {
	handler  *Gateway
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
	beside  bool // another handler of the store absorbs repeats in mode enforce
}

// newObservation returns what is known of a request before it is sent on.
func (g *Gateway) newObservation(r *http.Request, next Next, kind route, route matrix.PresenceRoute) *observation {
	seen := &observation{handler: g, kind: kind, verdict: g.newVerdict(r), method: r.Method, departed: g.store.now()}
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
	h, question := s.handler, s.asks[i]
	who = h.cached(question.credential, s.departed)
	switch {
	case who.known() || h.isRefused(question.credential, s.departed):
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
	s.handler.remember(s.ticket, *s.claimed, s.answer)
}

// findOutForRead is [Gateway.findOutForRead] for a read that is over.
func (s *observation) findOutForRead(step policy.ReadStep, ask func(whoAmI) owner) (ok bool) {
	h, rd := s.handler, &s.reading
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
		if !who.known() && h.isRefused(rd.credential, s.departed) {
			rd.Owner = policy.OwnerRefused
		}
	case policy.ReadStaleOwner:
		h.noteStaleOwner(rd)
	case policy.ReadTakeBudget:
		h.takeRead(rd, rd.who.userID)
	case policy.ReadTakeBudgets:
		for i := range s.asks {
			if _, ok := s.owner(i, nil); !ok && ask == nil {
				return false
			}
		}
		h.takeReads(rd, func(i int) owner {
			who, _ := s.owner(i, ask)
			return who
		})
	case policy.ReadCheckClient:
		h.checkClient(rd)
	case policy.ReadLookUp:
		h.lookUpRead(rd, s.forOrigin)
	case policy.ReadFetch:
		rd.Fetched = s.answer.fact(true)
		if h.placeLeft(rd.BrownOut) == policy.PlaceFull {
			rd.Fetched = policy.FetchShed
		}
		rd.Stale = (s.answer.failed() || rd.Fetched == policy.FetchShed && rd.Failing) && rd.found.Answer != nil
	case policy.ReadTakePlace:
		rd.Place = h.placeLeft(rd.BrownOut)
	}
	return true
}

// endRead remembers what there is to remember of a read for which this is the end.
func (s *observation) endRead(step policy.ReadStep) {
	h, rd := s.handler, &s.reading
	switch step {
	case policy.ReadForward, policy.ReadPassLarge:
		if rd.first == nil && s.method == http.MethodGet && !s.answer.site && !s.answer.local {
			h.remember(s.ticket, rd.reader(), s.answer)
		}
	case policy.ReadPassOff:
		if s.method == http.MethodGet && rd.Canonical && s.answer.status == http.StatusOK && s.answer.isWholeJSON() {
			h.compareShown(s.ticket, rd.route.UserID, s.answer)
		}
	case policy.ReadPassRefused:
		if isSuccess(s.answer.status) {
			h.store.identities.Accept(rd.credential)
		}
	case policy.ReadPassUncertain, policy.ReadPassUnknown:
		if !rd.wasKnown && s.answer.status == http.StatusUnauthorized && !s.answer.site {
			h.chargeUnidentified(s.method, s.answer, rd.from, s.departed)
		}
	}
}

// findOutForWrite is [Gateway.findOutForWrite] for a write that is over.
func (s *observation) findOutForWrite(step policy.WriteStep, ask func(whoAmI) owner) (ok bool) {
	h, wr := s.handler, &s.writing
	switch step {
	case policy.WriteAskOwner:
		who, ok := s.owner(0, ask)
		if !ok {
			return false
		}
		h.noteWriter(wr, who)
	case policy.WriteReadBody:
		wr.Body = policy.BodyBad
		if s.valid || s.unread {
			wr.Body = policy.BodyGood
		}
	case policy.WriteLookAtQueue:
		h.behindQueue(wr, false) // the homeserver gets all of them
	case policy.WriteCompare:
		h.compareWrite(wr)
	case policy.WriteTakePlace:
		wr.Place = h.placeLeft(h.brownOut())
	case policy.WriteTakeBudget:
		wait, ok := h.store.take(limitWrite, wr.class.WriteLimit, wr.UserID, wr.now)
		h.noteBudget(wr, wait, ok)
	case policy.WriteLetWait:
		wr.Wait = policy.WaitRefused
		if wr.due <= h.cfg.Coalesce.MaxAge && matrix.TakesBody(wr.PresenceWrite.Body, h.knownDialect()) {
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
	h, write, taken := s.handler, &s.writing.PresenceWrite, s.valid && s.acknowledged()
	if taken {
		h.beginWrite(write, s.departed)(s.answer.status)
	}
	if s.beside {
		return // it was remembered as none that could be repeated
	}
	attempt := h.store.repeats.Begin(write.UserID, s.departed)
	if taken {
		attempt.End(write)
	} else {
		attempt.End(nil)
	}
}
