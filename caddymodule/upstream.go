package caddymodule

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"runtime/debug"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// maxSubresponse is how much of the answer to a request of ours is taken. An answer
// to a reader that is larger goes to each reader directly instead.
const maxSubresponse = 64 << 10

// subresponse is the answer to a request that we made ourselves. It is immutable.
type subresponse struct {
	status  int
	header  http.Header
	body    []byte
	large   bool      // the body had more than maxSubresponse bytes, so it isn't whole
	arrived time.Time // when all of it had

	// err is the next handler's error, to be returned unwrapped, or a
	// caddyhttp.HandlerError of ours. With it there is no answer.
	err error
}

// matrixError returns the errcode of an answer that is a Matrix error object, or "".
func (s *subresponse) matrixError() string {
	var object struct {
		Errcode string `json:"errcode"`
	}
	if s.err != nil || s.large || !s.isJSON() || json.Unmarshal(s.body, &object) != nil {
		return ""
	}
	return object.Errcode
}

func (s *subresponse) isJSON() bool {
	if s.header.Get("Content-Encoding") != "" {
		return false
	}
	contentType := s.header.Get("Content-Type")
	if contentType == "application/json" {
		return true
	}
	mediaType, _, err := mime.ParseMediaType(contentType)
	return err == nil && mediaType == "application/json"
}

// failed tells that the homeserver could not answer: it is down, slow or broken.
func (s *subresponse) failed() bool {
	return s.err != nil || s.status >= http.StatusInternalServerError
}

// subrequest is a request of ours on behalf of a client's. It is made while
// the client's is being served, and sent by [subrequest.send], perhaps later
// and from another goroutine.
type subrequest struct {
	request      *http.Request
	client       context.Context // the client's, without its end
	next         caddyhttp.Handler
	vars         map[string]any
	placeholders *caddy.Replacer // the client's request's
}

// notCopied are the fields of a client's request that are about its body, its
// connection, or what it has of the answer already. Accept-Encoding is among them
// so that answers come plain: the transport asks for gzip itself and unpacks it,
// and an encode handler before us has looked at the client's already.
var notCopied = []string{
	"Accept-Encoding", "Connection", "Content-Encoding", "Content-Length", "Content-Type", "Expect",
	"If-Match", "If-Modified-Since", "If-None-Match", "If-Range", "If-Unmodified-Since", "Range",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade",
	":protocol", // of an extended CONNECT: no transport sends a field of that name
}

// newSubrequest returns a GET of u. It goes to the homeserver as the client's own
// request would: from its address, to the same host, with its header fields and
// with the variables and placeholders that handlers before us have set.
func newSubrequest(r *http.Request, next caddyhttp.Handler, u *url.URL) subrequest {
	header := r.Header.Clone()
	for _, name := range notCopied {
		delete(header, name)
	}
	sub := &http.Request{
		Method:     http.MethodGet,
		URL:        u,
		RequestURI: u.RequestURI(),
		Proto:      r.Proto,
		ProtoMajor: r.ProtoMajor,
		ProtoMinor: r.ProtoMinor,
		Header:     header,
		Body:       http.NoBody,
		Host:       r.Host,
		RemoteAddr: r.RemoteAddr,
		TLS:        r.TLS,
	}
	// The variables are a map without a lock. It belongs to the client's
	// request, which may end before ours.
	vars, _ := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	placeholders, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	return subrequest{
		request: sub,
		// A client that goes away cancels neither the others who wait for this
		// answer nor what is to be learned from it.
		client:       context.WithoutCancel(r.Context()),
		next:         next,
		vars:         maps.Clone(vars),
		placeholders: placeholders,
	}
}

// send returns the answer of the next handler, which has so long for it. It calls
// arrives when that has come, or won't.
func (s subrequest) send(timeout time.Duration, arrives func()) *subresponse {
	defer arrives()
	ctx, cancel := context.WithTimeout(s.client, timeout)
	defer cancel()
	// The client's own body and connection are none of this request's.
	ctx = caddyhttp.ContextWithIdleTimeouts(ctx, nil, nil)

	srv, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || srv == nil {
		// reverse_proxy relies on it.
		return &subresponse{err: caddyhttp.Error(http.StatusInternalServerError, errors.New("request has no caddyhttp.Server"))}
	}
	collected := &collector{header: make(http.Header), stop: cancel}

	// Route groups and variables are kept in the context: with the client's own,
	// the client's request would find its routes done already.
	replacer := caddy.NewReplacer()
	request := caddyhttp.PrepareRequest(s.request.WithContext(ctx), replacer, collected, srv)
	vars := request.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	for name, value := range s.vars {
		if _, ok := vars[name]; !ok {
			vars[name] = value
		}
	}
	if s.placeholders != nil {
		// What isn't known of this request, such as the outputs of "map".
		replacer.Map(s.placeholders.Get)
	}

	err := serve(s.next, collected, request)
	switch {
	case collected.large:
		// The copying was stopped by us, so its error is none.
	case err != nil:
		if ctx.Err() != nil {
			// Not wrapped: Error would keep the status of an error of its own.
			err = caddyhttp.Error(http.StatusGatewayTimeout, fmt.Errorf("waiting %v for the homeserver: %v", timeout, err))
		}
		return &subresponse{err: err}
	case collected.status == 0:
		return &subresponse{err: caddyhttp.Error(http.StatusBadGateway, errors.New("no handler after matrix_presence answered"))}
	case ctx.Err() != nil:
		// reverse_proxy reports a cancelled request as a status without an error.
		return &subresponse{err: caddyhttp.Error(http.StatusGatewayTimeout, fmt.Errorf("waiting %v for the homeserver: %w", timeout, ctx.Err()))}
	}
	return &subresponse{
		status: collected.status, header: collected.header, body: collected.body.Bytes(), large: collected.large, arrived: time.Now(),
	}
}

// serve calls next and turns a panic into an error. In a goroutine of
// our own nobody else would: reverse_proxy panics with http.ErrAbortHandler
// when an answer breaks off.
func serve(next caddyhttp.Handler, w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		switch reason := recover(); reason {
		case nil:
		case http.ErrAbortHandler:
			err = caddyhttp.Error(http.StatusBadGateway, errors.New("the homeserver's answer broke off"))
		default:
			err = caddyhttp.Error(http.StatusInternalServerError, fmt.Errorf("a handler after matrix_presence panicked: %v\n%s", reason, debug.Stack()))
		}
	}()
	return next.ServeHTTP(w, r)
}

// collector is a response writer that keeps what is written. It has a header map
// of its own, so nothing reaches the client that waits.
type collector struct {
	header http.Header // as it was when the answer began, from then on
	after  http.Header // what is set later, such as trailers, is not part of it
	status int
	body   bytes.Buffer
	large  bool
	stop   func() // cancels the request
}

func (c *collector) Header() http.Header {
	if c.status != 0 {
		return c.after
	}
	return c.header
}

func (c *collector) WriteHeader(status int) {
	if status < http.StatusContinue {
		status = http.StatusBadGateway // there is no such status; net/http would panic
	}
	if c.status != 0 || status < http.StatusOK {
		return // interim answers are for the client's own connection
	}
	c.status, c.after = status, make(http.Header)
}

// Write never fails: a handler before it may take an error for a broken
// client, and panic.
func (c *collector) Write(p []byte) (int, error) {
	c.WriteHeader(http.StatusOK)
	if c.body.Len()+len(p) > maxSubresponse {
		c.large = true
		c.stop()
	} else if !c.large {
		c.body.Write(p)
	}
	return len(p), nil
}
