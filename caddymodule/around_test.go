package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/scripted"
)

// These are about Caddy's other handlers: what our requests do to them, and they to ours.

// limitReached refuses everything as the handler rate_limit of a known plugin does.
type limitReached struct{}

func (limitReached) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_limit_reached", New: func() caddy.Module { return new(limitReached) }}
}

func (limitReached) ServeHTTP(w http.ResponseWriter, _ *http.Request, _ caddyhttp.Handler) error {
	w.Header().Set("Retry-After", "17")
	return caddyhttp.Error(http.StatusTooManyRequests, nil)
}

func init() {
	caddy.RegisterModule(limitReached{})
	httpcaddyfile.RegisterHandlerDirective("test_limit_reached", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return limitReached{}, nil
	})
}

func presenceRequest(method, token, body string) *http.Request {
	return request(method, "http://example.com:9"+statusPath(alice), token, body)
}

// A whoami that took too long ended by a deadline, which reverse_proxy's passive health checks
// took for a failure of the upstream: with fail_duration 20s the whole homeserver was
// answered with 503 for 20 seconds, media and federation too.
func TestSlowLookupIsNoFailureOfTheUpstream(t *testing.T) {
	for _, options := range []string{
		"fail_duration 20s",
		"fail_duration 20s\nmax_fails 1\nlb_try_duration 5s\nlb_retries 3",
		"fail_duration 20s\nlb_try_duration 5s\nlb_retry_match {\nmethod GET PUT\n}",
	} {
		hs := scripted.New()
		hs.Intercept = func(_ http.ResponseWriter, r *http.Request) (bool, error) {
			if strings.HasSuffix(r.URL.Path, "/whoami") {
				<-r.Context().Done()
				return true, nil
			}
			return false, nil
		}
		site := newSite(t, hs, "matrix_presence {\nidentity {\ntimeout 200ms\n}\n}\nreverse_proxy UPSTREAM {\n"+options+"\n}")
		for range 3 {
			if resp := ask(site, presenceRequest("PUT", "alice-token", `{"presence":"online"}`)); resp.StatusCode != http.StatusGatewayTimeout {
				t.Errorf("%q: the write got %d", options, resp.StatusCode)
			}
		}
		if n := hs.Count("whoami"); n < 1 || n > 3 { // on a busy machine the time may be over before one is sent
			t.Errorf("%q: %d questions, want 3 at most", options, n)
		}
		if resp := ask(site, request("GET", "http://example.com:9/_matrix/media/v3/download/x/y", "", "")); resp.StatusCode == http.StatusServiceUnavailable {
			t.Errorf("%q: all others get %d", options, resp.StatusCode)
		}
	}
}

// siteAnswer is what directives of a site answer.
type siteAnswer struct {
	directives string
	status     int
	body       string
	retryAfter string
}

// What the site says to a request of ours became a 502 of ours on writes, a stale answer on
// reads, and a line in the log that the upstream is no homeserver. The client gets the
// site's own answer, as it would to any other request.
func TestSiteAnswersForItself(t *testing.T) {
	for name, tc := range map[string]siteAnswer{
		"respond":        {`respond "banned" 403`, 403, "banned", ""},
		"respond 429":    {"header Retry-After 3\nrespond 429", 429, "", "3"},
		"respond 503":    {`respond "maintenance" 503`, 503, "maintenance", ""},
		"redirect":       {"redir https://example.org/", 302, "", ""},
		"error":          {`error "banned" 403`, 403, "sorry: 403", ""},
		"error 503":      {`error "maintenance" 503`, 503, "sorry: 503", ""},
		"rate limit":     {"test_limit_reached", 429, "sorry: 429", "17"},
		"Matrix respond": {`respond ` + "`{\"errcode\":\"M_FORBIDDEN\"}`" + ` 403`, 403, `{"errcode":"M_FORBIDDEN"}`, ""},
		"basic_auth":     {"basic_auth {\nx $2a$04$Vm1FvTDKQvsQYVTmKQb1mOoVBrYr8YFFHG1eSkV7tXd3dEQjGzcoK\n}", 401, "sorry: 401", ""},
	} {
		for _, ttl := range []string{"1ns", "1h"} { // who they are is not known, and is
			t.Run(name+" "+ttl, func(t *testing.T) { testSiteAnswer(t, tc, ttl) })
		}
	}
}

func testSiteAnswer(t *testing.T, tc siteAnswer, ttl string) {
	hs := scripted.New()
	site := newSite(t, hs, `
				matrix_presence {
					cache {
						ttl 1ns
						stale_if_error 1h
					}
					identity {
						ttl `+ttl+`
					}
				}
				route @banned {
					`+tc.directives+`
				}
				@banned remote_ip 203.0.113.1
				reverse_proxy UPSTREAM
				handle_errors {
					respond "sorry: {err.status_code}"
				}`)
	if resp := ask(site, presenceRequest("GET", "alice-token", "")); resp.StatusCode != 200 {
		t.Fatalf("before: %d", resp.StatusCode)
	}
	for _, r := range []*http.Request{
		presenceRequest("GET", "alice-token", ""), presenceRequest("PUT", "alice-token", `{"presence":"online"}`),
		presenceRequest("GET", "bob-token", ""), presenceRequest("PUT", "other-token", `{"presence":"online"}`),
	} {
		r.RemoteAddr = "203.0.113.1:1"
		resp := ask(site, r)
		if body := bodyOf(resp); resp.StatusCode != tc.status || body != tc.body || resp.Header.Get("Retry-After") != tc.retryAfter {
			t.Errorf("%s by %s: %d %q, Retry-After %q", r.Method, r.Header.Get("Authorization"), resp.StatusCode, body, resp.Header.Get("Retry-After"))
		}
	}
	if got := memoryOfSite().Trouble(); got != "" {
		t.Errorf("the log says: %s", got)
	}
	// Nobody else is told so, and nothing was forgotten.
	if resp := ask(site, presenceRequest("GET", "alice-token", "")); resp.StatusCode != 200 {
		t.Errorf("somebody else: %d", resp.StatusCode)
	}
}

// What the site puts in the place of the homeserver's answers is the site's, too, and so is what
// stands between: a lookup that got it made a 502 of writes, without Retry-After, and a line in the
// log that the upstream is no homeserver.
func TestAnswersInPlaceOfTheHomeservers(t *testing.T) {
	with := func(options string) string { return "reverse_proxy UPSTREAM {\n" + options + "\n}" }
	instead := func(directives string) string {
		return "@overload status 5xx\nhandle_response @overload {\n" + directives + "\n}"
	}
	for name, tc := range map[string]struct {
		directives string
		upstream   int
		status     int
		body       string
		retryAfter string
	}{
		"respond":       {with(instead("header Retry-After 9\nrespond \"sorry\" 503")), 500, 503, "sorry", "9"},
		"error":         {with(instead("header Retry-After 9\nerror \"sorry\" 503")), 500, 503, "sorry: 503", "9"},
		"intercept":     {"intercept {\n" + instead("header Retry-After 9\nrespond \"sorry\" 503") + "\n}\n" + with(""), 500, 503, "sorry", "9"},
		"redirection":   {with(instead("redir https://status.example")), 500, 302, "", ""},
		"not found":     {with(instead("error 404")), 502, 404, "sorry: 404", ""},
		"as success":    {with(instead("respond \"sorry\" 200")), 500, 502, "", ""},
		"as it is":      {with(""), 500, 502, "", ""},
		"tried again":   {with("lb_retries 1\nlb_retry_match {\nexpression `{rp.status_code} in [500]`\n}"), 500, 500, "", ""},
		"limited":       {with(""), 429, 429, "from a proxy", "9"},
		"misdirected":   {with(""), 421, 421, "from a proxy", "9"},
		"too large":     {with(""), 431, 431, "from a proxy", "9"},
		"no homeserver": {with(""), 405, 502, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			hs := scripted.New()
			site := newSite(t, hs, `
				route {
					matrix_presence {
						identity {
							ttl 1ns
						}
						cache {
							ttl 1ns
							stale_if_error 1h
						}
					}
					`+tc.directives+`
				}
				handle_errors {
					respond "sorry: {err.status_code}"
				}`)
			if resp := ask(site, presenceRequest("GET", "alice-token", "")); resp.StatusCode != 200 {
				t.Fatalf("before: %d", resp.StatusCode)
			}
			hs.AnswerBy(func(w http.ResponseWriter, _ *http.Request) (bool, error) {
				w.Header().Set("Retry-After", "9")
				http.Error(w, "from a proxy", tc.upstream)
				return true, nil
			})
			for range 2 {
				resp := ask(site, presenceRequest("PUT", "alice-token", `{"presence":"online"}`))
				body := strings.TrimSpace(bodyOf(resp))
				if tc.body == "" && tc.status >= 500 {
					tc.body = `{"errcode":"M_UNKNOWN","error":"The homeserver could not be asked whose access token this is"}`
				}
				if resp.StatusCode != tc.status || body != tc.body || resp.Header.Get("Retry-After") != tc.retryAfter {
					t.Errorf("%d %q, Retry-After %q", resp.StatusCode, body, resp.Header.Get("Retry-After"))
				}
			}
			want := ""
			switch {
			case name == "no homeserver":
				want = "the upstream is no Matrix homeserver"
			case tc.status >= 500:
				want = "the homeserver doesn't tell"
			}
			if got := memoryOfSite().Trouble(); !strings.HasPrefix(got, want) || (got == "") != (want == "") {
				t.Errorf("the log says: %s", got)
			}
			// A reader is shown what is stale if the homeserver failed.
			resp := ask(site, presenceRequest("GET", "alice-token", ""))
			stale := strings.Contains(resp.Header.Get("Cache-Status"), "stale")
			if want := strings.HasPrefix(want, "the homeserver") && name != "as success"; stale != want {
				t.Errorf("a reader got %d, Cache-Status %q", resp.StatusCode, resp.Header.Get("Cache-Status"))
			}
		})
	}
}

// A site may pass the homeserver's answers on by other means than reverse_proxy's own: they are the homeserver's
// all the same.
func TestAnswersThatAreHandedOnAreTheHomeservers(t *testing.T) {
	for name, options := range map[string]string{
		"copied":               "@all status 2xx 3xx 4xx 5xx\nhandle_response @all {\ncopy_response\n}",
		"copied if they fail":  "@bad status 4xx 5xx\nhandle_response @bad {\ncopy_response\n}",
		"with some fields":     "@all status 2xx 4xx\nhandle_response @all {\ncopy_response_headers {\ninclude Content-Type\n}\ncopy_response\n}",
		"with the same status": "@all status 2xx 4xx\nhandle_response @all {\ncopy_response {rp.status_code}\n}",
		"by small buffers":     "request_buffers 1\nresponse_buffers 1",
		"at once":              "flush_interval -1",
	} {
		t.Run(name, func(t *testing.T) {
			site := newSite(t, scripted.New(), "route {\nmatrix_presence\nreverse_proxy UPSTREAM {\n"+options+"\n}\n}")
			for _, asked := range []struct {
				method, token, body string
				status              int
				cacheStatus         string
			}{
				{"GET", "bob-token", "", 200, "matrix_presence; fwd=miss; stored"},
				{"GET", "bob-token", "", 200, "matrix_presence; hit"},
				{"GET", "carol-token", "", 403, "matrix_presence; fwd=miss; stored"},
				{"GET", "carol-token", "", 403, "matrix_presence; hit"},
				{"PUT", "nobody", `{"presence":"online"}`, 401, ""},
				{"GET", "nobody", "", 401, ""},
				{"PUT", "alice-token", `{"presence":"online"}`, 200, "matrix_presence; fwd=method"},
			} {
				resp := ask(site, presenceRequest(asked.method, asked.token, asked.body))
				if got := resp.Header.Get("Cache-Status"); resp.StatusCode != asked.status || !strings.HasPrefix(got, asked.cacheStatus) {
					t.Errorf("%s by %s: %d, %q", asked.method, asked.token, resp.StatusCode, got)
				}
			}
			if got := memoryOfSite().Trouble(); got != "" {
				t.Errorf("the log says: %s", got)
			}
		})
	}
}

// A site may answer reads with success where the homeserver would refuse them, to hide who there
// is. That was taken for the homeserver's permission: carol, who may not see alice, read from memory
// what bob had been shown. And what the site says of alice was what all were told.
func TestSuccessOfTheSitePermitsNothing(t *testing.T) {
	const offline = "header Content-Type application/json\nrespond `{\"presence\":\"offline\"}` 200"
	for name, directives := range map[string]string{
		"handle_response": "reverse_proxy UPSTREAM {\n@no status 403\nhandle_response @no {\n" + offline + "\n}\n}",
		"intercept":       "intercept {\n@no status 403\nhandle_response @no {\n" + offline + "\n}\n}\nreverse_proxy UPSTREAM",
		"respond":         "@carol header Authorization *carol*\nroute @carol {\n" + offline + "\n}\nreverse_proxy UPSTREAM",
	} {
		for _, mode := range []string{"enforce", "observe"} {
			t.Run(name+", "+mode, func(t *testing.T) {
				// Its neighbour of the same memory enforces.
				hs := scripted.New()
				site := newSite(t, hs, `
					route /_matrix/* {
						matrix_presence {
							mode `+mode+`
							cache {
								name "`+t.Name()+`"
							}
						}
						`+directives+`
					}`)
				neighbour := newSite(t, hs, "route {\nmatrix_presence {\ncache {\nname \""+t.Name()+"\"\n}\n}\nreverse_proxy UPSTREAM\n}")
				ask(neighbour, request("GET", "http://example.com:9"+statusPath(bob), "carol-token", "")) // who she is is known
				for _, token := range []string{"carol-token", "bob-token", "carol-token", "bob-token", "carol-token"} {
					want := map[string]string{"carol-token": `{"presence":"offline"}`, "bob-token": `{"presence":"online"`}[token]
					if body := bodyOf(ask(site, presenceRequest("GET", token, ""))); !strings.HasPrefix(body, want) {
						t.Errorf("%s got %s", token, body)
					}
				}
				if resp := ask(neighbour, presenceRequest("GET", "carol-token", "")); resp.StatusCode != 403 {
					t.Errorf("at the neighbour's: %d %s", resp.StatusCode, bodyOf(resp))
				}
			})
		}
	}
}

// A site may answer what the module learns from with words of its own: lists of members for a
// landing page, or a login of another service's. The homeserver has said nothing then.
func TestAnswersOfTheSiteTeachNothing(t *testing.T) {
	const list = "/_matrix/client/v3/rooms/!r:example.com/joined_members"
	users := make([]string, 12)
	for i := range users {
		users[i] = fmt.Sprintf("@user%d:example.com", i)
	}
	members := `{"joined":{"` + strings.Join(append(slices.Clone(users), bob, carol), `":{},"`) + `":{}}}`
	site := "header Content-Type application/json\nrespond `" + members + "` 200"
	for name, directives := range map[string]string{
		"respond":         "@list path */joined_members\nroute @list {\n" + site + "\n}\nreverse_proxy UPSTREAM",
		"handle_response": "reverse_proxy UPSTREAM {\n@list {\nstatus 404\n}\nhandle_response @list {\n" + site + "\n}\n}",
		"the homeserver":  "reverse_proxy UPSTREAM",
	} {
		t.Run(name, func(t *testing.T) {
			hs := scripted.New()
			for _, user := range users {
				hs.Hidden[carol+" "+user] = true
			}
			hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
				if !strings.HasSuffix(r.URL.Path, "members") {
					return false, nil
				}
				if name == "handle_response" {
					answer(w, 404, `{"errcode":"M_NOT_FOUND","error":"x"}`)
				} else {
					answer(w, 200, members)
				}
				return true, nil
			})
			front := newSite(t, hs, "route /_matrix/* {\nmatrix_presence {\nhomeserver synapse\nlearn on\n}\n"+directives+"\n}")
			for _, token := range []string{"bob-token", "carol-token"} {
				ask(front, request("GET", "http://example.com:9"+statusPath(bob), token, "")) // who it is is known
				if body := bodyOf(ask(front, request("GET", "http://example.com:9"+list, token, ""))); body != members {
					t.Fatalf("the list is %s", body)
				}
			}
			for _, user := range users {
				ask(front, request("GET", "http://example.com:9"+statusPath(user), "bob-token", ""))
			}
			want := http.StatusForbidden
			if name == "the homeserver" {
				want = http.StatusOK // it has said so, and would refuse it only since
			}
			if resp := ask(front, request("GET", "http://example.com:9"+statusPath(users[0]), "carol-token", "")); resp.StatusCode != want {
				t.Errorf("carol gets %d %s, want %d", resp.StatusCode, bodyOf(resp), want)
			}
		})
	}
}

// What mode observe says of a request is text for whoever reads it. An expression that did got an error,
// and the client a 500.
func TestVerdictsOfModeObserveAreText(t *testing.T) {
	front := newSite(t, scripted.New(), `
		intercept {
			@ok status 200
			handle_response @ok {
				@seen expression `+"`"+`{http.vars.matrix_presence.observed} in ["miss", "hit"]`+"`"+`
				respond @seen "{http.vars.matrix_presence.observed}"
			}
		}
		matrix_presence {
			mode observe
		}
		reverse_proxy UPSTREAM`)
	seen := func(user string) string {
		return bodyOf(ask(front, request("GET", "http://example.com:9"+statusPath(user), "alice-token", "")))
	}
	for seen(alice) != "hit" { // whose the token is is asked for meanwhile
		runtime.Gosched()
	}
	for _, want := range []string{"miss", "hit"} {
		if got := seen(bob); got != want {
			t.Errorf("seen as %q, want %q", got, want)
		}
	}
}

// A cache on the way to the homeserver, such as a handler of the site's or a CDN, answers with what was
// true a while ago. An old state was kept for another ttl, after a write that had been acknowledged,
// and an old whoami let a token that had been logged out read what is in memory.
func TestAnswersOfACacheOnTheWayAreNotKept(t *testing.T) {
	for _, tc := range []struct {
		age string
		old bool
	}{{"40", true}, {"007", true}, {"0", false}} {
		t.Run(tc.age, func(t *testing.T) {
			hs := scripted.New()
			front := newSite(t, hs, "matrix_presence\nreverse_proxy UPSTREAM")
			cached := func(path, body string) {
				hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, path) {
						return false, nil
					}
					w.Header().Set("Age", tc.age)
					answer(w, 200, body)
					return true, nil
				})
			}
			read := func() *http.Response { return ask(front, presenceRequest("GET", "bob-token", "")) }

			cached("/status", `{"presence":"online","status_msg":"of the cache"}`)
			read()
			hs.AnswerBy(nil)
			if got := bodyOf(read()); strings.Contains(got, "of the cache") != !tc.old {
				t.Errorf("the next read gets %s", got)
			}

			cached("/whoami", `{"user_id":"`+bob+`"}`)
			ask(front, request("POST", "http://example.com:9/_matrix/client/v3/logout", "bob-token", ""))
			hs.Mu.Lock()
			delete(hs.Tokens, "bob-token")
			hs.Mu.Unlock()
			if resp := read(); resp.StatusCode == 401 != tc.old {
				t.Errorf("after the logout: %d %s", resp.StatusCode, bodyOf(resp))
			}
		})
	}
}

// A write that the homeserver failed to take isn't one that it has, whatever the site says:
// what repeats it is no repeat.
func TestSuccessOfTheSiteAcknowledgesNothing(t *testing.T) {
	hs := scripted.New()
	site := newSite(t, hs, "matrix_presence {\nrepeat_writes absorb\n}\nreverse_proxy UPSTREAM {\n@down status 5xx\nhandle_response @down {\nrespond `{}` 200\n}\n}")
	hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if r.Method != "PUT" {
			return false, nil
		}
		answer(w, 503, `{}`)
		return true, nil
	})
	write := func() {
		if resp := ask(site, presenceRequest("PUT", "alice-token", `{"presence":"online"}`)); resp.StatusCode != 200 {
			t.Errorf("got %d", resp.StatusCode)
		}
	}
	write()
	hs.AnswerBy(nil)
	write()
	write() // this one is
	if n := hs.Count("PUT"); n != 2 {
		t.Errorf("the homeserver got %d writes, want 2", n)
	}
}

// What the site answered the preflight of some clients with was remembered as the homeserver's.
func TestPreflightsOfTheSiteAreNotLearned(t *testing.T) {
	hs := scripted.New()
	hs.AnswerPreflights(204, scripted.SynapsePreflight...)
	site := newSite(t, hs, `
		matrix_presence {
			preflight local
		}
		@odd remote_ip 203.0.113.1
		route @odd {
			header Access-Control-Allow-Origin *
			header Access-Control-Allow-Methods NONE
			respond 204
		}
		reverse_proxy UPSTREAM`)
	for _, tc := range []struct{ address, cacheStatus string }{
		{"203.0.113.1", "matrix_presence; fwd=miss"}, {"203.0.113.1", "matrix_presence; fwd=miss"},
		{"192.0.2.1", "matrix_presence; fwd=miss; stored"}, {"192.0.2.1", "matrix_presence; hit"},
	} {
		r := scripted.Preflight(browserApp, "GET", "authorization")
		r.URL.Host, r.Host, r.RemoteAddr = "example.com:9", "example.com:9", tc.address+":1"
		resp := ask(site, r)
		if got, _, _ := strings.Cut(resp.Header.Get("Cache-Status"), "; ttl="); resp.StatusCode != 204 || got != tc.cacheStatus {
			t.Errorf("%s: %d, Cache-Status %q", tc.address, resp.StatusCode, resp.Header.Get("Cache-Status"))
		}
	}
}

// A page of the site's that is too large for us was cut off on its way to a writer.
func TestLargeRefusalOfTheSite(t *testing.T) {
	hs := scripted.New()
	site := newSite(t, hs, "matrix_presence\nroute {\nrespond @banned \""+strings.Repeat("x", 100_000)+"\" 403\n@banned remote_ip 203.0.113.1\nreverse_proxy UPSTREAM\n}")
	r := presenceRequest("PUT", "alice-token", `{"presence":"online"}`)
	r.RemoteAddr = "203.0.113.1:1"
	resp := ask(site, r)
	if body := bodyOf(resp); resp.StatusCode != 403 || body != `{"errcode":"M_UNKNOWN","error":"Forbidden"}` {
		t.Errorf("got %d and %d bytes", resp.StatusCode, len(body))
	}
}

// An authentication service behind us judges by cookies. It gets them with our requests, and
// what it says to a client without goes to the client.
func TestAuthenticationServiceBehindUs(t *testing.T) {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Cookie") != "session=alice" {
			w.Header().Set("Location", "https://login.example")
			w.WriteHeader(302)
		}
	}))
	defer service.Close()
	hs := scripted.New()
	site := newSite(t, hs, "matrix_presence\nhandle {\nforward_auth "+strings.TrimPrefix(service.URL, "http://")+" {\nuri /\n}\nreverse_proxy UPSTREAM\n}")
	for _, cookie := range []string{"", "session=alice", ""} {
		r := presenceRequest("PUT", "alice-token", `{"presence":"online"}`)
		want := 302
		if cookie != "" {
			r.Header.Set("Cookie", cookie)
			want = 200
		}
		if resp := ask(site, r); resp.StatusCode != want {
			t.Errorf("with the cookie %q: %d %s, want %d", cookie, resp.StatusCode, bodyOf(resp), want)
		}
	}
	if got := memoryOfSite().Trouble(); got != "" {
		t.Errorf("the log says: %s", got)
	}
}

// abort closes the connection of the client, not only that of our request.
func TestSiteAborts(t *testing.T) {
	hs := scripted.New()
	site := newSite(t, hs, "matrix_presence {\ncache {\nttl 1ns\n}\n}\nroute {\n@banned remote_ip 203.0.113.1\nabort @banned\nreverse_proxy UPSTREAM\n}")
	ask(site, presenceRequest("GET", "alice-token", "")) // who she is is known then
	for _, r := range []*http.Request{
		presenceRequest("PUT", "bob-token", `{"presence":"online"}`), presenceRequest("GET", "bob-token", ""), presenceRequest("GET", "alice-token", ""),
	} {
		r.RemoteAddr = "203.0.113.1:1"
		func() {
			defer func() {
				if reason := recover(); reason != http.ErrAbortHandler {
					t.Errorf("%s: %v", r.Method, reason)
				}
			}()
			resp := ask(site, r)
			t.Errorf("%s got %d", r.Method, resp.StatusCode)
		}()
	}
}

// With header_up Accept-Encoding gzip, which some take for faster, every answer to us came
// packed, and every write was 502.
func TestHomeserverThatIsMadeToCompress(t *testing.T) {
	hs := scripted.New()
	hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if r.Header.Get("Accept-Encoding") != "gzip" || r.Method == "PUT" {
			return false, nil
		}
		plain := httptest.NewRecorder()
		without := r.Clone(r.Context())
		without.Header.Del("Accept-Encoding")
		err := hs.ServeHTTP(plain, without)
		for name, values := range plain.Header() {
			w.Header()[name] = values
		}
		w.Header().Set("Content-Encoding", "gzip")
		w.WriteHeader(plain.Code)
		_, _ = io.WriteString(w, scripted.Zip(plain.Body.String()))
		return true, err
	}
	site := newSite(t, hs, "matrix_presence\nreverse_proxy UPSTREAM {\nheader_up Accept-Encoding gzip\n}")
	if resp := ask(site, presenceRequest("PUT", "alice-token", `{"presence":"online","status_msg":"hi"}`)); resp.StatusCode != 200 {
		t.Errorf("the write got %d %s", resp.StatusCode, bodyOf(resp))
	}
	for _, cacheStatus := range []string{"matrix_presence; fwd=miss", "matrix_presence; hit"} {
		resp := ask(site, presenceRequest("GET", "bob-token", ""))
		if body := bodyOf(resp); body != `{"presence":"online","status_msg":"hi"}` || !strings.HasPrefix(resp.Header.Get("Cache-Status"), cacheStatus) || resp.Header.Get("Content-Encoding") != "" {
			t.Errorf("got %q, %s, %s", body, resp.Header.Get("Cache-Status"), resp.Header.Get("Content-Encoding"))
		}
	}
}

// A site's respond stands after matrix_presence by default, so it doesn't keep a banned
// client from what is in memory. docs/deploy.md tells two ways by which it does.
func TestBansComeFirstInBothWays(t *testing.T) {
	const ban, proxy = "@ban remote_ip 203.0.113.1\nrespond @ban 403\n", "reverse_proxy UPSTREAM\n"
	for name, tc := range map[string]struct {
		global, directives string
		banned             int
	}{
		"by default": {"", ban + "matrix_presence\n" + proxy, 200},
		"route":      {"", "route {\n" + ban + "matrix_presence\n" + proxy + "}", 403},
		"order":      {"order matrix_presence before reverse_proxy", ban + "matrix_presence\n" + proxy, 403},
	} {
		t.Run(name, func(t *testing.T) {
			site := newSiteWith(t, scripted.New(), tc.global, tc.directives)
			for _, cacheStatus := range []string{"matrix_presence; fwd=miss; stored", "matrix_presence; hit"} {
				resp := ask(site, presenceRequest("GET", "bob-token", ""))
				if got := resp.Header.Get("Cache-Status"); !strings.HasPrefix(got, cacheStatus) {
					t.Errorf("Cache-Status %q, want %q", got, cacheStatus)
				}
			}
			r := presenceRequest("GET", "bob-token", "")
			r.RemoteAddr = "203.0.113.1:1"
			if resp := ask(site, r); resp.StatusCode != tc.banned {
				t.Errorf("the banned client got %d, want %d", resp.StatusCode, tc.banned)
			}
		})
	}
}

// In front of handle_path a directive of the site sees other paths than the homeserver, and
// did nothing without a word. Within the block, or with that order, it works.
func TestHandlePathAroundTheProxy(t *testing.T) {
	for name, tc := range map[string]struct {
		global, directives string
		works              bool
	}{
		"site":  {"", "matrix_presence\nhandle_path /matrix/* {\nreverse_proxy UPSTREAM\n}", false},
		"block": {"", "handle_path /matrix/* {\nmatrix_presence\nreverse_proxy UPSTREAM\n}", true},
		"route": {"", "handle_path /matrix/* {\nroute {\nmatrix_presence\nreverse_proxy UPSTREAM\n}\n}", true},
		"order": {"order matrix_presence before reverse_proxy", "handle_path /matrix/* {\nmatrix_presence\nreverse_proxy UPSTREAM\n}", true},
	} {
		t.Run(name, func(t *testing.T) {
			site := newSiteWith(t, scripted.New(), tc.global, tc.directives)
			resp := ask(site, request("GET", "http://example.com:9/matrix"+statusPath(alice), "bob-token", ""))
			if got := resp.Header.Get("Cache-Status"); resp.StatusCode != 200 || (got != "") != tc.works {
				t.Errorf("%d, Cache-Status %q", resp.StatusCode, got)
			}
		})
	}
}

// What a plugin behind us says with a status is the client's, whatever it is.
func TestErrorsOfOtherHandlersKeepTheirStatus(t *testing.T) {
	p := handle(t, new(Handler))
	p.HS.Intercept = func(http.ResponseWriter, *http.Request) (bool, error) {
		return true, caddyhttp.Error(http.StatusTeapot, errors.New("no coffee"))
	}
	p.Want(p.Put("alice-token", alice, `{"presence":"online"}`), 418, "", "")
	p.Want(p.Get("alice-token", alice), 418, "", "")
}

// A 401 of the site's own handlers says nothing about a token. By the syncs, the writes and the
// reads in mode observe that got one, what was known of the token ended; and a HEAD that got one
// was charged to its address as a made-up token is.
func TestSitesOwn401EndsNothingAndChargesNobody(t *testing.T) {
	const unknown = "`{\"errcode\":\"M_UNKNOWN_TOKEN\"}`"
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Ban") != "" {
			w.WriteHeader(401)
		}
	}))
	defer service.Close()
	auth := "forward_auth " + strings.TrimPrefix(service.URL, "http://") + " {\nuri /\n}\n"
	for name, directives := range map[string]string{
		"respond":        "@ban header X-Ban *\nrespond @ban 401\n",
		"error":          "@ban header X-Ban *\nerror @ban 401\n",
		"Matrix respond": "@ban header X-Ban *\nrespond @ban " + unknown + " 401\n",
		"basic_auth":     "@ban header X-Ban *\nbasic_auth @ban {\nx $2a$04$Vm1FvTDKQvsQYVTmKQb1mOoVBrYr8YFFHG1eSkV7tXd3dEQjGzcoK\n}\n",
		"forward_auth":   "@ban header X-Ban *\n" + strings.Replace(auth, "forward_auth", "forward_auth @ban", 1),
	} {
		for _, mode := range []string{"enforce", "observe"} {
			for _, before := range []string{"", auth} { // which asks at a good moment
				t.Run(fmt.Sprintf("%s in %s, asked before: %v", name, mode, before != ""), func(t *testing.T) {
					hs := scripted.New()
					site := newSite(t, hs, "route {\n"+strings.ReplaceAll(before, "uri /", "uri /\nheader_up -X-Ban")+
						"matrix_presence {\nmode "+mode+"\ncache {\nttl 1ns\n}\nidentity {\nttl 1h\nrejected_limit 1/1h burst 2\n}\n"+
						"homeserver synapse\nsync_presence limit\n}\n"+directives+"reverse_proxy UPSTREAM\n}")
					from := func(method, path, token, body string, banned bool) *http.Request {
						r := request(method, "http://example.com:9"+path, token, body)
						r.RemoteAddr = "203.0.113.1:1"
						if banned {
							r.Header.Set("X-Ban", "1")
						}
						return r
					}
					known := func(token string) (asked int) {
						asked = hs.Count("whoami")
						ask(site, from("GET", statusPath(alice), token, "", false))
						if mode == "observe" {
							rest()
						}
						return hs.Count("whoami") - asked
					}
					known("alice-token")
					for i := range 5 {
						for _, r := range []*http.Request{
							from("GET", statusPath(alice), "alice-token", "", true),
							from("HEAD", statusPath(alice), "alice-token", "", true),
							from("GET", "/_matrix/client/v3/sync"+"?set_presence=unavailable", "alice-token", "", true),
							from("PUT", statusPath(alice), "alice-token", `{"presence":"online"}`, true),
							from("GET", statusPath(alice), fmt.Sprint("new-", i), "", true),
							from("HEAD", statusPath(alice), fmt.Sprint("new-", i), "", true),
							from("HEAD", statusPath(alice)+"?user_id=", fmt.Sprint("new-", i), "", true),
							from("PUT", statusPath(alice), fmt.Sprint("new-", i), `{"presence":"online"}`, true),
						} {
							if resp := ask(site, r); resp.StatusCode != 401 {
								t.Fatalf("%s %s: %d", r.Method, r.URL, resp.StatusCode)
							}
						}
					}
					if got := known("alice-token"); got != 0 {
						t.Errorf("what was known of alice's token has ended: %d lookups", got)
					}
					if got := known("carol-token"); got != 1 {
						t.Errorf("a neighbour's new token: %d lookups, want 1", got)
					}
				})
			}
		}
	}
}

// rest waits until the handlers of a test's site have judged all requests in mode observe, for
// which no client waits.
func rest() {
	for countOf("requests_total") != countOf("observed_total") {
		runtime.Gosched()
	}
}

// countOf returns the sum of a metric of a test's site over reads and writes.
func countOf(metric string) (n float64) {
	memoryOfSite().Samples(func(other *gateway.Metric, value float64, labels ...string) {
		if other.Name == metric && (labels[0] == "read" || labels[0] == "write") {
			n += value
		}
	})
	return n
}

// memoryOfSite returns the memory of a test's site.
func memoryOfSite() (found *gateway.Store) {
	eachStore(func(name string, m *pooled) {
		if name == "example.com" {
			found = m.store
		}
	})
	return found
}

// entriesOf returns how many entries a table of a memory has.
func entriesOf(name, table string) (n float64) {
	eachStore(func(other string, m *pooled) {
		m.store.Samples(func(metric *gateway.Metric, value float64, labels ...string) {
			if other == name && metric.Name == "entries" && labels[0] == table {
				n = value
			}
		})
	})
	return n
}

// A site that answers the admin API itself, with JSON, has ended nobody's sessions. Whoever has
// made up a token could have any user be asked about anew.
func TestSitesOwnAnswerRevokesNobody(t *testing.T) {
	hs := scripted.New()
	site := newSite(t, hs, "matrix_presence\nrespond /_synapse/* `{\"ok\":true}` 200\nreverse_proxy UPSTREAM")
	// The one that ends them comes last: then it settles.
	for want, path := range []string{"/_synapse/admin/v1/deactivate/", "/_matrix/client/v3/admin/lock/"} {
		ask(site, presenceRequest("GET", "alice-token", ""))
		before := hs.Count("whoami")
		method := map[int]string{0: "POST", 1: "PUT"}[want]
		if resp := ask(site, request(method, "http://example.com:9"+path+alice, "made-up", "{}")); want == 0 && resp.StatusCode != 200 {
			t.Fatalf("%s: %d", path, resp.StatusCode)
		}
		hs.Mu.Lock()
		hs.Tokens["made-up"] = carol // from now on an admin
		hs.Mu.Unlock()
		ask(site, request(method, "http://example.com:9"+path+alice, "made-up", "{}"))
		ask(site, presenceRequest("GET", "alice-token", ""))
		if got := hs.Count("whoami") - before; got != want {
			t.Errorf("%s: %d lookups, want %d", path, got, want)
		}
		hs.Mu.Lock()
		delete(hs.Tokens, "made-up")
		hs.Mu.Unlock()
	}
}

// In mode observe a 403 of the site's was kept as the homeserver's, which another handler of
// the memory serves.
func TestSitesOwnRefusalIsNotKeptInModeObserve(t *testing.T) {
	for _, status := range []string{"403", "404"} {
		hs := scripted.New()
		site := newSite(t, hs, "matrix_presence {\nmode observe\n}\n@ban remote_ip 203.0.113.1\nrespond @ban `{\"errcode\":\"M_FORBIDDEN\"}` "+status+"\nreverse_proxy UPSTREAM")
		ask(site, presenceRequest("GET", "alice-token", ""))
		rest()
		r := request("GET", "http://example.com:9"+statusPath(bob), "alice-token", "")
		r.RemoteAddr = "203.0.113.1:1"
		ask(site, r)
		rest()
		if refused := entriesOf("example.com", "refusals"); refused != 0 {
			t.Errorf("%s: %v refusals are kept", status, refused)
		}
	}
}

// syncsAs has alice sync with some fields, and fails unless the homeserver gets that as it is.
func syncsAs(t *testing.T, site http.Handler, hs *scripted.Homeserver, query string) {
	t.Helper()
	before := hs.Count("other")
	ask(site, request("GET", "http://example.com:9/_matrix/client/v3/sync?"+query, "alice-token", ""))
	if got := hs.Last().URL.RawQuery; hs.Count("other") != before+1 || got != query {
		t.Errorf("the homeserver got %s, want %s", got, query)
	}
}

const (
	syncingSite = "matrix_presence {\nsync_presence limit\nhomeserver synapse\n}\n"
	syncOnline  = "since=s&timeout=0&set_presence=online"
)

// reverse_proxy answers 499 for a client that leaves. That was taken for a refusal of a write that
// the homeserver may have taken: the next syncs of the device were taken for repeats.
func TestWriteWhoseClientLeavesMayHaveHappened(t *testing.T) {
	hs := scripted.New()
	site := newSite(t, hs, syncingSite+"reverse_proxy UPSTREAM")
	ask(site, presenceRequest("GET", "alice-token", "")) // whose it is becomes known
	syncsAs(t, site, hs, syncOnline)
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	hs.AnswerBy(func(_ http.ResponseWriter, r *http.Request) (bool, error) {
		if r.Method == http.MethodPut {
			leave()
			<-left
		}
		return false, nil
	})
	resp := ask(site, presenceRequest("PUT", "alice-token", `{"presence":"unavailable"}`).WithContext(ctx))
	close(left)
	if resp.StatusCode != 499 {
		t.Errorf("the write: %d", resp.StatusCode)
	}
	syncsAs(t, site, hs, syncOnline)
}

// What the site answers a sync with was taken for the homeserver's word: that it has been told the
// presence.
func TestSyncThatTheSiteAnswersTellsNobody(t *testing.T) {
	for name, directives := range map[string]string{
		"respond":         "@own header X-Own 1\nrespond @own `{}` 200\nreverse_proxy UPSTREAM",
		"handle_response": "reverse_proxy UPSTREAM {\n@own status 503\nhandle_response @own {\nrespond `{}` 200\n}\n}",
	} {
		t.Run(name, func(t *testing.T) {
			hs := scripted.New()
			hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
				if r.Header.Get("X-Own") != "" {
					scripted.Answer(w, 503, `{}`)
				}
				return r.Header.Get("X-Own") != "", nil
			}
			site := newSite(t, hs, syncingSite+directives)
			ask(site, presenceRequest("GET", "alice-token", "")) // whose it is becomes known
			r := request("GET", "http://example.com:9/_matrix/client/v3/sync?"+syncOnline, "alice-token", "")
			r.Header.Set("X-Own", "1")
			if resp := ask(site, r); resp.StatusCode != 200 {
				t.Errorf("the site answers %d", resp.StatusCode)
			}
			syncsAs(t, site, hs, syncOnline)
		})
	}
}
