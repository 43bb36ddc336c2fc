package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// lookup is what the homeserver told about a credential. One of the fields is set.
type lookup struct {
	userID    string
	rejection *policy.Rejection // it doesn't know the token

	// refusal is another Matrix error than an unknown token, such as a locked
	// account or an appservice that may not act for the user. It is the
	// homeserver's answer to this one request, never remembered.
	refusal *aside

	// err says why there is no answer, with a status: 502 or 504.
	err error
}

// known tells that the homeserver has told, one way or the other.
func (l *lookup) known() bool { return l.userID != "" || l.rejection != nil }

// lookupKey makes concurrent lookups of one credential one, unless a token was
// revoked between them: what was asked before may be untrue after.
type lookupKey struct {
	fingerprint [16]byte
	revision    policy.Revision
}

// identify tells on whose behalf c acts, from memory or from the homeserver.
func (h *Handler) identify(r *http.Request, next caddyhttp.Handler, c policy.Credential) lookup {
	m := h.memory
	if known := m.recall(c); known.known() {
		return known
	}
	// A read gets by without an identity, so it doesn't wait for a homeserver
	// that has just shown that it doesn't answer. A write has to ask.
	if r.Method != http.MethodPut && m.health.isPaused(time.Now()) {
		return lookup{err: caddyhttp.Error(http.StatusBadGateway, errors.New("the homeserver has just failed to tell whose token it is"))}
	}

	ask := h.newWhoAmI(r, next, c)
	key := lookupKey{m.identities.Fingerprint(c), m.identities.Revision()}
	f, _ := m.lookups.board(key, true, func() lookup { return h.ask(ask, c) })
	if f == nil {
		return lookup{err: caddyhttp.Error(http.StatusServiceUnavailable, errors.New("too many lookups are waiting"))}
	}
	select {
	case <-f.landed:
		return f.result
	case <-r.Context().Done():
		return lookup{err: caddyhttp.Error(statusClientClosed, r.Context().Err())}
	}
}

// statusClientClosed is what Caddy reports for a client that went away (nginx's 499).
const statusClientClosed = 499

// newWhoAmI makes the request GET /account/whoami, which all homeservers have under
// v3. The client's address and User-Agent go with it because Synapse records
// them as the last use of the token.
func (h *Handler) newWhoAmI(r *http.Request, next caddyhttp.Handler, c policy.Credential) asideRequest {
	header := http.Header{
		"Accept": {"application/json"},
		// Always in the header: a query would be logged by the homeserver.
		"Authorization": {"Bearer " + c.Token},
	}
	for _, name := range [...]string{
		"User-Agent", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip",
		"Traceparent", "Tracestate",
	} {
		if values, ok := r.Header[name]; ok {
			header[name] = append([]string(nil), values...)
		}
	}
	query := make(url.Values)
	if c.UserID != "" {
		query.Set("user_id", c.UserID)
	}
	if c.DeviceID != "" {
		query.Set(c.DeviceParameter, c.DeviceID)
	}
	u := &url.URL{Path: policy.ClientPrefix + "v3/account/whoami", RawQuery: query.Encode()}
	return newAside(r, next, u, header)
}

// recall returns what is remembered of a credential.
func (m *memory) recall(c policy.Credential) (known lookup) {
	known.userID, known.rejection = m.identities.Lookup(c, time.Now())
	return known
}

// ask asks the homeserver and remembers its answer if it is a definite one.
func (h *Handler) ask(request asideRequest, c policy.Credential) lookup {
	m := h.memory
	ctx, cancel := context.WithTimeout(context.Background(), h.set.identityTimeout)
	defer cancel()
	select {
	case m.lookupSlots <- struct{}{}:
		defer func() { <-m.lookupSlots }()
	case <-ctx.Done():
		return lookup{err: caddyhttp.Error(http.StatusServiceUnavailable, errors.New("too many lookups are waiting"))}
	}
	// Another flight may have landed before this one departed, as in fly.
	if known := m.recall(c); known.known() {
		return known
	}

	revision, asked := m.identities.Revision(), time.Now()
	answer := request.send(h.set.identityTimeout)
	if answer.err != nil {
		h.lookupFailed(faultUnreachable, answer.err)
		return lookup{err: answer.err}
	}

	errcode := answer.matrixError()
	switch {
	case answer.status == http.StatusOK:
		var who struct {
			UserID   string `json:"user_id"`
			DeviceID string `json:"device_id"`
		}
		if answer.isJSON() && json.Unmarshal(answer.body, &who) == nil && who.UserID != "" {
			h.lookupSucceeded()
			m.identities.Learn(c, policy.WhoAmI{UserID: who.UserID, DeviceID: who.DeviceID}, revision, asked.Add(h.set.identityTTL))
			return lookup{userID: who.UserID}
		}
	case answer.status == http.StatusUnauthorized && errcode == "M_UNKNOWN_TOKEN":
		rejection := &policy.Rejection{Body: string(answer.body), Header: keptHeader(answer.header)}
		if h.set.rejectedTTL > 0 {
			m.identities.Reject(c, rejection, asked.Add(h.set.rejectedTTL))
		}
		return lookup{rejection: rejection}
	case errcode != "" && errcode != "M_UNRECOGNIZED" && errcode != "M_NOT_FOUND":
		// Also a 5xx, if the homeserver says so itself.
		return lookup{refusal: answer}
	case answer.status >= http.StatusInternalServerError:
		err := fmt.Errorf("GET %s was answered with status %d", request.request.URL.Path, answer.status)
		h.lookupFailed(faultUnreachable, err)
		return lookup{err: caddyhttp.Error(http.StatusBadGateway, err)}
	}
	err := fmt.Errorf("GET %s was answered with status %d and Content-Type %q",
		request.request.URL.Path, answer.status, answer.header.Get("Content-Type"))
	h.lookupFailed(faultMisfit, err)
	return lookup{err: caddyhttp.Error(http.StatusBadGateway, err)}
}

// Why lookups fail, for all alike.
const (
	faultNone int32 = iota
	faultUnreachable
	faultMisfit
)

// faultMessages tell an admin what follows from a fault and what to do.
var faultMessages = [...]string{
	faultNone:        "the homeserver tells again whose access token it is",
	faultUnreachable: "the homeserver doesn't tell whose access token it is: presence writes are refused and new readers not cached until it does",
	faultMisfit: "the upstream is no Matrix homeserver: presence writes are refused and reads are not cached; " +
		"check the address after reverse_proxy, and that /_matrix/client/v3/account/whoami is routed there",
}

// lookupFailed notes a fault that concerns more than one token, and logs it if it
// is news: one line for a fault, not one for each request.
func (h *Handler) lookupFailed(fault int32, err error) {
	h.memory.health.pause(time.Now())
	if h.memory.fault.Swap(fault) != fault {
		h.logger.Error(faultMessages[fault], zap.Error(err))
	}
}

func (h *Handler) lookupSucceeded() {
	h.memory.health.resume()
	if h.memory.fault.Load() != faultNone && h.memory.fault.Swap(faultNone) != faultNone {
		h.logger.Info(faultMessages[faultNone])
	}
}

// lookupHealth notes that the homeserver didn't answer a lookup, so that reads
// don't each wait for another.
type lookupHealth struct{ until atomic.Int64 }

// lookupPause is short: it only has to be longer than a failing lookup that fails
// at once takes.
const lookupPause = time.Second

func (l *lookupHealth) pause(now time.Time) { l.until.Store(now.Add(lookupPause).UnixNano()) }
func (l *lookupHealth) resume()             { l.until.Store(0) }
func (l *lookupHealth) isPaused(now time.Time) bool {
	return now.UnixNano() < l.until.Load()
}
