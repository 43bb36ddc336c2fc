package caddymodule

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// preflight returns what a browser at an origin sends before it asks for alice's
// presence by a method, with header fields of those names.
func preflight(origin, method, headers string) *http.Request {
	r := httptest.NewRequest("OPTIONS", statusPath(Alice), nil)
	r.Header.Set("Origin", origin)
	r.Header.Set("Access-Control-Request-Method", method)
	if headers != "" {
		r.Header.Set("Access-Control-Request-Headers", headers)
	}
	return r
}

const app = "https://app.example.com"

// answerPreflights makes the homeserver answer OPTIONS with a status and header fields
// "Name: value". It adds what is about the one response only.
func (hs *homeserver) answerPreflights(status int, fields ...string) {
	hs.Mu.Lock()
	defer hs.Mu.Unlock()
	n := 0
	hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if r.Method != "OPTIONS" {
			return false, nil
		}
		hs.Mu.Lock()
		defer hs.Mu.Unlock()
		n++
		for _, name := range []string{"Date", "Server", "Set-Cookie", "Synapse-Trace-Id"} {
			w.Header().Set(name, fmt.Sprint("of answer ", n))
		}
		for _, field := range fields {
			name, value, _ := strings.Cut(field, ": ")
			w.Header().Add(name, strings.ReplaceAll(value, "ORIGIN", r.Header.Get("Origin")))
		}
		w.WriteHeader(status)
		return true, nil
	}
}

// What the homeservers send, see their fields in the tests on real ones.
var (
	synapsePreflight = []string{
		"Access-Control-Allow-Origin: *",
		"Access-Control-Allow-Methods: GET, HEAD, POST, PUT, DELETE, OPTIONS",
		"Access-Control-Allow-Headers: X-Requested-With, Content-Type, Authorization, Date",
		"Access-Control-Expose-Headers: Synapse-Trace-Id, Server",
		"Content-Length: 0",
	}
	echoingPreflight = []string{
		"Access-Control-Allow-Origin: ORIGIN",
		"Access-Control-Allow-Headers: authorization",
		"Access-Control-Max-Age: 86400",
		"Vary: origin, access-control-request-method, access-control-request-headers",
		"Vary: Accept-Encoding",
		"Content-Length: 0",
	}
)

func TestPreflightIsAnsweredAsTheHomeserverDid(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		fields []string
		want   http.Header
	}{
		"Synapse": {204, synapsePreflight, http.Header{
			"Access-Control-Allow-Origin":   {"*"},
			"Access-Control-Allow-Methods":  {"GET, HEAD, POST, PUT, DELETE, OPTIONS"},
			"Access-Control-Allow-Headers":  {"X-Requested-With, Content-Type, Authorization, Date"},
			"Access-Control-Expose-Headers": {"Synapse-Trace-Id, Server"},
			"Access-Control-Max-Age":        {"7200"},
		}},
		"one that echoes the origin": {200, echoingPreflight, http.Header{
			"Access-Control-Allow-Origin":  {app},
			"Access-Control-Allow-Headers": {"authorization"},
			"Access-Control-Max-Age":       {"86400"},
			"Vary":                         {"origin, access-control-request-method, access-control-request-headers", "Accept-Encoding"},
			"Content-Length":               {"0"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, &Handler{Preflight: "local"})
			p.hs.answerPreflights(tc.status, tc.fields...)
			first := p.do(preflight(app, "PUT", "authorization"))
			p.want(first, tc.status, "", "matrix_presence; fwd=miss; stored")
			if got := first.Header["Access-Control-Max-Age"]; !reflect.DeepEqual(got, tc.want["Access-Control-Max-Age"]) {
				t.Errorf("first answer: Access-Control-Max-Age %q", got)
			}
			if first.Header.Get("Server") != "of answer 1" {
				t.Errorf("first answer: %v", first.Header)
			}
			for range 2 {
				second := p.do(preflight(app, "PUT", "authorization"))
				p.want(second, tc.status, "", "matrix_presence; hit; ttl=")
				second.Header.Del("Cache-Status")
				if !reflect.DeepEqual(second.Header, tc.want) {
					t.Errorf("second answer: %v, want %v", second.Header, tc.want)
				}
			}
			p.wantCounts(map[string]int{"OPTIONS": 1, "whoami": 0})
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
		"another's presence": {synapsePreflight, func() *http.Request {
			r := preflight(app, "PUT", "authorization,content-type")
			r.URL.Path = "/_matrix/client/r0/presence/@bob:example.com/status"
			return r
		}(), true},
		"names in another order and case": {synapsePreflight, preflight(app, "PUT", "Content-Type , Authorization,,authorization"), true},
		"names in two fields": {synapsePreflight, func() *http.Request {
			r := preflight(app, "PUT", "content-type")
			r.Header.Add("Access-Control-Request-Headers", "authorization")
			return r
		}(), true},
		"another origin, all allowed": {synapsePreflight, preflight("https://other.example.com", "PUT", "authorization,content-type"), true},
		"another origin, one allowed": {echoingPreflight, preflight("https://other.example.com", "PUT", "authorization,content-type"), false},
		"another method":              {synapsePreflight, preflight(app, "GET", "authorization,content-type"), false},
		"other names":                 {synapsePreflight, preflight(app, "PUT", "authorization,content-type,x-more"), false},
		"no names":                    {synapsePreflight, preflight(app, "PUT", ""), false},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, &Handler{Preflight: "local"})
			p.hs.answerPreflights(200, tc.fields...)
			p.do(preflight(app, "PUT", "authorization,content-type"))
			resp := p.do(tc.second)
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
		"allows no origin":      {204, synapsePreflight[1:]},
		"allows two origins":    {204, append([]string{"Access-Control-Allow-Origin: https://x"}, synapsePreflight...)},
		"an error":              {500, synapsePreflight},
		"not found":             {404, synapsePreflight},
		"a redirect":            {307, synapsePreflight},
		"varies by cookie":      {204, append([]string{"Vary: Origin, Cookie"}, synapsePreflight...)},
		"varies by token":       {204, append([]string{"Vary: Authorization"}, synapsePreflight...)},
		"varies by everything":  {204, append([]string{"Vary: *"}, synapsePreflight...)},
		"a length":              {200, append([]string{"Content-Length: 2"}, synapsePreflight[:4]...)},
		"fields that are large": {204, append([]string{"Content-Security-Policy: " + strings.Repeat("x", 3000)}, synapsePreflight...)},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, &Handler{Preflight: "local"})
			p.hs.answerPreflights(tc.status, tc.fields...)
			for range 3 {
				resp := p.do(preflight(app, "PUT", "authorization"))
				p.want(resp, tc.status, "", "matrix_presence; fwd=miss")
				if strings.Contains(resp.Header.Get("Cache-Status"), "stored") {
					t.Errorf("Cache-Status %q", resp.Header.Get("Cache-Status"))
				}
				if name != "fields that are large" && resp.Header.Get("Access-Control-Max-Age") != "" {
					t.Errorf("Access-Control-Max-Age %q", resp.Header.Get("Access-Control-Max-Age"))
				}
			}
			p.wantCounts(map[string]int{"OPTIONS": 3})
		})
	}
}

// All else that is OPTIONS passes as if the option weren't set, and isn't counted.
func TestOptionsThatAreNoPreflightsPass(t *testing.T) {
	edit := func(edit func(r *http.Request)) *http.Request {
		r := preflight(app, "PUT", "authorization")
		edit(r)
		return r
	}
	for name, r := range map[string]*http.Request{
		"no origin":       edit(func(r *http.Request) { r.Header.Del("Origin") }),
		"two origins":     edit(func(r *http.Request) { r.Header.Add("Origin", app) }),
		"a long origin":   edit(func(r *http.Request) { r.Header.Set("Origin", "https://"+strings.Repeat("x", 600)) }),
		"no method":       edit(func(r *http.Request) { r.Header.Del("Access-Control-Request-Method") }),
		"another method":  preflight(app, "DELETE", ""),
		"lower case":      preflight(app, "put", ""),
		"many names":      preflight(app, "PUT", strings.Repeat("x,", 300)),
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
			p := newProxy(t, &Handler{Preflight: "local"})
			p.hs.answerPreflights(204, synapsePreflight...)
			p.do(preflight(app, "PUT", "authorization"))
			resp := p.do(r)
			if resp.Header["Cache-Status"] != nil || resp.Header["Access-Control-Max-Age"] != nil || resp.Header.Get("Server") != "of answer 2" {
				t.Errorf("got %v", resp.Header)
			}
			if n := gather(t, p.handler.Cache.Name)["requests_total preflight"]; n != 1 {
				t.Errorf("%v preflights counted", n)
			}
		})
	}
}

func TestPreflightsPassByDefault(t *testing.T) {
	for _, word := range []string{"", "pass"} {
		p := newProxy(t, &Handler{Preflight: word, Cache: &Cache{Name: t.Name() + word}})
		p.hs.answerPreflights(204, synapsePreflight...)
		for range 3 {
			resp := p.do(preflight(app, "PUT", "authorization"))
			if resp.Header["Cache-Status"] != nil || resp.Header["Access-Control-Max-Age"] != nil {
				t.Errorf("%q: got %v", word, resp.Header)
			}
		}
		p.wantCounts(map[string]int{"OPTIONS": 3})
		if n := gather(t, p.handler.Cache.Name)["requests_total preflight"]; n != 0 {
			t.Errorf("%q: %v preflights counted", word, n)
		}
	}
}

// In a dry run every answer is the homeserver's, to the last field.
func TestPreflightsGoToTheHomeserverInADryRun(t *testing.T) {
	p := newProxy(t, &Handler{Preflight: "local", Mode: "observe"})
	p.hs.answerPreflights(204, synapsePreflight...)
	for n := range 3 {
		resp := p.do(preflight(app, "PUT", "authorization"))
		if resp.Header["Access-Control-Max-Age"] != nil || resp.Header.Get("Server") != fmt.Sprint("of answer ", n+1) {
			t.Errorf("got %v", resp.Header)
		}
	}
	p.reload(&Handler{Preflight: "local", Cache: new(Cache)})
	resp := p.do(preflight(app, "PUT", "authorization"))
	p.want(resp, 204, "", "matrix_presence; hit")
	if got := resp.Header.Get("Access-Control-Max-Age"); got != preflightMaxAge {
		t.Errorf("Access-Control-Max-Age %q", got)
	}
}

func TestPreflightAnswersSurviveAReloadAndAreLearnedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &Handler{Preflight: "local"})
		p.hs.answerPreflights(204, synapsePreflight...)
		ask := func(cacheStatus string) *http.Response {
			t.Helper()
			resp := p.do(preflight(app, "PUT", "authorization"))
			p.want(resp, 204, "", cacheStatus)
			return resp
		}
		ask("matrix_presence; fwd=miss; stored")
		time.Sleep(preflightTTL - time.Second)
		p.reload(&Handler{Preflight: "local", Cache: new(Cache)})
		ask("matrix_presence; hit; ttl=1")

		// The homeserver is configured anew. It names the origins that it allows.
		p.hs.answerPreflights(204, echoingPreflight...)
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
	p := newProxy(t, &Handler{Preflight: "local"})
	p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
		return true, caddyhttp.Error(502, errors.New("no connection"))
	}
	if resp := p.do(preflight(app, "PUT", "authorization")); resp.StatusCode != 502 {
		t.Errorf("got %d", resp.StatusCode)
	}
	p.hs.answerPreflights(204, synapsePreflight...)
	p.want(p.do(preflight(app, "PUT", "authorization")), 204, "", "matrix_presence; fwd=miss; stored")
	p.hs.Intercept = func(http.ResponseWriter, *http.Request) (bool, error) {
		return true, caddyhttp.Error(502, errors.New("no connection"))
	}
	p.want(p.do(preflight(app, "PUT", "authorization")), 204, "", "matrix_presence; hit")
}

func TestPreflightsAreBounded(t *testing.T) {
	p := newProxy(t, &Handler{Preflight: "local"})
	p.hs.answerPreflights(204, echoingPreflight...)
	for n := range 10 * maxPreflights {
		p.do(preflight(fmt.Sprintf("https://%d.example.com", n), "PUT", "authorization"))
	}
	got := gather(t, p.handler.Cache.Name)
	if got["entries preflights"] != maxPreflights || got["evictions_total preflights"] != 9*maxPreflights {
		t.Errorf("%v entries, %v evictions", got["entries preflights"], got["evictions_total preflights"])
	}
}

// Handlers before this one may edit the fields of an answer in place, and compress.
func TestPreflightsOfASiteThatEditsFields(t *testing.T) {
	hs := newHomeserver()
	hs.answerPreflights(200, echoingPreflight...)
	site := newSite(t, hs, `
		encode gzip
		header >Access-Control-Allow-Headers authorization AUTHORIZATION
		header >X-Cache {http.vars.matrix_presence.cache}
		header >X-Decision {http.vars.matrix_presence.decision}
		matrix_presence {
			preflight local
		}
		reverse_proxy UPSTREAM`)
	for i, want := range [][2]string{{"", "forwarded"}, {"hit", "answered"}, {"hit", "answered"}} {
		r := preflight(app, "PUT", "authorization")
		r.Host = "example.com:9"
		r.Header.Set("Accept-Encoding", "gzip")
		resp := ask(site, r)
		if resp.StatusCode != 200 || resp.Header.Get("X-Cache") != want[0] || resp.Header.Get("X-Decision") != want[1] {
			t.Errorf("request %d: %d %v", i, resp.StatusCode, resp.Header)
		}
		for name, want := range map[string]string{"Access-Control-Allow-Headers": "AUTHORIZATION", "Content-Length": "0", "Access-Control-Allow-Origin": app} {
			if got := resp.Header[name]; !reflect.DeepEqual(got, []string{want}) {
				t.Errorf("request %d: %s %q, want %q", i, name, got, want)
			}
		}
	}
}

func TestOptionsThatPassCostNoAllocation(t *testing.T) {
	for name, handler := range map[string]*Handler{"pass": {}, "local": {Preflight: "local"}} {
		handler.Cache = &Cache{Name: t.Name() + name}
		p := newProxy(t, handler)
		r := preflight(app, "GET", "authorization")
		if name == "local" {
			r.URL.Path = "/_matrix/client/v3/sync"
		}
		w := &discard{header: make(http.Header)}
		r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, new(caddyhttp.Server))
		allocs := testing.AllocsPerRun(100, func() {
			if err := p.handler.ServeHTTP(w, r, ok); err != nil {
				t.Fatal(err)
			}
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations", name, allocs)
		}
	}
}

// tuwunelPreflight is what tuwunel answers to every OPTIONS: 200, in chunks, of which there
// is none.
var tuwunelPreflight = []string{
	"Access-Control-Allow-Origin: *",
	"Access-Control-Allow-Methods: DELETE,GET,HEAD,OPTIONS,PATCH,POST,PUT",
	"Access-Control-Allow-Headers: accept,authorization,content-type,if-match,if-none-match,origin,x-requested-with",
	"Access-Control-Max-Age: 86400",
	"Allow: PUT,GET,HEAD",
	"Vary: origin, access-control-request-method, access-control-request-headers",
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
		"an error":           {200, inOrder(flush, func(http.ResponseWriter) error { return caddyhttp.Error(502, errors.New("broken")) }), false, "matrix_presence; fwd=miss"},
		"not found":          {404, inOrder(), false, "matrix_presence; fwd=miss"},
		"a redirect":         {302, inOrder(), false, "matrix_presence; fwd=miss"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, &Handler{Preflight: "local"})
			p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
				if r.Method != http.MethodOptions {
					return false, nil
				}
				for _, field := range tuwunelPreflight {
					name, value, _ := strings.Cut(field, ": ")
					w.Header().Set(name, value)
				}
				w.WriteHeader(tc.status)
				return true, tc.then(w)
			})
			first := p.do(preflight(app, "PUT", "authorization"))
			p.want(first, first.StatusCode, "", tc.first)
			if strings.Contains(first.Header.Get("Cache-Status"), "stored") != strings.Contains(tc.first, "stored") {
				t.Errorf("Cache-Status %q", first.Header.Get("Cache-Status"))
			}
			second := p.do(preflight("https://other.example.com", "PUT", "authorization"))
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

// Through Caddy's own reverse_proxy, which flushes what has no length, and whose handlers
// abort what breaks off.
func TestPreflightsInChunks(t *testing.T) {
	for name, tc := range map[string]struct {
		http2  bool // of the client
		body   string
		breaks bool
		hit    bool
	}{
		"empty":              {false, "", false, true},
		"empty, HTTP/2":      {true, "", false, true},
		"a body":             {false, "{}", false, false},
		"a body, HTTP/2":     {true, "{}", false, false},
		"broken off":         {false, "", true, false},
		"broken off, HTTP/2": {true, "", true, false},
	} {
		t.Run(name, func(t *testing.T) {
			hs := newHomeserver()
			hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
				if r.Method != http.MethodOptions {
					return false, nil
				}
				for _, field := range tuwunelPreflight {
					name, value, _ := strings.Cut(field, ": ")
					w.Header().Set(name, value)
				}
				w.WriteHeader(200)
				if err := http.NewResponseController(w).Flush(); err != nil { // now it is in chunks
					return true, err
				}
				if tc.breaks {
					panic(http.ErrAbortHandler)
				}
				_, err := io.WriteString(w, tc.body)
				return true, err
			})
			server := httptest.NewUnstartedServer(newSite(t, hs, "encode gzip\nmatrix_presence {\npreflight local\n}\nreverse_proxy UPSTREAM"))
			server.EnableHTTP2 = tc.http2
			server.StartTLS()
			defer server.Close()
			for n := range 3 {
				r := preflight(app, "PUT", "authorization")
				r.RequestURI, r.URL.Scheme, r.URL.Host, r.Host = "", "https", server.Listener.Addr().String(), "example.com:9"
				resp, err := server.Client().Do(r)
				if err != nil {
					if !tc.breaks { // else its head may not have gone out
						t.Fatal(err)
					}
					continue
				}
				if (resp.ProtoMajor == 2) != tc.http2 {
					t.Errorf("request %d: over %s", n, resp.Proto)
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if (err != nil) != tc.breaks || string(body) != tc.body || resp.StatusCode != 200 {
					t.Errorf("request %d: %d %q, %v", n, resp.StatusCode, body, err)
				}
				if hit := strings.HasPrefix(resp.Header.Get("Cache-Status"), "matrix_presence; hit"); hit != (tc.hit && n > 0) {
					t.Errorf("request %d: Cache-Status %q", n, resp.Header.Get("Cache-Status"))
				}
			}
		})
	}
}
