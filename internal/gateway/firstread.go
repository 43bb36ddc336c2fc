package gateway

import (
	"net/http"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/identity"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// firstRead is a read that goes to the homeserver in the place of the question whose its token
// is: if the homeserver answers it, the token is of who it claims to be. What it has brought is
// kept once that is known, and only then. All that bounds questions bounds it: it is one.
//
//	1 read:  with an unknown token that names alice
//	1 read:  is sent, with a ticket; others with this token wait for it, as for a question
//	1 read:  is answered: the token is alice's, and alice may see the target
//	1 read:  is charged to alice, and answered
type firstRead struct {
	gateway *Gateway
	request subrequest
	claimed reader
	found   cache.Found // nothing, when it departed

	departed time.Time
	answer   *subresponse // nil until it was sent
	kept     *fetched     // what it has brought, once it is known for whom; else nil
}

// newFirstRead returns a read that may go in the place of a question, or nil.
func (g *Gateway) newFirstRead(r *http.Request, next Next, rd *reading) *firstRead {
	who, ok := g.readsFirst(r, rd)
	if !ok {
		return nil
	}
	return &firstRead{gateway: g, request: g.newFetch(r, next, who), claimed: who}
}

// readsFirst returns whose a read claims to be, and whether it may go in the place of a question: it must
// be one that would be fetched, if it is known whose it is.
func (g *Gateway) readsFirst(r *http.Request, rd *reading) (who reader, ok bool) {
	c := rd.credential
	switch {
	case !g.learns() || g.knownDialect() == Auto || c.UserID != "" || c.DeviceID != "",
		!rd.Canonical || rd.Body == policy.BodyBad || g.store.isForItsOrigin(r):
		return who, false
	}
	who = reader{viewer: g.claimed(c), target: rd.route.UserID, credential: c, trust: rd.trust}
	return who, who.viewer != "" && g.lookup(who.viewer, who.target, who.trust, rd.now).Outcome == cache.Miss
}

// identifyReader tells whose a read is that isn't in memory, by a question or by the read itself.
func (g *Gateway) identifyReader(r *http.Request, next Next, rd *reading) owner {
	question := g.newWhoAmI(r, next, rd.credential, g.cfg.RejectedLimit)
	question.first = g.newFirstRead(r, next, rd)
	who := g.askInPlace(r, question)
	if question.first != nil {
		rd.first = question.first.kept
	}
	return who
}

// send sends the read, once. It leaves time for a question.
func (f *firstRead) send(deadline time.Time) {
	g := f.gateway
	f.departed = g.store.now()
	f.found = g.lookup(f.claimed.viewer, f.claimed.target, f.claimed.trust, f.departed)
	f.answer = f.request.send(time.Until(deadline)/2, g.store.counters.departs(reasonFirstRead))
}

// isHomeservers tells that the homeserver has answered, now: not the site, nor a cache between.
func (f *firstRead) isHomeservers() bool {
	a := f.answer
	return a.err == nil && !a.site && !a.local && len(a.header["Age"]) == 0
}

// proves tells that the homeserver has served the token's user.
func (f *firstRead) proves() bool {
	return f.isHomeservers() && f.answer.status == http.StatusOK && saysJSON(f.answer.header)
}

// keep remembers what the read has brought if it is known that it was the claimed user's. Those who
// wait for that look into memory next. Whom the homeserver limits isn't to ask it again at once.
func (f *firstRead) keep(who owner) {
	if f == nil || f.answer == nil || f.kept != nil || !f.isHomeservers() || who.userID != f.claimed.viewer || !f.answer.isForReader() {
		return
	}
	f.kept = &fetched{departed: f.departed, subresponse: f.answer}
	f.gateway.keepFetched(f.kept, f.found.Ticket, f.claimed, f.request.request)
}

// isForReader tells of an answer to a read that it says what the reader may see of its target, or that the
// homeserver limits them.
func (s *subresponse) isForReader() bool {
	switch s.status {
	case http.StatusOK, http.StatusForbidden, http.StatusNotFound, http.StatusTooManyRequests:
		return true
	}
	return false
}

// askByRead sends the read of a question, if it has one that wasn't sent. It reports false if that
// hasn't told whose the token is, and the homeserver has to be asked.
func (q whoAmI) askByRead(from client, under identity.Inquiry, revision identity.Revision, asked, deadline time.Time) (who owner, told bool) {
	m, c, f := q.store, q.credential, q.first
	if f == nil || f.answer != nil {
		return owner{}, false
	}
	probe := q.probes(policy.ProbeFetch, from.name)
	defer probe.drops()
	f.send(deadline)
	if f.proves() { // whoever has no account may have made it fail, and to refuse a token takes less
		probe.ends(f.answer)
	}
	switch {
	case f.proves():
		m.answered(asked)
		m.identities.Accept(c)
		under.Learn(identity.WhoAmI{UserID: f.claimed.viewer}, revision, asked)
		m.presence.LetIn(f.claimed.viewer, asked, false)
		m.counters.learned[learnedIdentity].Add(1)
		return owner{userID: f.claimed.viewer, asked: asked, asOf: revision}, true
	case f.isHomeservers() && f.answer.status == http.StatusUnauthorized && f.answer.matrixError() == unknownToken:
		m.answered(asked)
		return q.rejectCharged(f.answer, from, asked), true
	}
	return owner{}, false
}
