package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// There are four ways to look at a request's body:
//
//   - [Gateway.readBody] reads it whole, and refuses what no homeserver takes: of a write in mode enforce;
//   - [Gateway.peekBody] reads it whole, and puts it back as it was: of a sync;
//   - [hasBody] waits for its first byte: of what has none as a rule;
//   - [copied], and [watchBody], wait for nothing: they see what the homeserver's side reads.

// badBody is the error to answer a body with. The status is 0 if there is none.
type badBody struct {
	matrixError
	status int
}

// readBody reads the body of a write and puts it back. A homeserver may take it unless an error is
// returned.
func (g *Gateway) readBody(r *http.Request) (body []byte, bad badBody) {
	limit := g.cfg.MaxBody
	tooLarge := r.ContentLength > limit
	if !tooLarge {
		var err error
		body, err = io.ReadAll(io.LimitReader(r.Body, limit+1))
		tooLarge = int64(len(body)) > limit
		if outer := new(http.MaxBytesError); errors.As(err, &outer) { // of the site's request_body
			tooLarge, limit = true, outer.Limit
		}
		if !tooLarge && (err != nil || isCutOff(r, body)) {
			return nil, badBody{matrixError{Errcode: "M_UNKNOWN", Error: "The request body broke off"}, http.StatusBadRequest}
		}
	}
	if tooLarge {
		return nil, badBody{matrixError{
			Errcode: "M_TOO_LARGE", Error: fmt.Sprintf("The request body must not be larger than %d bytes", limit),
		}, http.StatusRequestEntityTooLarge}
	}
	if err := matrix.CheckPresenceBody(body, g.cfg.PresenceValues, g.knownDialect()); err != nil {
		var wrong *matrix.BodyError
		errors.As(err, &wrong)
		return nil, badBody{matrixError{Errcode: wrong.Errcode, Error: wrong.Message}, http.StatusBadRequest}
	}
	setBody(r, body)
	return body, badBody{}
}

// setBody gives a request another body, or the one that was read of it. The length is known
// now, also of one that came in chunks. What came after it was not judged.
func setBody(r *http.Request, body []byte) {
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength, r.TransferEncoding, r.Trailer = int64(len(body)), nil, nil
	r.Header.Del("Trailer")
	if r.Header["Content-Length"] != nil {
		r.Header.Set("Content-Length", decimal(len(body)))
	}
}

// peekBody reads a body and puts it back as it was. It reports false if that is larger
// than max_body or broke off.
func (g *Gateway) peekBody(r *http.Request) (body []byte, ok bool) {
	if r.Body == nil || r.ContentLength > g.cfg.MaxBody {
		return nil, false
	}
	rest := r.Body
	body, err := io.ReadAll(io.LimitReader(rest, g.cfg.MaxBody+1))
	if err != nil {
		r.Body = replayed{io.MultiReader(bytes.NewReader(body), brokenReader{err}), rest}
		return nil, false
	}
	r.Body = replayed{io.MultiReader(bytes.NewReader(body), rest), rest}
	return body, int64(len(body)) <= g.cfg.MaxBody && !isCutOff(r, body)
}

// replayed is a request body with its beginning put back.
type replayed struct {
	io.Reader
	io.Closer
}

// brokenReader fails as the body before it did.
type brokenReader struct{ err error }

func (b brokenReader) Read([]byte) (int, error) { return 0, b.err }

// mayHaveBody tells that only a look at the body shows whether there is one: in HTTP/3 the
// length of a GET without a body isn't known, and nor is that of an empty one in chunks.
// Who asks by Expect whether to send a body has one, and is not to be asked for it by our
// look.
func mayHaveBody(r *http.Request) bool {
	return r.ContentLength < 0 && r.Body != nil && r.Header["Expect"] == nil
}

// isCutOff tells of a body that it has ended before the length that was announced, and without
// an error: HTTP/1.1 and HTTP/2 have one for that, quic-go's HTTP/3 doesn't. No homeserver would get
// such a request, as its transport fails, unless we gave it the length that there is.
func isCutOff(r *http.Request, body []byte) bool {
	return r.ContentLength > int64(len(body))
}

// hasBody tells whether a request has a body, of at least a byte. It may have to wait for the
// client to send that byte or to end the request, so it is called before anything of ours is
// taken or looked up for the request. A body is left as it was. What turns out to have none has
// a length of 0 from then on: a transport would otherwise have to look once more, for up to
// 200 ms, and reverse_proxy isn't safe against a look that takes longer.
func hasBody(r *http.Request) bool {
	if !mayHaveBody(r) {
		return r.ContentLength != 0 && r.Body != nil
	}
	first, rest := make([]byte, 1), r.Body
	n, err := io.ReadFull(rest, first)
	switch {
	case err == nil:
		r.Body = replayed{io.MultiReader(bytes.NewReader(first[:n]), rest), rest}
	case err == io.EOF && len(r.Trailer) == 0:
		r.Body, r.ContentLength, r.TransferEncoding = http.NoBody, 0, nil
	default: // also trailers go on: they have come by now
		r.Body = replayed{brokenReader{err}, rest}
	}
	return err != io.EOF
}

// copied is a request's body that is copied while the homeserver's side reads it.
// That may go on after the answer has come.
type copied struct {
	io.ReadCloser
	limit int64

	mu    sync.Mutex // guards all below
	kept  bytes.Buffer
	large bool // it has more bytes than the limit, so the copy isn't whole
	ended bool // it has been read to its end, or broke off
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
	c.ended = c.ended || err != nil
	if c.large = c.large || int64(c.kept.Len()+n) > c.limit; c.large {
		c.kept = bytes.Buffer{} // of no use any more
	} else {
		c.kept.Write(p[:n])
	}
	return n, err
}

// unread tells that nobody has read a request's body to its end: the homeserver was not reached, or
// has answered without.
func (c *copied) unread(r *http.Request) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.ended && !c.large && r.ContentLength != int64(c.kept.Len())
}

// take returns what has been read, unless that is more than the limit.
func (c *copied) take() (body []byte, whole bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	return c.kept.Bytes(), !c.large
}
