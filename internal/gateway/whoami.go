package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/fairqueue"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/identity"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// whoAmI is a question whose a credential is, which may be asked later than its request
// is served.
type whoAmI struct {
	tenant
	credential matrix.Credential
	request    subrequest
	from       client
	first      *firstRead // that may go in its place, or nil
}

// origin is where a question comes from, as far as the way to the homeserver may depend on it.
type origin struct {
	cfg     *Settings
	address string
}

const (
	// maxLearning is how many requests at a time wait for the homeserver to tell whose they
	// are, although their clients don't: in mode observe, and syncs.
	maxLearning = 256

	// maxLearningEach is how many of them come from one client, as far as its address
	// tells it from others.
	maxLearningEach = 64
)

// statusClientClosed is what Caddy reports for a client that went away (nginx's 499).
const statusClientClosed = 499

// crowdedWait is what a client is told if too many tokens are being looked up.
const crowdedWait = time.Second

// identify tells on whose behalf c acts, from memory or from the homeserver. It asks
// for as many unknown tokens of a client as limit says, or for all if that is nil.
func (g *Gateway) identify(r *http.Request, next Next, c matrix.Credential, limit *policy.Limit) owner {
	if known := g.cached(c, g.store.now()); known.known() {
		return known
	}
	return g.askInPlace(r, g.newWhoAmI(r, next, c, limit))
}

// askInPlace asks for a presence request, unless presence gives way.
func (g *Gateway) askInPlace(r *http.Request, question whoAmI) owner {
	pass, wait := g.enter(g.senderOf(r, g.store.identities.Holder(question.credential)), true)
	if wait > 0 {
		return owner{shed: wait}
	}
	defer func() { pass.Leave(g.store.now()) }()
	return question.ask(r.Context().Done())
}

// identifyInBackground asks the homeserver whose a credential is, if that isn't known, while its
// request is served, and calls then with a user that it learns.
func (g *Gateway) identifyInBackground(r *http.Request, next Next, c matrix.Credential, then func(userID string)) {
	g.identifier(r, next, c)(then, func() {})
}

// identifier returns identifyInBackground for when its request has been passed on: handlers behind
// may have changed that by then. Over is called when nothing is asked any more.
func (g *Gateway) identifier(r *http.Request, next Next, c matrix.Credential) (identify func(then func(userID string), over func())) {
	question := g.newWhoAmI(r, next, c, g.cfg.RejectedLimit)
	return func(then func(userID string), over func()) {
		now := g.store.now()
		if known := g.cached(c, now); known.known() || g.isRefused(c, now) {
			over()
			return
		}
		asked := question.inBackground(g.store.learning, func() {
			defer over()
			if who := question.ask(nil); who.userID != "" {
				then(who.userID)
			}
		})
		if !asked {
			over()
		}
	}
}

// tellsItself is for how long a request whose token names its user may take to tell by its answer
// whether that is true, until the homeserver is asked. When everybody comes back at once it takes long,
// and that is no time for more questions.
const tellsItself = 2 * time.Second

// identifySoon is identifyInBackground for a request whose answer may tell whose its credential is: then
// is called also with a user whom that has told. Answers is to be called when the answer begins.
func (g *Gateway) identifySoon(r *http.Request, next Next, c matrix.Credential, then func(userID string)) (answers func()) {
	if g.claimed(c) == "" {
		g.identifyInBackground(r, next, c, then)
		return func() {}
	}
	m, question := g.store, g.newWhoAmI(r, next, c, g.cfg.RejectedLimit)
	// No place is taken before there is something to ask: whoever makes tokens up would keep them all.
	timer := time.AfterFunc(tellsItself, func() {
		_ = m.guard(func() {
			userID := m.identities.LastKnown(c)
			if userID == "" && !question.isRefused(c, m.now()) && m.learning.Take(question.from.name) {
				defer m.learning.Leave(question.from.name)
				who := question.ask(nil)
				userID = who.userID
			}
			if userID != "" {
				then(userID)
			}
		})
	})
	return func() {
		if timer.Stop() {
			timer.Reset(time.Millisecond) // what hears the answer is told of it after this
		}
	}
}

// newWhoAmI returns the question whose the credential of a request is.
func (g *Gateway) newWhoAmI(r *http.Request, next Next, c matrix.Credential, limit *policy.Limit) whoAmI {
	return whoAmI{tenant: g.tenant, credential: c, request: g.newWhoAmIRequest(r, next, c), from: g.newClient(r, limit)}
}

// newWhoAmIRequest makes the request GET /account/whoami, which all homeservers have under
// v3. It goes as the client, with its address and User-Agent, because Synapse
// records these as the last use of the token.
func (g *Gateway) newWhoAmIRequest(r *http.Request, next Next, c matrix.Credential) subrequest {
	u := &url.URL{Path: matrix.ClientPrefix + "v3/account/whoami", RawQuery: g.assertion(c)}
	return g.newSubrequest(r, next, u, c.Token)
}

// assertion is the query by which a request of ours acts for the same user as c. The token
// goes into the header, wherever it came: queries are logged. Parameters that have no effect are
// left out: what stands before the homeserver may mind what a client has put there.
func (g *Gateway) assertion(c matrix.Credential) string {
	c = g.store.identities.Effective(c)
	if c.UserID == "" && c.DeviceID == "" {
		return ""
	}
	query := make(url.Values)
	if c.UserID != "" {
		query.Set("user_id", c.UserID)
	}
	if c.DeviceID != "" {
		query.Set(c.DeviceParameter, c.DeviceID)
	}
	return query.Encode()
}

// ask asks, or waits for another's answer to the same question until gone.
func (q whoAmI) ask(gone <-chan struct{}) owner {
	m := q.store
	from := m.asker(q.credential, q.from)
	if wait := m.rejectedWait(from, m.now()); wait > 0 {
		return owner{wait: wait}
	}
	who, err := m.whoAmIs.Ask(identity.Question[origin, owner]{
		Credential: q.credential, Origin: origin{q.cfg, q.request.route.ClientIP()},
		Timeout: q.cfg.IdentityTimeout, Lifetime: q.cfg.Lifetimes.Identity,
		Ask: func(under identity.Inquiry, deadline time.Time) owner {
			who, result := q.askInTurn(from, under, deadline)
			q.first.keep(who)
			m.counters.lookups[result].Add(1)
			return who
		},
	}, gone)
	switch {
	case err == nil:
		return who
	case errors.Is(err, identity.ErrCrowded):
		return owner{wait: crowdedWait}
	case errors.Is(err, identity.ErrLeft):
		return owner{err: fail(statusClientClosed, err)}
	}
	return owner{err: fail(http.StatusGatewayTimeout, err)} // it has outlived itself
}

// askInBackground asks while no client waits, and calls then with the answer. It reports false, and
// does nothing, if too many are being asked. The channel is closed when another goroutine has begun
// to ask.
func (q whoAmI) askInBackground(places *fairqueue.Seats, then func(who owner)) (begins <-chan struct{}, ok bool) {
	begun := make(chan struct{})
	return begun, q.inBackground(places, func() {
		close(begun)
		then(q.ask(nil))
	})
}

// inBackground calls f, which asks, in a goroutine. It reports false, and does nothing, if too
// many are being asked.
func (q whoAmI) inBackground(places *fairqueue.Seats, f func()) bool {
	if !places.Take(q.from.name) {
		return false
	}
	go func() {
		defer places.Leave(q.from.name)
		_ = q.store.guard(f)
	}()
	return true
}

// askInTurn asks the homeserver, which has until deadline, when it is the client's turn.
func (q whoAmI) askInTurn(from client, under identity.Inquiry, deadline time.Time) (owner, lookup) {
	m := q.store
	patience, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	if m.asking.Enter(patience, from.name, from.many) != nil {
		return owner{wait: crowdedWait}, lookupCrowded
	}
	defer m.asking.Leave(from.name)
	// Another call may have ended before this one began, as in sendFetch, and
	// others of this client may have used its budget up.
	revision, asked := m.identities.Revision(), m.now()
	if known := q.cached(q.credential, asked); known.known() {
		known.asked, known.asOf = asked, revision
		return known, lookupShared
	}
	if wait := m.rejectedWait(from, asked); wait > 0 {
		return owner{wait: wait}, lookupLimited
	}
	if q.cfg.Lifetimes.UnknownToken > 0 && m.identities.WasRejected(q.credential) {
		retrying := from.retrying()
		if wait := m.rejectedWait(retrying, asked); wait > 0 {
			return owner{wait: wait}, lookupLimited
		}
		m.chargeRejected(retrying, asked)
		from.charged = true
	}
	return q.askHomeserver(from, under, revision, asked, deadline)
}

// askHomeserver asks the homeserver, and remembers its answer if it is a definite one. For a token
// that the homeserver doesn't know it charges the client, unless that has been charged.
func (q whoAmI) askHomeserver(from client, under identity.Inquiry, revision identity.Revision, asked, deadline time.Time) (owner, lookup) {
	if who, told := q.askByRead(from, under, revision, asked, deadline); told {
		return who, lookupByRead
	}
	m, c := q.store, q.credential
	staleAtStake := q.cfg.Rules.StaleIfError > 0 && m.identities.LastKnown(c) != ""
	// Whoever has many tokens is one sender.
	probe := q.probes(policy.ProbeLookup, cmp.Or(m.identities.Holder(c), from.name))
	defer probe.drops() // if it panics
	answer := q.request.sendTwice(time.Until(deadline), m, reasonWhoAmI, staleAtStake)
	probe.ends(answer)
	if answer.site {
		return owner{barrier: answer}, lookupFailed
	}
	errcode := answer.matrixError()
	if answer.failed() && errcode == "" {
		if !from.charged && m.identities.LastKnown(c) == "" {
			m.outage.fails(from, m.now())
		}
		return q.unreachable(answer), lookupFailed
	}
	m.answered(asked)
	switch {
	case answer.status == http.StatusOK:
		if who, ok := parseWhoAmI(answer); ok && !answer.local {
			q.reportFault(faultNone, nil)
			m.host.note(answer.host)
			m.identities.Accept(c)
			m.claims.note(c, who.UserID)
			under.Learn(identity.WhoAmI{UserID: who.UserID, DeviceID: who.DeviceID}, revision, asked)
			if q.learns() {
				m.presence.LetIn(who.UserID, asked, !who.Guest)
			}
			return owner{userID: who.UserID, asked: asked, asOf: revision}, lookupKnown
		}
	case answer.status == http.StatusUnauthorized && errcode == unknownToken:
		return q.rejectCharged(answer, from, asked), lookupRejected
	case errcode != "" && errcode != "M_UNRECOGNIZED" && errcode != "M_NOT_FOUND":
		// Also a 5xx, if the homeserver says so itself.
		if isAboutCredential(answer) {
			m.identities.Refuse(c, asked)
		}
		return owner{refusal: answer, down: answer.failed()}, lookupRefused
	}
	return q.incomprehensible(answer), lookupFailed
}

// rejectCharged is reject, and charges the client unless that has been charged.
func (q whoAmI) rejectCharged(answer *subresponse, from client, asked time.Time) owner {
	if !from.charged {
		q.store.chargeRejected(from, asked)
	}
	return q.reject(answer, asked)
}

// reject remembers that the homeserver doesn't know the token.
func (q whoAmI) reject(answer *subresponse, asked time.Time) owner {
	c, unknown := q.credential, &identity.UnknownToken{Body: string(answer.body), Header: keptHeader(answer.header)}
	// Dendrite says of an appservice's token that it doesn't know it if it is
	// the user_id that it doesn't know.
	if c.UserID == "" && c.DeviceID == "" && cache.Fits(unknown.Body, keptList(answer.header)) {
		q.store.settleIf(q.store.isKnown(c), c) // another of its processes may not know yet
		q.store.identities.Reject(c, unknown, asked)
	}
	return owner{unknown: unknown}
}

// unreachable returns what is known by a question that failed, and logs that.
func (q whoAmI) unreachable(answer *subresponse) owner {
	err := answer.err
	if err == nil {
		err = fail(http.StatusBadGateway, fmt.Errorf("GET %s was answered with status %d", q.request.request.URL.Path, answer.status))
	}
	q.reportFault(faultUnreachable, err)
	failed := owner{err: err, down: true}
	if answer.replaced && !answer.large {
		failed.page = answer
	}
	return failed
}

// incomprehensible returns what is known by an answer that no homeserver gives to a question, and
// logs it unless there may be one all the same.
func (q whoAmI) incomprehensible(answer *subresponse) owner {
	err := fmt.Errorf("GET %s was answered with status %d, Content-Type %q, Content-Encoding %q and Age %q",
		q.request.request.URL.Path, answer.status, answer.header.Get("Content-Type"), answer.header.Get("Content-Encoding"), answer.header.Get("Age"))
	failed := owner{err: fail(http.StatusBadGateway, err)}
	switch {
	case answer.isAboutRequest():
		failed.page = answer
	case answer.local:
		q.reportFault(faultUnreachable, err)
	default:
		q.reportFault(faultNotAHomeserver, err)
	}
	return failed
}
