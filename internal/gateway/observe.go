package gateway

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// In mode observe every request goes to the homeserver as it came, and its answer to the
// client as that came. What this configuration would have done is found out afterwards,
// from the request, the answer and what is remembered, which is kept up as if the mode
// were enforce. Only a budget is what it is: who goes on after a 429 that
// nobody told them is limited more often than they would be.

// observe passes a presence request on and counts what would have become of it.
func (h *Gateway) observe(w http.ResponseWriter, r *http.Request, next Next, route matrix.PresenceRoute) error {
	kind := routeOf(r)
	h.memory.counters.requests[kind].Add(1)
	seen := &observation{
		handler: h, kind: kind, route: route, method: r.Method, departed: h.memory.now(),
	}
	seen.ticket = h.memory.presence.Lookup("", route.UserID, &h.set.Rules, seen.departed).Ticket
	credential, err := matrix.ParseCredential(r.Header["Authorization"], r.URL.RawQuery)
	seen.credential, seen.credentialErr = credential, err
	var ask inquiry
	if err == nil {
		ask = h.inquire(r, next, credential, h.set.RejectedLimit)
	}

	isSites, isLocal := h.isSites(r), h.isLocal(r)
	recorder := &recorder{responseWriter: responseWriter{w}}
	reason := reasonBypass
	var body *copied
	var fence cache.Write
	opaque := func() bool { return true }
	var attempt policy.Attempt
	writer, own := "", false
	if kind == routeWrite {
		reason = reasonWrite
		seen.beside = h.memory.needs.absorbs.Load()
		// Somebody else's changes nothing, and nobody knows whose until the homeserver takes it.
		if err == nil {
			writer = h.memory.identities.LastKnown(credential)
		}
		body = newCopied(r, h.observedBody(err, writer, route.UserID))
		if own = writer == route.UserID; own {
			fence = h.memory.presence.BeginWrite(route.UserID)
			h.passesBy(route.UserID, credential)
			if seen.beside {
				attempt = h.memory.repeats.Begin(route.UserID, seen.departed)
			}
		}
		h.note(r, outcomeForwarded)
	} else {
		if !asksForProtocol(r) {
			opaque = watchBody(r)
		}
		h.note(r, outcomeBypass)
	}
	// Also if that panics, because the homeserver's answer breaks off.
	defer func() {
		seen.answer = recorder.answer()
		seen.answer.arrived = h.memory.now()
		seen.answer.site = seen.answer.status >= http.StatusMultipleChoices && isSites() || h.named.Authenticates && seen.answer.isAuthentication()
		seen.answer.local = isLocal(seen.answer.status)
		seen.answer.echoes = echoesOrigin(r.Header, seen.answer.header)
		if kind == routeWrite {
			var whole bool
			seen.body, whole = body.take()
			seen.valid = whole && matrix.CheckPresenceBody(seen.body, h.set.PresenceValues, h.knownDialect()) == nil
			if own {
				h.passesBy(route.UserID, credential) // it may have failed on the way back
				h.endFence(fence, seen.departed, seen.valid && seen.acknowledged(), seen.body)
			}
			if own && seen.beside {
				attempt.End(nil)
			}
		} else {
			seen.opaque = opaque() || h.memory.isForItsOrigin(r)
		}
		h.judge(r, seen, ask)
	}()
	return h.forward(recorder, r, next, reason, func(status int) {
		recorder.status, recorder.header = status, w.Header().Clone()
		switch {
		case kind != routeWrite || !isSuccess(status):
		case own:
			h.passedBy(route.UserID, credential)
		case writer == "":
			h.invalidate(route.UserID)
		}
	})
}

// observedBody is the size of the largest body of a write that is kept while the write is under
// way: as much as is judged, and no more than a client sends if nobody knows yet whether its
// sender has an account.
func (h *Gateway) observedBody(credentialErr error, writer, target string) int64 {
	switch {
	case credentialErr != nil, writer != "" && writer != target:
		return 0 // it would be refused, whatever it says
	case writer == "":
		return min(h.set.MaxBody, maxNamedBody)
	}
	return h.set.MaxBody
}

// judge finds out what would have become of a request. If it isn't known whose that is,
// the homeserver is asked meanwhile: the client is not to wait for that.
func (h *Gateway) judge(r *http.Request, seen *observation, ask inquiry) {
	who := identity{}
	if seen.credentialErr == nil {
		who = h.cached(seen.credential, seen.departed)
		if !who.known() && !h.isRefused(seen.credential, seen.departed) {
			later := ask.later(func(who identity) { h.memory.counters.observed[seen.kind][seen.outcome(who)].Add(1) })
			if later {
				return
			}
			who = identity{err: errors.New("too many requests are being observed")}
		}
	}
	h.noteObserved(r, seen.kind, seen.outcome(who))
}

// noteObserved counts what would have become of a request and sets its variable.
func (h *Gateway) noteObserved(r *http.Request, route route, o outcome) {
	h.memory.counters.observed[route][o].Add(1)
	if vars := h.server.Vars(r); vars != nil {
		vars[varObserved] = outcomes[o].name
	}
}

// observation is what is known of a request when it is over.
type observation struct {
	handler  *Gateway
	kind     route
	route    matrix.PresenceRoute
	method   string
	departed time.Time
	opaque   bool // a read with a body or a protocol that the cache has no part in
	beside   bool // a write, and another handler of the memory absorbs repeats in mode enforce
	ticket   cache.Ticket

	credential    matrix.Credential
	credentialErr error

	body   []byte       // of a write
	valid  bool         // the body is whole, and one that a homeserver may take
	answer *subresponse // the homeserver's
}

// acknowledged tells that the homeserver has said that it took the write.
func (s *observation) acknowledged() bool {
	return s.answer.err == nil && isSuccess(s.answer.status)
}

// outcome returns what would have become of the request, and remembers what there is to
// remember.
func (s *observation) outcome(who identity) outcome {
	missing := errors.Is(s.credentialErr, matrix.ErrMissingToken)
	if s.kind == routeWrite {
		if s.credentialErr != nil {
			return outcomeRejected
		}
		return s.writeOutcome(who)
	}
	switch {
	case missing && s.route.Canonical:
		return outcomeRejected
	case s.credentialErr != nil:
		return outcomeBypass
	}
	return s.readOutcome(who)
}

// readOutcome follows [Handler.serveRead].
func (s *observation) readOutcome(who identity) outcome {
	h := s.handler
	switch {
	case !h.set.Cached && !h.set.limitsReads:
		return outcomeBypass
	case who.unknown != nil && s.route.Canonical:
		return outcomeRejected
	case who.wait > 0:
		return outcomeLimited
	case who.userID == "":
		return outcomeBypass
	}
	if _, ok := h.memory.take(limitRead, h.set.classOf(who.userID).ReadLimit, who.userID, s.departed); !ok {
		return outcomeLimited
	}
	if !h.set.Cached || !s.route.Canonical || s.opaque {
		return outcomeBypass
	}
	reader := reader{who.userID, s.route.UserID, s.credential}
	switch found := h.lookup(reader, s.departed); {
	case found.Outcome == cache.Hit, found.Outcome == cache.Denied:
		return outcomeHit
	case found.Outcome == cache.Uncached:
		return outcomeBypass
	case s.answer.failed() && found.Answer != nil:
		return outcomeStale
	case s.answer.err != nil:
		return outcomeFailed
	}
	if s.method == http.MethodGet && !s.answer.site && !s.answer.local {
		h.remember(s.ticket, reader, s.answer)
	}
	return outcomeMiss
}

// writeOutcome follows [Handler.serveWrite].
func (s *observation) writeOutcome(who identity) outcome {
	h := s.handler
	switch {
	case who.wait > 0:
		return outcomeLimited
	case who.unknown != nil:
		return outcomeRejected
	case who.userID == "":
		return outcomeFailed
	case who.userID != s.route.UserID:
		return outcomeRefused
	}
	class := h.set.classOf(who.userID)
	write := policy.PresenceWrite{
		UserID: who.userID, Fingerprint: h.memory.deviceOf(s.credential, who.userID), Body: s.body,
	}
	switch {
	case class.Absorb && s.valid && h.memory.repeats.Absorb(&write, h.set.Refresh, s.departed):
		return outcomeAbsorbed
	case !s.valid && (class.Absorb || class.Coalesce): // the body comes before the budget
		return outcomeInvalid
	}
	if _, ok := h.memory.take(limitWrite, class.WriteLimit, who.userID, s.departed); !ok {
		if class.Coalesce && matrix.TakesBody(s.body, h.knownDialect()) {
			return outcomeCoalesced
		}
		return outcomeLimited
	}
	if !s.valid {
		return outcomeInvalid
	}
	if s.acknowledged() {
		h.beginWrite(&write, s.departed)(s.answer.status)
	}
	if s.beside {
		return outcomeForwarded // it was remembered as none that could be repeated
	}
	attempt := h.memory.repeats.Begin(who.userID, s.departed)
	if s.acknowledged() {
		attempt.End(&write)
	} else {
		attempt.End(nil)
	}
	return outcomeForwarded
}

// copied is a request's body of which a copy is kept while the homeserver's side reads it.
// That may go on after the answer has come.
type copied struct {
	io.ReadCloser
	limit int64

	mu    sync.Mutex // guards all below
	kept  bytes.Buffer
	large bool // it has more bytes than the limit, so the copy isn't whole
	over  bool // nothing more is kept
}

// watchBody returns what tells, when a request is over, whether it had a body. Unlike
// [hasBody], it leaves the request as it came, and doesn't wait: what nobody has read by then
// is none.
func watchBody(r *http.Request) (had func() bool) {
	if !mayHaveBody(r) {
		has := hasBody(r)
		return func() bool { return has }
	}
	body := newCopied(r, 0)
	return func() bool {
		_, empty := body.take()
		return !empty
	}
}

// newCopied puts itself in the place of a request's body.
func newCopied(r *http.Request, limit int64) *copied {
	c := &copied{ReadCloser: r.Body, limit: limit}
	r.Body = c
	return c
}

func (c *copied) Read(p []byte) (n int, err error) {
	n, err = c.ReadCloser.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return n, err
	}
	if c.large = c.large || int64(c.kept.Len()+n) > c.limit; c.large {
		c.kept = bytes.Buffer{} // of no use any more
	} else {
		c.kept.Write(p[:n])
	}
	return n, err
}

// take returns what has been read, unless that is more than the limit.
func (c *copied) take() (body []byte, whole bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	return c.kept.Bytes(), !c.large
}

// recorder is a response writer that keeps a copy of the body that goes through it, with
// the status and the header fields that it is told.
type recorder struct {
	responseWriter
	status int
	header http.Header
	body   bytes.Buffer
	large  bool
}

func (c *recorder) Write(p []byte) (int, error) {
	c.keep(p)
	return c.responseWriter.Write(p)
}

func (c *recorder) keep(p []byte) {
	if c.large = c.large || c.body.Len()+len(p) > maxSubresponse; !c.large {
		c.body.Write(p)
	}
}

// ReadFrom is there because the embedded one would go around Write.
func (c *recorder) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{c}, r)
}

// answer returns what went through, without a coding that the client asked for.
func (c *recorder) answer() *subresponse {
	a := &subresponse{status: c.status, header: c.header, body: c.body.Bytes(), large: c.large}
	if c.status == 0 {
		a.err = errors.New("no answer")
		return a
	}
	_ = a.unpack() // what can't be unpacked is no JSON
	return a
}

// Interface guards
var (
	_ http.ResponseWriter = (*recorder)(nil)
	_ io.ReaderFrom       = (*recorder)(nil)
)
