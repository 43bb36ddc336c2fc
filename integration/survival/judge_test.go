package survival_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
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
	case a.status == http.StatusTooManyRequests && strings.HasSuffix(a.cacheStatus(), "brown-out"):
		return "", true // a busy machine
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
	if json.Unmarshal([]byte(a.body), &presence) != nil || presence.Presence != "online" || presence.Ago == nil {
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

// pass judges the answer to a request that isn't about presence: its own body.
func (q asked) pass(a answer, body string) fault {
	f, done := q.common(a)
	switch {
	case done:
		return f
	case a.status != http.StatusOK:
		return malformed
	case a.body != body:
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
	if json.Unmarshal([]byte(a.body), &object) != nil || object.Errcode != errcode || object.Error == "" ||
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
	if err != nil || json.Unmarshal([]byte(a.body), &object) != nil || object.After <= 0 || seconds*1000 < object.After {
		return malformed
	}
	return judgeError(a, "M_LIMIT_EXCEEDED")
}

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// shown is an answer with a version that was written so long before noon.
func shown(version int, ago time.Duration) answer {
	return answer{status: 200, body: fmt.Sprintf(`{"presence":"online","last_active_ago":%d,"status_msg":"v%d"}`, ago.Milliseconds(), version)}
}

func matrixError(status int, errcode, more string) answer {
	return answer{status: status, header: http.Header{"Access-Control-Allow-Origin": {"*"}, "Retry-After": {"2"}},
		body: fmt.Sprintf(`{"errcode":%q,"error":"no"%s}`, errcode, more)}
}

func TestJudgeOfReads(t *testing.T) {
	ok := asked{begin: noon, end: noon.Add(time.Second), floor: 5, active: noon.Add(-10 * time.Second)}
	with := func(change func(*asked)) asked {
		q := ok
		change(&q)
		return q
	}
	hidden := with(func(q *asked) { q.hidden = true })
	for name, c := range map[string]struct {
		asked
		answer
		want fault
	}{
		"right":                           {ok, shown(5, 10*time.Second), ""},
		"newer":                           {ok, shown(6, 10*time.Second), ""},
		"older than acknowledged":         {ok, shown(4, 10*time.Second), stale},
		"not aged":                        {ok, shown(5, 5*time.Second), agoOff},
		"aged too much":                   {ok, shown(5, 15*time.Second), agoOff},
		"age unknown":                     {with(func(q *asked) { q.active = time.Time{} }), shown(5, 0), ""},
		"no version":                      {ok, answer{status: 200, body: `{"presence":"online","last_active_ago":1,"status_msg":"x"}`}, malformed},
		"no presence":                     {ok, answer{status: 200, body: `{}`}, malformed},
		"hidden and shown":                {hidden, shown(5, 10*time.Second), leaked},
		"hidden and refused":              {hidden, matrixError(403, "M_FORBIDDEN", ""), ""},
		"refused":                         {ok, matrixError(403, "M_FORBIDDEN", ""), refused},
		"rejected":                        {ok, matrixError(401, "M_UNKNOWN_TOKEN", ""), rejected},
		"rejected while logging out":      {with(func(q *asked) { q.after = going }), matrixError(401, "M_UNKNOWN_TOKEN", ""), ""},
		"shown while logging out":         {with(func(q *asked) { q.before = going; q.after = gone }), shown(5, 10*time.Second), ""},
		"shown after the logout":          {with(func(q *asked) { q.before = gone; q.after = gone }), shown(5, 10*time.Second), wasGone},
		"limited":                         {ok, matrixError(429, "M_LIMIT_EXCEEDED", `,"retry_after_ms":1500`), limited},
		"limited over the limit":          {with(func(q *asked) { q.mayLimit = true }), matrixError(429, "M_LIMIT_EXCEEDED", `,"retry_after_ms":1500`), ""},
		"limited, the times don't fit":    {with(func(q *asked) { q.mayLimit = true }), matrixError(429, "M_LIMIT_EXCEEDED", `,"retry_after_ms":2500`), malformed},
		"failed":                          {ok, answer{status: 502}, failed},
		"failed with the homeserver away": {with(func(q *asked) { q.away = true }), answer{status: 502}, ""},
		"no answer":                       {ok, answer{}, unanswered},
		"no answer at a reload":           {with(func(q *asked) { q.reloaded = true }), answer{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got, _ := c.read(c.answer); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestJudgeOfOthers(t *testing.T) {
	var ok asked
	forbidden, unknown := matrixError(403, "M_FORBIDDEN", ""), matrixError(401, "M_UNKNOWN_TOKEN", "")
	done := answer{status: 200, body: `{}`}
	for name, c := range map[string]struct{ got, want fault }{
		"write":                         {ok.write(done), ""},
		"write refused":                 {ok.write(forbidden), refused},
		"write with an odd answer":      {ok.write(answer{status: 302}), malformed},
		"foreign write refused":         {ok.foreign(forbidden), ""},
		"foreign write accepted":        {ok.foreign(done), notRefused},
		"foreign write without CORS":    {ok.foreign(answer{status: 403, body: forbidden.body}), malformed},
		"stranger rejected":             {ok.stranger(unknown), ""},
		"stranger answered":             {ok.stranger(shown(1, 0)), wasGone},
		"stranger refused":              {ok.stranger(forbidden), wasGone},
		"other":                         {ok.pass(answer{status: 200, body: "x"}, "x"), ""},
		"other with its body changed":   {ok.pass(answer{status: 200, body: "y"}, "x"), bodyChanged},
		"other with another status":     {ok.pass(answer{status: 404, body: "x"}, "x"), malformed},
		"rejected with the wrong error": {ok.stranger(matrixError(401, "M_MISSING_TOKEN", "")), malformed},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %q, want %q", name, c.got, c.want)
		}
	}
}
