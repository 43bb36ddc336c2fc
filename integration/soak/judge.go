package main

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/survival/scripted"
)

// fault is what is wrong with an answer. The empty one is nothing.
type fault string

// The faults.
const (
	leaked      fault = "shown to who may not see it"
	stale       fault = "older than an acknowledged write or than what was seen before"
	agoOff      fault = "last_active_ago off by seconds"
	refused     fault = "refused without a reason"
	rejected    fault = "good token rejected"
	wasGone     fault = "token good after its logout"
	limited     fault = "limited within the budget"
	notRefused  fault = "not refused"
	failed      fault = "failed while the homeserver was there"
	unanswered  fault = "no answer, and no reload"
	malformed   fault = "malformed"
	bodyChanged fault = "body changed"
)

// tolerance is how far last_active_ago may be off.
const tolerance = 3 * time.Second

// asked is what is known of a request, to judge its answer by.
type asked struct {
	begin, end time.Time
	// before and after are the states of the session when the request began and when
	// it had been answered.
	before, after int32
	// away tells that the homeserver was away meanwhile, reloaded that the sidecar was.
	away, reloaded bool
	// mayLimit tells that the client may be over its limit.
	mayLimit bool

	// Of a read: what it must show at least, and whether it may show anything.
	floor  int64
	active time.Time // when the version that was shown was written, if that is known
	hidden bool
}

// common judges what is the same for all requests with a token. It reports false if the
// answer is one to be judged by what was asked for.
func (q asked) common(a answer) (f fault, done bool) {
	switch {
	case a.status == 0 && q.reloaded:
		return "", true
	case a.status == 0:
		return unanswered, true
	case a.status >= http.StatusInternalServerError && q.away:
		return "", true
	case a.status >= http.StatusInternalServerError:
		return failed, true
	case a.status == http.StatusTooManyRequests && !q.mayLimit:
		return limited, true
	case a.status == http.StatusTooManyRequests:
		return judgeLimited(a), true
	case a.status == http.StatusUnauthorized && q.after == live:
		return rejected, true
	case a.status == http.StatusUnauthorized:
		return judgeError(a, "M_UNKNOWN_TOKEN"), true
	case q.before == gone:
		return wasGone, true
	}
	return "", false
}

// read judges the answer to a read.
func (q asked) read(a answer) (f fault, version int64) {
	if f, done := q.common(a); done {
		return f, 0
	}
	switch {
	case a.status == http.StatusForbidden && !q.hidden:
		return refused, 0
	case a.status == http.StatusForbidden:
		return judgeError(a, "M_FORBIDDEN"), 0
	case a.status != http.StatusOK:
		return malformed, 0
	case q.hidden:
		return leaked, 0
	}
	var presence struct {
		Presence string `json:"presence"`
		Status   string `json:"status_msg"`
		Ago      *int64 `json:"last_active_ago"`
	}
	if json.Unmarshal(a.body, &presence) != nil || presence.Presence != "online" || presence.Ago == nil {
		return malformed, 0
	}
	version, err := scripted.Version(presence.Status)
	switch {
	case err != nil:
		return malformed, 0
	case version < q.floor:
		return stale, version
	case q.active.IsZero():
		return "", version
	}
	ago := time.Duration(*presence.Ago) * time.Millisecond
	if ago < q.begin.Sub(q.active)-tolerance || ago > q.end.Sub(q.active)+tolerance {
		return agoOff, version
	}
	return "", version
}

// write judges the answer to a write of the user's own presence.
func (q asked) write(a answer) fault {
	f, done := q.common(a)
	switch {
	case done:
		return f
	case a.status == http.StatusForbidden:
		return refused
	case a.status != http.StatusOK:
		return malformed
	}
	return ""
}

// foreign judges the answer to a write of somebody else's presence.
func (q asked) foreign(a answer) fault {
	f, done := q.common(a)
	switch {
	case done:
		return f
	case a.status != http.StatusForbidden:
		return notRefused
	}
	return judgeError(a, "M_FORBIDDEN")
}

// stranger judges the answer to a token that doesn't exist.
func (q asked) stranger(a answer) fault {
	q.before, q.after = gone, gone
	f, _ := q.common(a)
	return f
}

// pass judges the answer to a request that is none of ours: its own body.
func (q asked) pass(a answer, body string) fault {
	f, done := q.common(a)
	switch {
	case done:
		return f
	case a.status != http.StatusOK:
		return malformed
	case string(a.body) != body:
		return bodyChanged
	}
	return ""
}

// preflight judges the answer to a browser's question whether it may.
func (q asked) preflight(a answer) fault {
	f, done := q.common(a)
	switch {
	case done:
		return f
	case a.status != http.StatusNoContent || a.header.Get("Access-Control-Allow-Origin") != "*" ||
		!strings.Contains(a.header.Get("Access-Control-Allow-Methods"), http.MethodPut):
		return malformed
	}
	return ""
}

// judgeError looks for a Matrix error.
func judgeError(a answer, errcode string) fault {
	var object struct{ Errcode, Error string }
	if json.Unmarshal(a.body, &object) != nil || object.Errcode != errcode || object.Error == "" ||
		a.header.Get("Access-Control-Allow-Origin") != "*" {
		return malformed
	}
	return ""
}

// judgeLimited looks for what a client needs to know about when to come again.
func judgeLimited(a answer) fault {
	var object struct {
		After int64 `json:"retry_after_ms"`
	}
	seconds, err := strconv.ParseInt(a.header.Get("Retry-After"), 10, 64)
	if err != nil || json.Unmarshal(a.body, &object) != nil || object.After <= 0 || seconds*1000 < object.After {
		return malformed
	}
	return judgeError(a, "M_LIMIT_EXCEEDED")
}
