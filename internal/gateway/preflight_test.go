package gateway

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/scripted"
)

const app = "https://app.example.com"

func TestPreflightIsAnsweredAsTheHomeserverDid(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		fields []string
		want   http.Header
	}{
		"Synapse": {204, scripted.SynapsePreflight, http.Header{
			"Access-Control-Allow-Origin":   {"*"},
			"Access-Control-Allow-Methods":  {"GET, HEAD, POST, PUT, DELETE, OPTIONS"},
			"Access-Control-Allow-Headers":  {"X-Requested-With, Content-Type, Authorization, Date"},
			"Access-Control-Expose-Headers": {"Synapse-Trace-Id, Server"},
			"Access-Control-Max-Age":        {"7200"},
		}},
		"one that echoes the origin": {200, scripted.EchoingPreflight, http.Header{
			"Access-Control-Allow-Origin":  {app},
			"Access-Control-Allow-Headers": {"authorization"},
			"Access-Control-Max-Age":       {"86400"},
			"Vary":                         {"origin, access-control-request-method, access-control-request-headers", "Accept-Encoding"},
			"Content-Length":               {"0"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, &options{Preflight: "local"})
			p.hs.AnswerPreflights(tc.status, tc.fields...)
			first := p.Do(scripted.Preflight(app, "PUT", "authorization"))
			p.Want(first, tc.status, "", "matrix_presence; fwd=miss; stored")
			if got := first.Header["Access-Control-Max-Age"]; !reflect.DeepEqual(got, tc.want["Access-Control-Max-Age"]) {
				t.Errorf("first answer: Access-Control-Max-Age %q", got)
			}
			if first.Header.Get("Server") != "of answer 1" {
				t.Errorf("first answer: %v", first.Header)
			}
			for range 2 {
				second := p.Do(scripted.Preflight(app, "PUT", "authorization"))
				p.Want(second, tc.status, "", "matrix_presence; hit; ttl=")
				second.Header.Del("Cache-Status")
				if !reflect.DeepEqual(second.Header, tc.want) {
					t.Errorf("second answer: %v, want %v", second.Header, tc.want)
				}
			}
			p.WantCounts(map[string]int{"OPTIONS": 1, "whoami": 0})
		})
	}
}

// Which preflights share an answer. In each case the first goes to the homeserver.
func TestPreflightsOfOneKind(t *testing.T) {
	for name, tc := range map[string]struct {
		fields []string
		second *http.Request
		shared bool
	}{
		"another's presence": {scripted.SynapsePreflight, func() *http.Request {
			r := scripted.Preflight(app, "PUT", "authorization,content-type")
			r.URL.Path = "/_matrix/client/r0/presence/@bob:example.com/status"
			return r
		}(), true},
		"names in another order and case": {scripted.SynapsePreflight, scripted.Preflight(app, "PUT", "Content-Type , Authorization,,authorization"), true},
		"names in two fields": {scripted.SynapsePreflight, func() *http.Request {
			r := scripted.Preflight(app, "PUT", "content-type")
			r.Header.Add("Access-Control-Request-Headers", "authorization")
			return r
		}(), true},
		"another origin, all allowed": {scripted.SynapsePreflight, scripted.Preflight("https://other.example.com", "PUT", "authorization,content-type"), true},
		"another origin, one allowed": {scripted.EchoingPreflight, scripted.Preflight("https://other.example.com", "PUT", "authorization,content-type"), false},
		"another method":              {scripted.SynapsePreflight, scripted.Preflight(app, "GET", "authorization,content-type"), false},
		"other names":                 {scripted.SynapsePreflight, scripted.Preflight(app, "PUT", "authorization,content-type,x-more"), false},
		"no names":                    {scripted.SynapsePreflight, scripted.Preflight(app, "PUT", ""), false},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, &options{Preflight: "local"})
			p.hs.AnswerPreflights(200, tc.fields...)
			p.Do(scripted.Preflight(app, "PUT", "authorization,content-type"))
			resp := p.Do(tc.second)
			if hit := strings.HasPrefix(resp.Header.Get("Cache-Status"), "matrix_presence; hit"); hit != tc.shared {
				t.Errorf("Cache-Status %q, shared should be %v", resp.Header.Get("Cache-Status"), tc.shared)
			}
			if got := resp.Header.Get("Access-Control-Allow-Origin"); got != "*" && got != tc.second.Header.Get("Origin") {
				t.Errorf("Access-Control-Allow-Origin %q for %q", got, tc.second.Header.Get("Origin"))
			}
		})
	}
}

// Answers of which it isn't certain that they are for all go out as they came.
func TestPreflightAnswersThatAreNotKept(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		fields []string
	}{
		"allows no origin":      {204, scripted.SynapsePreflight[1:]},
		"allows two origins":    {204, append([]string{"Access-Control-Allow-Origin: https://x"}, scripted.SynapsePreflight...)},
		"an error":              {500, scripted.SynapsePreflight},
		"not found":             {404, scripted.SynapsePreflight},
		"a redirect":            {307, scripted.SynapsePreflight},
		"varies by cookie":      {204, append([]string{"Vary: Origin, Cookie"}, scripted.SynapsePreflight...)},
		"varies by token":       {204, append([]string{"Vary: Authorization"}, scripted.SynapsePreflight...)},
		"varies by everything":  {204, append([]string{"Vary: *"}, scripted.SynapsePreflight...)},
		"a length":              {200, append([]string{"Content-Length: 2"}, scripted.SynapsePreflight[:4]...)},
		"fields that are large": {204, append([]string{"Content-Security-Policy: " + strings.Repeat("x", 3000)}, scripted.SynapsePreflight...)},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, &options{Preflight: "local"})
			p.hs.AnswerPreflights(tc.status, tc.fields...)
			for range 3 {
				resp := p.Do(scripted.Preflight(app, "PUT", "authorization"))
				p.Want(resp, tc.status, "", "matrix_presence; fwd=miss")
				if strings.Contains(resp.Header.Get("Cache-Status"), "stored") {
					t.Errorf("Cache-Status %q", resp.Header.Get("Cache-Status"))
				}
				if name != "fields that are large" && resp.Header.Get("Access-Control-Max-Age") != "" {
					t.Errorf("Access-Control-Max-Age %q", resp.Header.Get("Access-Control-Max-Age"))
				}
			}
			p.WantCounts(map[string]int{"OPTIONS": 3})
		})
	}
}

// All else that is OPTIONS passes as if the option weren't set, and isn't counted.
func TestOptionsThatAreNoPreflightsPass(t *testing.T) {
	edit := func(edit func(r *http.Request)) *http.Request {
		r := scripted.Preflight(app, "PUT", "authorization")
		edit(r)
		return r
	}
	for name, r := range map[string]*http.Request{
		"no origin":       edit(func(r *http.Request) { r.Header.Del("Origin") }),
		"two origins":     edit(func(r *http.Request) { r.Header.Add("Origin", app) }),
		"a long origin":   edit(func(r *http.Request) { r.Header.Set("Origin", "https://"+strings.Repeat("x", 600)) }),
		"no method":       edit(func(r *http.Request) { r.Header.Del("Access-Control-Request-Method") }),
		"another method":  scripted.Preflight(app, "DELETE", ""),
		"lower case":      scripted.Preflight(app, "put", ""),
		"many names":      scripted.Preflight(app, "PUT", strings.Repeat("x,", 300)),
		"local network":   edit(func(r *http.Request) { r.Header.Set("Access-Control-Request-Private-Network", "true") }),
		"a body":          edit(func(r *http.Request) { withBody(r, strings.NewReader("{}")).ContentLength = 2 }),
		"a body in parts": edit(func(r *http.Request) { withBody(r, strings.NewReader("{}")) }),
		"a body to come":  edit(func(r *http.Request) { withBody(r, strings.NewReader("")).Header.Set("Expect", "100-continue") }),
		"a token":         edit(func(r *http.Request) { r.Header.Set("Authorization", "Bearer alice-token") }),
		"a cookie":        edit(func(r *http.Request) { r.Header.Set("Cookie", "a=b") }),
		"another route":   edit(func(r *http.Request) { r.URL.Path = "/_matrix/client/v3/sync" }),
		"Synapse's spelling": edit(func(r *http.Request) {
			r.URL.Path = "/_matrix/client/unstable/presence/@alice:example.com/status"
		}),
		"nobody's": edit(func(r *http.Request) { r.URL.Path = "/_matrix/client/v3/presence/alice/status" }),
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, &options{Preflight: "local"})
			p.hs.AnswerPreflights(204, scripted.SynapsePreflight...)
			p.Do(scripted.Preflight(app, "PUT", "authorization"))
			resp := p.Do(r)
			if resp.Header["Cache-Status"] != nil || resp.Header["Access-Control-Max-Age"] != nil || resp.Header.Get("Server") != "of answer 2" {
				t.Errorf("got %v", resp.Header)
			}
			if n := p.samples()["requests_total preflight"]; n != 1 {
				t.Errorf("%v preflights counted", n)
			}
		})
	}
}

func TestPreflightsPassByDefault(t *testing.T) {
	for _, word := range []string{"", "pass"} {
		p := newProxy(t, &options{Preflight: word})
		p.hs.AnswerPreflights(204, scripted.SynapsePreflight...)
		for range 3 {
			resp := p.Do(scripted.Preflight(app, "PUT", "authorization"))
			if resp.Header["Cache-Status"] != nil || resp.Header["Access-Control-Max-Age"] != nil {
				t.Errorf("%q: got %v", word, resp.Header)
			}
		}
		p.WantCounts(map[string]int{"OPTIONS": 3})
		if n := p.samples()["requests_total preflight"]; n != 0 {
			t.Errorf("%q: %v preflights counted", word, n)
		}
	}
}

// In a dry run every answer is the homeserver's, to the last field.
func TestPreflightsGoToTheHomeserverInADryRun(t *testing.T) {
	p := newProxy(t, &options{Preflight: "local", Mode: "observe"})
	p.hs.AnswerPreflights(204, scripted.SynapsePreflight...)
	for n := range 3 {
		resp := p.Do(scripted.Preflight(app, "PUT", "authorization"))
		if resp.Header["Access-Control-Max-Age"] != nil || resp.Header.Get("Server") != fmt.Sprint("of answer ", n+1) {
			t.Errorf("got %v", resp.Header)
		}
	}
	p.reload(&options{Preflight: "local", Cache: new(caching)})
	resp := p.Do(scripted.Preflight(app, "PUT", "authorization"))
	p.Want(resp, 204, "", "matrix_presence; hit")
	if got := resp.Header.Get("Access-Control-Max-Age"); got != preflightMaxAge {
		t.Errorf("Access-Control-Max-Age %q", got)
	}
}

func TestPreflightAnswersSurviveAReloadAndAreLearnedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{Preflight: "local"})
		p.hs.AnswerPreflights(204, scripted.SynapsePreflight...)
		ask := func(cacheStatus string) *http.Response {
			t.Helper()
			resp := p.Do(scripted.Preflight(app, "PUT", "authorization"))
			p.Want(resp, 204, "", cacheStatus)
			return resp
		}
		ask("matrix_presence; fwd=miss; stored")
		time.Sleep(preflightTTL - time.Second)
		p.reload(&options{Preflight: "local", Cache: new(caching)})
		ask("matrix_presence; hit; ttl=1")

		// The homeserver is configured anew. It names the origins that it allows.
		p.hs.AnswerPreflights(204, scripted.EchoingPreflight...)
		ask("matrix_presence; hit; ttl=1")
		time.Sleep(time.Second)
		ask("matrix_presence; fwd=miss; stored")
		if got := ask("matrix_presence; hit").Header.Get("Access-Control-Allow-Origin"); got != app {
			t.Errorf("Access-Control-Allow-Origin %q", got)
		}
	})
}

// A homeserver that is down answers no preflight for longer than what is known holds.
func TestPreflightsFailWithTheHomeserver(t *testing.T) {
	p := newProxy(t, &options{Preflight: "local"})
	p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
		return true, failed(502, errors.New("no connection"))
	}
	if resp := p.Do(scripted.Preflight(app, "PUT", "authorization")); resp.StatusCode != 502 {
		t.Errorf("got %d", resp.StatusCode)
	}
	p.hs.AnswerPreflights(204, scripted.SynapsePreflight...)
	p.Want(p.Do(scripted.Preflight(app, "PUT", "authorization")), 204, "", "matrix_presence; fwd=miss; stored")
	p.hs.Intercept = func(http.ResponseWriter, *http.Request) (bool, error) {
		return true, failed(502, errors.New("no connection"))
	}
	p.Want(p.Do(scripted.Preflight(app, "PUT", "authorization")), 204, "", "matrix_presence; hit")
}

func TestPreflightsAreBounded(t *testing.T) {
	p := newProxy(t, &options{Preflight: "local"})
	p.hs.AnswerPreflights(204, scripted.EchoingPreflight...)
	for n := range 10 * maxPreflights {
		p.Do(scripted.Preflight(fmt.Sprintf("https://%d.example.com", n), "PUT", "authorization"))
	}
	got := p.samples()
	if got["entries preflights"] != maxPreflights || got["evictions_total preflights"] != 9*maxPreflights {
		t.Errorf("%v entries, %v evictions", got["entries preflights"], got["evictions_total preflights"])
	}
}

func TestOptionsThatPassCostNoAllocation(t *testing.T) {
	for name, handler := range map[string]*options{"pass": {}, "local": {Preflight: "local"}} {
		p := newProxy(t, handler)
		r := scripted.Preflight(app, "GET", "authorization")
		if name == "local" {
			r.URL.Path = "/_matrix/client/v3/sync"
		}
		w := scripted.NewDiscard()
		r = prepared(r)
		allocs := testing.AllocsPerRun(100, func() {
			if err := p.gateway.Serve(w, r, nextFunc(func(http.ResponseWriter, *http.Request) error { return nil })); err != nil {
				t.Fatal(err)
			}
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations", name, allocs)
		}
	}
}

// preflight local never learned on tuwunel, because its answers don't say how long they are:
// every preflight went to the homeserver. Whether there is a body is seen at its end.
func TestPreflightAnswersWithoutALengthAreLearnedIfTheyAreEmpty(t *testing.T) {
	write := func(body string) func(w http.ResponseWriter) error {
		return func(w http.ResponseWriter) error {
			_, err := w.Write([]byte(body))
			return err
		}
	}
	flush := func(w http.ResponseWriter) error { return http.NewResponseController(w).Flush() }
	inOrder := func(steps ...func(w http.ResponseWriter) error) func(w http.ResponseWriter) error {
		return func(w http.ResponseWriter) error {
			for _, step := range steps {
				if err := step(w); err != nil {
					return err
				}
			}
			return nil
		}
	}
	for name, tc := range map[string]struct {
		status int
		then   func(w http.ResponseWriter) error
		learns bool
		first  string
	}{
		"nothing":            {200, inOrder(), true, "matrix_presence; fwd=miss; stored"},
		"an empty write":     {200, write(""), true, "matrix_presence; fwd=miss; stored"},
		"a flush":            {200, flush, true, "matrix_presence; fwd=miss"},
		"no content":         {204, flush, true, "matrix_presence; fwd=miss; stored"},
		"a body":             {200, write("{}"), false, "matrix_presence; fwd=miss"},
		"a body in the end":  {200, inOrder(flush, write(""), write("{}")), false, "matrix_presence; fwd=miss"},
		"a body by ReadFrom": {200, func(w http.ResponseWriter) error { _, err := io.Copy(w, strings.NewReader("{}")); return err }, false, "matrix_presence; fwd=miss"},
		"an empty ReadFrom":  {200, func(w http.ResponseWriter) error { _, err := io.Copy(w, strings.NewReader("")); return err }, true, "matrix_presence; fwd=miss; stored"},
		"an error":           {200, inOrder(flush, func(http.ResponseWriter) error { return failed(502, errors.New("broken")) }), false, "matrix_presence; fwd=miss"},
		"not found":          {404, inOrder(), false, "matrix_presence; fwd=miss"},
		"a redirect":         {302, inOrder(), false, "matrix_presence; fwd=miss"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, &options{Preflight: "local"})
			p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
				if r.Method != http.MethodOptions {
					return false, nil
				}
				for _, field := range scripted.TuwunelPreflight {
					name, value, _ := strings.Cut(field, ": ")
					w.Header().Set(name, value)
				}
				w.WriteHeader(tc.status)
				return true, tc.then(w)
			})
			first := p.Do(scripted.Preflight(app, "PUT", "authorization"))
			p.Want(first, first.StatusCode, "", tc.first)
			if strings.Contains(first.Header.Get("Cache-Status"), "stored") != strings.Contains(tc.first, "stored") {
				t.Errorf("Cache-Status %q", first.Header.Get("Cache-Status"))
			}
			second := p.Do(scripted.Preflight("https://other.example.com", "PUT", "authorization"))
			if hit := strings.HasPrefix(second.Header.Get("Cache-Status"), "matrix_presence; hit"); hit != tc.learns {
				t.Errorf("the second: Cache-Status %q", second.Header.Get("Cache-Status"))
			}
			if bodyOf(second) != bodyOf(first) || second.StatusCode != first.StatusCode {
				t.Errorf("got %d %q and %d %q", first.StatusCode, bodyOf(first), second.StatusCode, bodyOf(second))
			}
			if got := second.Header.Get("Access-Control-Max-Age"); got != "86400" {
				t.Errorf("Access-Control-Max-Age %q", got)
			}
		})
	}
}
