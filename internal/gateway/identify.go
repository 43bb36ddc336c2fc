package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/fairqueue"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/flight"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/identity"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// owner is what is known of whose a credential is. One of the fields is set.
type owner struct {
	userID  string
	asked   time.Time              // of an answer that was asked for, when that was
	asOf    identity.Revision      // of such an answer, what had been revoked by then
	unknown *identity.UnknownToken // the homeserver doesn't know the token

	// refusal is another Matrix error than an unknown token, such as a locked
	// account or an appservice that may not act for the user. It is the
	// homeserver's answer to this one request. That there was one is remembered, see
	// [identity.Table.Refuse].
	refusal *subresponse

	// wait is set if the homeserver was not asked, because too many tokens are
	// being looked up, or too many of this client's turned out to be unknown: how
	// long to wait before trying again.
	wait time.Duration

	// barrier is what the site's own handlers said to the question, which didn't reach
	// the homeserver. It is for the client that asked.
	barrier *subresponse

	// err says why there is no answer, with a status: 502, 503 or 504.
	err error

	// page is there if the client is to get that for an err: what the site has put in the
	// place of the homeserver's error, or what says that the request was none to be answered.
	page *subresponse

	// retries are there if it isn't shared, for those who waited for it.
	retries *retries

	// crashed tells of an err that our own code panicked.
	crashed bool

	// down tells of an err or a refusal that the homeserver could not tell, by a question that
	// had nothing of the client's but its credential.
	down bool
}

// known tells that the homeserver has told, one way or the other.
func (o *owner) known() bool { return o.userID != "" || o.unknown != nil }

// fact returns what it is to a decision.
func (o *owner) fact() policy.OwnerFact {
	switch {
	case o.userID != "":
		return policy.OwnerKnown
	case o.unknown != nil:
		return policy.OwnerRejected
	case o.wait > 0:
		return policy.OwnerLimited
	case o.down:
		return policy.OwnerDown
	case o.refusal != nil && isAboutCredential(o.refusal):
		return policy.OwnerRefused
	}
	return policy.OwnerUnknown
}

// isShared tells that an answer is about the credential, and not about the client that
// asked with it: its address, its budget, its failure.
func (o *owner) isShared() bool {
	return o.known() || o.crashed || o.refusal != nil && o.refusal.status != http.StatusTooManyRequests && !o.refusal.failed()
}

// cached returns what is remembered of whose a credential is.
func (g *Gateway) cached(c matrix.Credential, now time.Time) (known owner) {
	known.userID, known.unknown = g.store.identities.Lookup(c, now, g.cfg.Lifetimes)
	return known
}

// isRefused reports whether the homeserver has refused a credential a moment ago.
func (g *Gateway) isRefused(c matrix.Credential, now time.Time) bool {
	return g.store.identities.IsRefused(c, now, g.cfg.Lifetimes)
}

// isAboutCredential tells of a refusal that it isn't about a limit or trouble of the
// homeserver's own.
func isAboutCredential(answer *subresponse) bool {
	return answer.status < http.StatusInternalServerError && answer.status != http.StatusTooManyRequests
}

// identify tells on whose behalf c acts, from memory or from the homeserver. It asks
// for as many unknown tokens of a client as limit says, or for all if that is nil.
func (g *Gateway) identify(r *http.Request, next Next, c matrix.Credential, limit *policy.Limit) owner {
	if known := g.cached(c, g.store.now()); known.known() {
		return known
	}
	return g.inquire(r, next, c, limit).answer(r.Context().Done())
}

// inquiry is a question whose a credential is, that may be asked later than its request
// is served.
type inquiry struct {
	handler    *Gateway
	credential matrix.Credential
	question   subrequest
	from       client
}

func (g *Gateway) inquire(r *http.Request, next Next, c matrix.Credential, limit *policy.Limit) inquiry {
	return inquiry{g, c, g.newWhoAmI(r, next, c), g.newClient(r, limit)}
}

// answer asks, or waits for another's answer to the same question until gone.
func (i inquiry) answer(gone <-chan struct{}) owner {
	h, m := i.handler, i.handler.store
	from := m.asker(i.credential, i.from)
	if wait := m.rejectedWait(from, m.now()); wait > 0 {
		return owner{wait: wait}
	}
	end := time.Now().Add(h.cfg.IdentityTimeout)
	under := m.identities.Begin(i.credential)
	defer under.End()
	var again *retries
	for {
		var c *flight.Call[owner]
		var run func()
		if again != nil {
			c, run = again.Join(i.origin(), func() owner {
				return m.whoAmIs.Alone(func() owner { return i.ask(from, under, end) })
			})
		} else {
			c, _, run = m.whoAmIs.Join(m.identities.Fingerprint(i.credential), true, func() owner {
				return i.ask(from, under, time.Now().Add(h.cfg.IdentityTimeout))
			})
		}
		if c == nil {
			return owner{wait: crowdedWait}
		}
		if run != nil {
			run()
			return c.Result()
		}
		select {
		case <-c.Done():
		case <-gone:
			return owner{err: fail(statusClientClosed, errors.New("the client left while the homeserver was asked whose access token it is"))}
		}
		switch who := c.Result(); {
		case !who.isShared() && again == nil && time.Now().Before(end):
			again = who.retries
		case (who.barrier != nil || who.wait > 0) && time.Now().Before(end):
			return m.whoAmIs.Alone(func() owner { return i.ask(from, under, end) })
		case who.userID == "":
			return who
		case !under.Holds(who.userID, who.asOf):
			// It was true when another asked, and something has been revoked since.
			again = nil
		case m.now().Sub(who.asked) < h.cfg.Lifetimes.Identity:
			return who
		default:
			// It was true when another asked, but is not good for so long.
			return owner{err: fail(http.StatusGatewayTimeout, errOutlived)}
		}
	}
}

// origin is where a question came from, as far as the way to the homeserver may depend on it.
type origin struct {
	handler *Gateway
	address string
}

func (i inquiry) origin() origin {
	return origin{i.handler, i.question.route.ClientIP()}
}

// retries are the questions of those who have shared one that failed. The credential is the
// same, the client need not be, so one of each origin asks again: what fails there has
// nothing to do with what else a client sends.
type retries = flight.Once[origin, owner]

// maxLearning is how many requests at a time wait for the homeserver to tell whose they
// are, although their clients don't: in mode observe, and syncs.
const maxLearning = 256

// maxLearningEach is how many of them come from one client, as far as its address
// tells it from others.
const maxLearningEach = 64

// later asks behind the client's back, and calls then with the answer. It reports false, and
// does nothing, if too many are being asked.
func (i inquiry) later(then func(who owner)) bool {
	return i.laterFrom(i.handler.store.learning, then)
}

func (i inquiry) laterFrom(places *fairqueue.Seats, then func(who owner)) bool {
	_, ok := i.start(places, then)
	return ok
}

// start is laterFrom, and returns a channel that is closed when another goroutine has begun to
// ask.
func (i inquiry) start(places *fairqueue.Seats, then func(who owner)) (begins <-chan struct{}, ok bool) {
	begun := make(chan struct{})
	return begun, i.inBackground(places, func() {
		close(begun)
		then(i.answer(nil))
	})
}

// inBackground calls f, which asks, in a goroutine. It reports false, and does nothing, if too
// many are being asked.
func (i inquiry) inBackground(places *fairqueue.Seats, f func()) bool {
	if !places.Take(i.from.name) {
		return false
	}
	go func() {
		defer places.Leave(i.from.name)
		_ = i.handler.store.guard(f)
	}()
	return true
}

// learn asks the homeserver whose a credential is, if that isn't known, while its request
// is served, and calls then with a user that it learns.
func (g *Gateway) learn(r *http.Request, next Next, c matrix.Credential, then func(userID string)) {
	now := g.store.now()
	if known := g.cached(c, now); known.known() || g.isRefused(c, now) {
		return
	}
	g.inquire(r, next, c, g.cfg.RejectedLimit).later(func(who owner) {
		if who.userID != "" {
			then(who.userID)
		}
	})
}

// errOutlived says that an answer was no longer good when it came. The homeserver is
// slow then, not down, so nothing stale may stand in for it.
var errOutlived = errors.New("the homeserver took longer to tell whose access token it is than that is good for")

// statusClientClosed is what Caddy reports for a client that went away (nginx's 499).
const statusClientClosed = 499

// crowdedWait is what a client is told if too many tokens are being looked up.
const crowdedWait = time.Second

// newWhoAmI makes the request GET /account/whoami, which all homeservers have under
// v3. It goes as the client, with its address and User-Agent, because Synapse
// records these as the last use of the token.
func (g *Gateway) newWhoAmI(r *http.Request, next Next, c matrix.Credential) subrequest {
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

// ask asks the homeserver, which has until deadline, and remembers its answer if it is a
// definite one.
func (i inquiry) ask(from client, under identity.Inquiry, deadline time.Time) owner {
	who, result := i.handler.lookUp(i.question, i.credential, from, under, deadline)
	i.handler.store.counters.lookups[result].Add(1)
	if !who.isShared() {
		who.retries = new(retries)
	}
	return who
}

func (g *Gateway) lookUp(question subrequest, c matrix.Credential, from client, under identity.Inquiry, deadline time.Time) (owner, lookup) {
	m := g.store
	patience, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	if m.asking.Enter(patience, from.name, from.many) != nil {
		return owner{wait: crowdedWait}, lookupCrowded
	}
	defer m.asking.Leave(from.name)
	// Another call may have ended before this one began, as in sendFetch, and
	// others of this client may have used its budget up.
	revision, asked := m.identities.Revision(), m.now()
	if known := g.cached(c, asked); known.known() {
		known.asked, known.asOf = asked, revision
		return known, lookupShared
	}
	if wait := m.rejectedWait(from, asked); wait > 0 {
		return owner{wait: wait}, lookupLimited
	}

	asksAgain := g.cfg.Lifetimes.UnknownToken > 0 && m.identities.WasRejected(c)
	if asksAgain {
		again := from.again()
		if wait := m.rejectedWait(again, asked); wait > 0 {
			return owner{wait: wait}, lookupLimited
		}
		m.chargeRejected(again, asked)
	}

	staleAtStake := g.cfg.Rules.StaleIfError > 0 && m.identities.LastKnown(c) != ""
	answer := question.sendTwice(time.Until(deadline), m, reasonWhoAmI, staleAtStake)
	if answer.site {
		return owner{barrier: answer}, lookupFailed
	}
	errcode := answer.matrixError()
	if answer.failed() && errcode == "" {
		if !asksAgain && m.identities.LastKnown(c) == "" {
			m.outage.fails(from, m.now())
		}
		return g.unreachable(question, answer), lookupFailed
	}
	m.answered(asked)
	switch {
	case answer.status == http.StatusOK:
		var who struct {
			UserID   string `json:"user_id"`
			DeviceID string `json:"device_id"`
		}
		if answer.decode(&who) && who.UserID != "" {
			g.reportFault(faultNone, nil)
			m.host.note(answer.host)
			m.identities.Accept(c)
			under.Learn(identity.WhoAmI{UserID: who.UserID, DeviceID: who.DeviceID}, revision, asked)
			return owner{userID: who.UserID, asked: asked, asOf: revision}, lookupKnown
		}
	case answer.status == http.StatusUnauthorized && errcode == unknownToken:
		unknown := &identity.UnknownToken{Body: string(answer.body), Header: keptHeader(answer.header)}
		// Dendrite says of an appservice's token that it doesn't know it if it is
		// the user_id that it doesn't know.
		if c.UserID == "" && c.DeviceID == "" && cache.Fits(unknown.Body, keptList(answer.header)) {
			m.identities.Reject(c, unknown, asked)
		}
		if !asksAgain {
			m.chargeRejected(from, asked)
		}
		return owner{unknown: unknown}, lookupRejected
	case errcode != "" && errcode != "M_UNRECOGNIZED" && errcode != "M_NOT_FOUND":
		// Also a 5xx, if the homeserver says so itself.
		if isAboutCredential(answer) {
			m.identities.Refuse(c, asked)
		}
		return owner{refusal: answer, down: answer.failed()}, lookupRefused
	}
	return g.incomprehensible(question, answer), lookupFailed
}

// unreachable returns what is known by a question that failed, and logs that.
func (g *Gateway) unreachable(question subrequest, answer *subresponse) owner {
	err := answer.err
	if err == nil {
		err = fail(http.StatusBadGateway, fmt.Errorf("GET %s was answered with status %d", question.request.URL.Path, answer.status))
	}
	g.reportFault(faultUnreachable, err)
	failed := owner{err: err, down: true}
	if answer.replaced && !answer.large {
		failed.page = answer
	}
	return failed
}

// incomprehensible returns what is known by an answer that no homeserver gives to a question, and
// logs it unless there may be one all the same.
func (g *Gateway) incomprehensible(question subrequest, answer *subresponse) owner {
	err := fmt.Errorf("GET %s was answered with status %d, Content-Type %q and Content-Encoding %q",
		question.request.URL.Path, answer.status, answer.header.Get("Content-Type"), answer.header.Get("Content-Encoding"))
	failed := owner{err: fail(http.StatusBadGateway, err)}
	switch {
	case answer.isAboutRequest():
		failed.page = answer
	case answer.local:
		g.reportFault(faultUnreachable, err)
	default:
		g.reportFault(faultNotAHomeserver, err)
	}
	return failed
}

// fault says why the homeserver can't be asked whose an access token is.
type fault int32

const (
	faultNone fault = iota
	faultUnreachable
	faultNotAHomeserver
)

// faultMessages tell an admin what follows from a fault and what to do.
var faultMessages = [...]string{
	faultNone: "the homeserver tells again whose access token it is",
	faultUnreachable: "the homeserver doesn't tell whose access token it is: " +
		"presence writes are refused and new readers not cached until it does",
	faultNotAHomeserver: "the upstream is no Matrix homeserver: presence writes are refused and reads are not cached; " +
		"check the address after reverse_proxy, and that /_matrix/client/v3/account/whoami is routed there",
}

// faultLogInterval is for how long a change is not logged after the last one that
// was: a homeserver that answers every other question would fill the log.
const faultLogInterval = time.Minute

// faultLog makes one line in the log of a fault, not one of each request.
type faultLog struct {
	state  atomic.Int32 // the fault as last logged
	logged logInterval
}

// logInterval lets one line of a kind into the log in an interval.
type logInterval struct{ last atomic.Int64 } // when that was, see [Clock.Stamp]

// due tells that a line may be logged at a time. Of several at once one is told so.
func (l *logInterval) due(at int64, interval time.Duration) bool {
	last := l.last.Load()
	return at-last >= int64(interval) && l.last.CompareAndSwap(last, at)
}

// Trouble returns why the homeserver can't be asked whose an access token is, as last logged, or
// "" if it can.
func (m *Store) Trouble() string {
	if now := fault(m.faults.state.Load()); now != faultNone {
		return faultMessages[now]
	}
	return ""
}

// reportFault logs a fault, or its end, if it is news.
func (g *Gateway) reportFault(now fault, err error) {
	log := &g.store.faults
	before := log.state.Load()
	if before == int32(now) {
		return
	}
	if !log.logged.due(g.store.clock.Stamp(), faultLogInterval) || !log.state.CompareAndSwap(before, int32(now)) {
		return
	}
	if now == faultNone {
		g.logger.Info(faultMessages[now])
	} else {
		g.logger.Error(faultMessages[now], "error", err)
	}
}
