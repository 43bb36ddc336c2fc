package gateway

import (
	"errors"
	"net/http"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// In mode observe every request goes to the homeserver as it came, and its answer to the
// client as that came. What this configuration would have done is found out afterwards,
// from the request, the answer and what is remembered, which is kept up as if the mode
// were enforce: by the same decisions, whose steps are carried out in observation.go from what is
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

// verdict is where the outcome of a request in mode observe is told, which is a variable of that. The
// request has been sent on by then.
type verdict struct {
	server  Server
	request *http.Request
}

// newVerdict returns that of a request.
func (g *Gateway) newVerdict(r *http.Request) verdict { return verdict{g.server, r} }

// tell tells it.
func (v verdict) tell(o outcome) { v.server.SetLateVar(v.request, varObserved, outcomes[o].name) }
