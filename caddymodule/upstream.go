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
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// maxAside is how much of the answer to a request of ours is taken. An answer
// to a reader that is larger goes to each reader directly instead.
const maxAside = 64 << 10

// aside is the answer to a request that we made ourselves. It is immutable.
type aside struct {
	status int
	header http.Header
	body   []byte
	large  bool // the body had more than maxAside bytes, so it isn't whole

	// err is the next handler's error, to be returned unwrapped, or a
	// caddyhttp.HandlerError of ours. With it there is no answer.
	err error
}

// matrixError returns the errcode of an answer that is a Matrix error object, or "".
func (a *aside) matrixError() string {
	var object struct {
		Errcode string `json:"errcode"`
	}
	if a.err != nil || a.large || !a.isJSON() || json.Unmarshal(a.body, &object) != nil {
		return ""
	}
	return object.Errcode
}

func (a *aside) isJSON() bool {
	mediaType, _, err := mime.ParseMediaType(a.header.Get("Content-Type"))
	return err == nil && mediaType == "application/json" && a.header.Get("Content-Encoding") == ""
}

// failed tells that the homeserver could not answer: it is down, slow or broken.
func (a *aside) failed() bool { return a.err != nil || a.status >= http.StatusInternalServerError }

// asideRequest is a request of ours on behalf of a client's. It is made while
// the client's is being served, and sent by [asideRequest.send], perhaps later
// and from another goroutine.
type asideRequest struct {
	request *http.Request
	next    caddyhttp.Handler
	vars    map[string]any
}

// newAside returns a GET of u with the given header fields, which it takes over.
// It goes to the homeserver as the client's own would: from its address, to the
// same host, and with the variables that handlers before us have set.
func newAside(r *http.Request, next caddyhttp.Handler, u *url.URL, header http.Header) asideRequest {
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
	return asideRequest{
		// A client that goes away cancels neither the others who wait for this
		// answer nor what is to be learned from it.
		request: sub.WithContext(context.WithoutCancel(r.Context())),
		next:    next,
		vars:    maps.Clone(vars),
	}
}

// send returns the answer of the next handler, which has so long for it.
func (a asideRequest) send(timeout time.Duration) *aside {
	ctx, cancel := context.WithTimeout(a.request.Context(), timeout)
	defer cancel()
	// The client's own body and connection are none of this request's.
	ctx = caddyhttp.ContextWithIdleTimeouts(ctx, nil, nil)

	srv, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || srv == nil {
		// reverse_proxy relies on it.
		return &aside{err: caddyhttp.Error(http.StatusInternalServerError, errors.New("request has no caddyhttp.Server"))}
	}
	collected := &collector{header: make(http.Header), stop: cancel}

	// Route groups and variables are kept in the context: with the client's own,
	// the client's request would find its routes done already.
	request := caddyhttp.PrepareRequest(a.request.WithContext(ctx), caddy.NewReplacer(), collected, srv)
	vars := request.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	for name, value := range a.vars {
		if _, ok := vars[name]; !ok {
			vars[name] = value
		}
	}

	err := serve(a.next, collected, request)
	switch {
	case collected.large:
		// The copying was stopped by us, so its error is none.
	case err != nil:
		if ctx.Err() != nil {
			err = caddyhttp.Error(http.StatusGatewayTimeout, fmt.Errorf("waiting %v for the homeserver: %w", timeout, err))
		}
		return &aside{err: err}
	case collected.status == 0:
		return &aside{err: caddyhttp.Error(http.StatusBadGateway, errors.New("no handler after matrix_presence answered"))}
	case ctx.Err() != nil:
		// reverse_proxy reports a cancelled request as a status without an error.
		return &aside{err: caddyhttp.Error(http.StatusGatewayTimeout, fmt.Errorf("waiting %v for the homeserver: %w", timeout, ctx.Err()))}
	}
	return &aside{status: collected.status, header: collected.header, body: collected.body.Bytes(), large: collected.large}
}

// serve calls next and turns a panic into an error. In a goroutine of
// our own nobody else would: reverse_proxy panics with http.ErrAbortHandler
// when an answer breaks off.
func serve(next caddyhttp.Handler, w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = caddyhttp.Error(http.StatusBadGateway, fmt.Errorf("the homeserver's answer broke off: %v", reason))
		}
	}()
	return next.ServeHTTP(w, r)
}

// collector is a response writer that keeps what is written. It has a header map
// of its own, so nothing reaches the client that waits.
type collector struct {
	header http.Header
	status int
	body   bytes.Buffer
	large  bool
	stop   func() // cancels the request
}

func (c *collector) Header() http.Header { return c.header }

func (c *collector) WriteHeader(status int) {
	if c.status != 0 || status < http.StatusOK {
		return // interim answers are for the client's own connection
	}
	c.status = status
	// What is written to the map afterwards, trailers, is not part of the answer.
	c.header = c.header.Clone()
}

// Write never fails: a handler before it may take an error for a broken
// client, and panic.
func (c *collector) Write(p []byte) (int, error) {
	c.WriteHeader(http.StatusOK)
	if c.body.Len()+len(p) > maxAside {
		c.large = true
		c.stop()
	} else if !c.large {
		c.body.Write(p)
	}
	return len(p), nil
}
