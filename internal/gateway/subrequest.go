package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/clock"
)

// subrequest is a request of ours on behalf of a client's. It is made while
// the client's is being served, and sent by [subrequest.send], perhaps later
// and from another goroutine.
type subrequest struct {
	request *http.Request
	chosen  []string        // fields that it can go without, see head
	client  context.Context // the client's, without its end
	route   Route
	server  Server
	site    *SiteFields
	host    *goodHost
	clock   *clock.Clock
	err     error // why it can't be sent
}

// errTooLong says that a request of ours would have to be larger than homeservers take.
var errTooLong = errors.New("the request's target or host is too long")

// newSubrequest returns a GET of u with a token, unless that is empty. It goes to the
// homeserver by the way of the client's own request: from its address, to the same host,
// with the variables and placeholders that handlers before us have set, and with a few
// header fields, see head.
func (g *Gateway) newSubrequest(r *http.Request, next Next, u *url.URL, token string, more ...clientField) subrequest {
	uri := u.RequestURI()
	line := len("PUT  HTTP/1.1\r\n") + len(uri)
	head := g.newHead(r, line, token, more)
	sub := &http.Request{
		Method:     http.MethodGet,
		URL:        u,
		RequestURI: uri,
		Proto:      r.Proto,
		ProtoMajor: r.ProtoMajor,
		ProtoMinor: r.ProtoMinor,
		Header:     head.header,
		Body:       http.NoBody,
		Host:       r.Host,
		RemoteAddr: r.RemoteAddr,
		TLS:        r.TLS,
	}
	route := g.server.Route(r, next, Variable{varInHand, &g.store.inHand})
	s := subrequest{
		request: sub,
		chosen:  head.chosen,
		// A client that goes away cancels neither the others who wait for this
		// answer nor what is to be learned from it.
		client: route.Context(),
		route:  route,
		server: g.server,
		site:   g.site,
		host:   &g.store.host,
		clock:  g.store.clock,
	}
	if line > maxLine || len(r.Host) > maxHost {
		s.err = fail(http.StatusBadRequest, errTooLong)
	}
	return s
}

// isPlain reports whether a request has nothing that the client may have chosen, but for its
// credential.
func (s *subrequest) isPlain() bool {
	return s.request.Host == s.host.known(s.request.Host) &&
		!slices.ContainsFunc(s.chosen, func(name string) bool { return s.request.Header[name] != nil })
}

// plain returns the request without all that the client may have chosen, but for its
// credential. Handlers may change a request that was sent: it is for before that.
func (s subrequest) plain() subrequest {
	plain := s
	plain.chosen = nil
	plain.request = s.request.Clone(context.Background())
	for _, name := range s.chosen {
		delete(plain.request.Header, name)
	}
	plain.request.Host = s.host.known(s.request.Host)
	return plain
}

// sendTwice sends a request, and once more without what the client may have chosen if it
// failed in a way that this may have caused: what is concluded from a failure concerns
// others, and what this client may read. No connection has nothing to do with it, and
// after a timeout there is no time. Where a stale answer is at stake, that must be none of
// the client's doing either, so the second doesn't wait for the end of the first. Where none is,
// a failed fetch with a large answer is the reader's to repeat, see [policy.ReadPassLarge]: a
// failing homeserver isn't asked three times for one read.
func (s subrequest) sendTwice(timeout time.Duration, m *Store, why reason, staleAtStake bool) *subresponse {
	if s.isPlain() {
		return s.send(timeout, m.counters.departs(why))
	}
	end, plain := time.Now().Add(timeout), s.plain()
	if staleAtStake {
		return s.sendBoth(plain, end, m, why)
	}
	answer := s.send(timeout, m.counters.departs(why))
	left := time.Until(end)
	if !s.mayBeCause(answer) || left <= 0 || why == reasonFetch && answer.large {
		return answer
	}
	return plain.send(left, m.counters.departs(reasonRetry))
}

// plainAfter is after how long without an answer to a request the plain one goes as well. It
// leaves that as much time until a reader gets what is stale.
const plainAfter = slowAfter / 2

// sendBoth is sendTwice for a request whose client may have it held up until a reader would
// get what is stale: the plain one leaves when the first has failed, or after a while.
func (s subrequest) sendBoth(plain subrequest, end time.Time, m *Store, why reason) *subresponse {
	var cancel context.CancelFunc
	s.client, cancel = context.WithCancel(s.client)
	defer cancel()
	plain.client = s.client
	second := make(chan *subresponse, 1)
	timer := time.AfterFunc(min(plainAfter, time.Until(end)/2), func() {
		defer close(second)
		_ = m.guard(func() {
			answer := plain.send(time.Until(end), m.counters.departs(reasonRetry))
			second <- answer
			if !answer.failed() {
				cancel() // nobody needs the first any more
			}
		})
	})
	first := s.send(time.Until(end), m.counters.departs(why))
	alone := timer.Stop()
	switch {
	case !first.failed(), alone && !s.mayBeCause(first):
		return first
	case alone:
		return plain.send(time.Until(end), m.counters.departs(reasonRetry))
	}
	return cmp.Or(<-second, first)
}

// mayBeCause tells of a failure that something in the request may have caused it.
func (s subrequest) mayBeCause(failure *subresponse) bool {
	return failure.failed() && !s.server.IsUnconnected(failure.err)
}

// send returns the answer of the next handler, which has so long for it. It notes when that has
// come, or won't.
func (s subrequest) send(timeout time.Duration, departure departure) *subresponse {
	defer departure.arrives()
	if s.err != nil {
		return &subresponse{err: s.err, site: true}
	}
	// At the end of its time the request is cancelled, as if the client had left: a
	// deadline in the context would be an error that reverse_proxy's passive health
	// checks count as one of the homeserver, for which it refuses everybody.
	ctx, cancel := context.WithCancel(s.client)
	defer cancel()
	timer := time.AfterFunc(timeout, cancel)
	defer timer.Stop()
	collected := &collector{header: make(http.Header, usualFields), stop: cancel}
	prepared := s.route.Prepare(collected, s.request.WithContext(ctx))
	err := recovered(prepared.Send)
	answer := &subresponse{header: collected.header, arrived: s.clock.Now(), host: s.request.Host}
	switch {
	case collected.large:
		// The copying was stopped by us, so its error is none.
	case ctx.Err() != nil:
		// reverse_proxy reports a cancelled request as a status without an error.
		// An error isn't wrapped: Error would keep the status of one of its own.
		answer.err = fail(http.StatusGatewayTimeout, fmt.Errorf("waiting %v for the homeserver: %v", timeout, cmp.Or(err, ctx.Err())))
		return answer
	case err != nil:
		answer.err, answer.errStatus = err, statusOf(s.server, err)
		if collected.status != 0 {
			answer.header = nil // of an answer that broke off
		}
		answer.attribute(s.site, prepared.Proxied())
		return answer
	case collected.status == 0:
		answer.err = fail(http.StatusBadGateway, errors.New("no handler after matrix_presence answered"))
		return answer
	}
	answer.status, answer.body, answer.large = collected.status, collected.body.Bytes(), collected.large
	if err := answer.unpack(); err != nil {
		answer.err = fail(http.StatusBadGateway, fmt.Errorf("unpacking the homeserver's answer: %w", err))
	}
	answer.attribute(s.site, prepared.Proxied())
	answer.echoes = echoesOrigin(s.request.Header, answer.header)
	return answer
}

// isSites returns what tells of the answer to a client's own request, once that has begun,
// whether it is of the site's own handlers: no reverse_proxy has brought it. One before us
// that asks an authentication service has left its time in the same placeholder.
func (g *Gateway) isSites(r *http.Request) (own func() bool) {
	before, ok := g.server.ProxyMark(r)
	if !ok || !g.site.Proxies {
		return func() bool { return false }
	}
	return func() bool {
		now, _ := g.server.ProxyMark(r)
		return now == before
	}
}

// isLocal returns what tells likewise that an answer of a status is not what the homeserver has
// answered: it is the site's, or has another status than that.
func (g *Gateway) isLocal(r *http.Request) func(status int) bool {
	isSites := g.isSites(r)
	return func(status int) bool {
		return isSites() || g.site.Proxies && isReplaced(g.server.UpstreamStatus(r), status)
	}
}

// errBrokeOff says that an answer ended before it was whole.
var errBrokeOff = errors.New("the homeserver's answer broke off")

// panicError is what a handler after us panicked with.
type panicError struct{ reason string }

func (e panicError) Error() string { return e.reason }

// recovered calls send and turns its panic into an error. In a goroutine of
// our own nobody else would: reverse_proxy panics with http.ErrAbortHandler
// when an answer breaks off, and so does abort.
func recovered(send func() error) (err error) {
	defer func() {
		switch reason := recover(); reason {
		case nil:
		case http.ErrAbortHandler:
			err = fail(http.StatusBadGateway, errBrokeOff)
		default:
			err = fail(http.StatusInternalServerError,
				panicError{fmt.Sprintf("a handler after matrix_presence panicked: %v\n%s", reason, debug.Stack())})
		}
	}()
	return send()
}

// usualFields are as many header fields as the answer of a homeserver has by way of a proxy.
const usualFields = 12
