package main

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// shown is an answer with a version that was written so long before noon.
func shown(version int, ago time.Duration) answer {
	return answer{200, nil, fmt.Appendf(nil, `{"presence":"online","last_active_ago":%d,"status_msg":"v%d"}`, ago.Milliseconds(), version)}
}

func matrixError(status int, errcode, more string) answer {
	return answer{status, http.Header{"Access-Control-Allow-Origin": {"*"}, "Retry-After": {"2"}},
		fmt.Appendf(nil, `{"errcode":%q,"error":"no"%s}`, errcode, more)}
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
		"no version":                      {ok, answer{200, nil, []byte(`{"presence":"online","last_active_ago":1,"status_msg":"x"}`)}, malformed},
		"no presence":                     {ok, answer{200, nil, []byte(`{}`)}, malformed},
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
	done := answer{200, nil, []byte(`{}`)}
	for name, c := range map[string]struct{ got, want fault }{
		"write":                         {ok.write(done), ""},
		"write refused":                 {ok.write(forbidden), refused},
		"write with an odd answer":      {ok.write(answer{status: 302}), malformed},
		"foreign write refused":         {ok.foreign(forbidden), ""},
		"foreign write accepted":        {ok.foreign(done), notRefused},
		"foreign write without CORS":    {ok.foreign(answer{403, nil, forbidden.body}), malformed},
		"stranger rejected":             {ok.stranger(unknown), ""},
		"stranger answered":             {ok.stranger(shown(1, 0)), wasGone},
		"stranger refused":              {ok.stranger(forbidden), wasGone},
		"other":                         {ok.pass(answer{200, nil, []byte("x")}, "x"), ""},
		"other with its body changed":   {ok.pass(answer{200, nil, []byte("y")}, "x"), bodyChanged},
		"other with another status":     {ok.pass(answer{404, nil, []byte("x")}, "x"), malformed},
		"rejected with the wrong error": {ok.stranger(matrixError(401, "M_MISSING_TOKEN", "")), malformed},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %q, want %q", name, c.got, c.want)
		}
	}
}
