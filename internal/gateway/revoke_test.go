package gateway

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/scripted"
)

const clientAPI = "/_matrix/client/v3/"

// lookupsOf returns how many questions whose token it is a read costs.
func (p *proxy) lookupsOf(token string) int {
	p.t.Helper()
	before := p.hs.Count("whoami")
	p.Get(token, alice)
	return p.hs.Count("whoami") - before
}

// answers has the homeserver answer a path, after done.
func (hs *homeserver) answers(path string, status int, body string, done func()) {
	hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if r.URL.Path != path {
			return false, nil
		}
		if done != nil {
			done()
		}
		answer(w, status, body)
		return true, nil
	})
}

// Once the deletion of a device waited for the homeserver to tell whose it is, up to
// identity timeout, and so would anything that asks before it forwards.
func TestWhatIsNoPresenceRequestWaitsForNothingOfOurs(t *testing.T) {
	handler := func() *options {
		return &options{SyncPresence: "limit", RepeatWrites: "absorb", OverLimit: "coalesce", Homeserver: "auto", Preflight: "local"}
	}
	for _, tc := range []struct{ method, path, body string }{
		{"POST", clientAPI + "logout", "{}"},
		{"POST", clientAPI + "logout/all", "{}"},
		{"POST", clientAPI + "logout/all?user_id=", "{}"},
		{"DELETE", clientAPI + "devices/D", "{}"},
		{"POST", clientAPI + "delete_devices", "{}"},
		{"POST", clientAPI + "account/password", "{}"},
		{"POST", clientAPI + "account/deactivate", "{}"},
		{"POST", clientAPI + "login", "{}"},
		{"POST", clientAPI + "register", "{}"},
		{"POST", clientAPI + "refresh", `{"refresh_token":"r"}`},
		{"POST", "/_tuwunel/oidc/revoke", "token=alice-token"},
		{"PUT", "/_synapse/admin/v2/users/" + alice, "{}"},
		{"GET", clientAPI + "sync", ""},
		{"POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", "{}"},
		{"GET", "/_matrix/client/r0/events", ""},
		{"PUT", clientAPI + "rooms/!r:x/send/m.room.message/1", "{}"},
		{"PUT", clientAPI + "rooms/!r:x/typing/@a:x", "{}"},
		{"PUT", clientAPI + "profile/" + alice + "/displayname", "{}"},
		{"OPTIONS", statusPath(alice), ""},
		{"OPTIONS", clientAPI + "sync", ""},
		{"GET", clientAPI + "account/whoami?x=1", ""},
		{"GET", "/", ""},
	} {
		for _, mode := range []string{"enforce", "observe"} {
			t.Run(mode+" "+tc.method+" "+tc.path, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := handler()
					h.Mode = mode
					p := newProxy(t, h)
					release := make(chan struct{})
					p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
						path, _, _ := strings.Cut(tc.path, "?")
						if r.URL.Path == path {
							answer(w, 200, "{}")
							return true, nil
						}
						<-release // all requests of ours hang
						return false, nil
					})
					began := time.Now()
					resp := p.Do(request(tc.method, tc.path, "alice-token", tc.body))
					if waited := time.Since(began); resp.StatusCode != 200 || waited > 0 {
						t.Errorf("status %d after %v", resp.StatusCode, waited)
					}
					close(release)
				})
			})
		}
	}
}

// Whose sessions ended may be known before the answer, or only after it: then they are
// forgotten as soon as it is.
func TestSessionsEndWhenTheirUserIsKnownLater(t *testing.T) {
	for _, path := range []string{"logout/all", "delete_devices", "account/password", "account/deactivate"} {
		t.Run(path, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, new(options))
				p.Get("alice-token", alice)
				p.Get("bob-token", alice)
				release := make(chan struct{})
				p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					switch {
					case r.URL.Path == clientAPI+path:
						answer(w, 200, "{}")
						return true, nil
					case r.Header.Get("Authorization") == "Bearer alice-phone":
						<-release
					}
					return false, nil
				})
				p.Want(p.Do(request("POST", clientAPI+path, "alice-phone", "{}")), 200, "{}", "")
				synctest.Wait()
				close(release)
				synctest.Wait()
				if got := p.lookupsOf("alice-token"); got != 1 {
					t.Errorf("%d lookups of alice's other token, want 1", got)
				}
				if got := p.lookupsOf("bob-token"); got != 0 {
					t.Errorf("%d lookups of bob's, want 0", got)
				}
			})
		})
	}
}

// Nor is it too late if the homeserver didn't tell at first.
func TestSessionsEndWhenTheirUserIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, new(options))
		p.Get("alice-token", alice)
		down := true
		p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
			if strings.HasSuffix(r.URL.Path, "/whoami") && down {
				return true, failed(502, errors.New("no connection"))
			}
			if r.Method == http.MethodDelete {
				synctest.Wait()
				down = false
			}
			return false, nil
		})
		p.Want(p.Do(request("DELETE", clientAPI+"devices/D", "alice-phone", "")), 200, "", "")
		synctest.Wait()
		if got := p.lookupsOf("alice-token"); got != 1 {
			t.Errorf("%d lookups of alice's other token, want 1", got)
		}
	})
}

// Who has made up too many tokens before must not keep a neighbour's device from ending:
// whose request has succeeded is asked about all the same.
func TestSessionsEndBehindAnAddressWithoutABudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{Identity: &identifying{RejectedLimit: &rate{Events: 1, Window: time.Hour}}})
		at := func(method, path, token string) *http.Request {
			r := request(method, path, token, "")
			r.RemoteAddr = "192.0.2.7:1"
			return r
		}
		p.Do(at("GET", statusPath(alice), "alice-token"))
		p.WantError(p.Do(at("GET", statusPath(alice), "made-up-1")), 401, unknownToken)
		p.WantError(p.Do(at("GET", statusPath(alice), "made-up-2")), 429, "M_LIMIT_EXCEEDED")
		p.Want(p.Do(at("DELETE", clientAPI+"devices/D", "alice-phone")), 200, "", "")
		synctest.Wait()
		if got := p.lookupsOf("alice-token"); got != 1 {
			t.Errorf("%d lookups of alice's other token, want 1", got)
		}
	})
}

// Once one client with made-up tokens that began logouts and left, 650 times a second, had
// each read of everybody's be looked up anew.
func TestLogoutsOfMadeUpTokensLeaveEverybodyElseAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{Identity: &identifying{RejectedLimit: &rate{Off: true}}})
		release := make(chan struct{})
		p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
			switch {
			case strings.Contains(r.URL.Path, "/logout"), strings.HasPrefix(r.URL.Path, "/_synapse/"):
				return true, nil // no answer at all
			case r.Header.Get("Authorization") == "Bearer alice-token":
				<-release
			}
			return false, nil
		})
		var reads sync.WaitGroup
		flood := func() {
			for i := range 100 {
				token := fmt.Sprint("made-up-", i)
				p.Do(request("POST", clientAPI+"logout", token, ""))
				p.Do(request("POST", clientAPI+"logout/all", token, ""))
				p.Do(request("POST", "/_synapse/admin/v1/deactivate/"+alice, "", ""))
			}
		}
		for range 5 {
			reads.Go(func() { p.Get("alice-token", bob) })
			synctest.Wait()
			flood()
		}
		alices := func() (n int) {
			p.hs.Mu.Lock()
			defer p.hs.Mu.Unlock()
			for _, r := range p.hs.Seen {
				if r.Header.Get("Authorization") == "Bearer alice-token" && strings.HasSuffix(r.URL.Path, "whoami") {
					n++
				}
			}
			return n
		}
		close(release)
		reads.Wait()
		flood()
		for range 10 {
			p.Get("alice-token", bob)
		}
		if got := alices(); got != 1 {
			t.Errorf("%d lookups of alice's token, want 1", got)
		}
	})
}

// What nobody has answered, or not a homeserver, has not happened: in a site that routes
// the admin API nowhere, Caddy says 200 without a word.
func TestAdminRevocationsTakeTheAnswerOfAHomeserver(t *testing.T) {
	says := func(status int, contentType, body string) func(w http.ResponseWriter) error {
		return func(w http.ResponseWriter) error {
			w.Header().Set("Content-Type", contentType)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
			return nil
		}
	}
	yes := says(200, "application/json", "{}")
	const deactivate = "/_synapse/admin/v1/deactivate/"
	for name, tc := range map[string]struct {
		path, token string
		answer      func(w http.ResponseWriter) error
		lookups     int
	}{
		"success":                  {deactivate + alice, "admin", yes, 1},
		"escaped":                  {deactivate + "%40alice%3Aexample.com", "admin", yes, 1},
		"token in the query":       {deactivate + alice + "?access_token=admin", "", yes, 1},
		"JSON of another spelling": {deactivate + alice, "admin", says(200, "application/json; charset=utf-8", "{}"), 1},

		"without a token":    {deactivate + alice, "", yes, 0},
		"no handler":         {deactivate + alice, "admin", func(http.ResponseWriter) error { return nil }, 0},
		"no JSON":            {deactivate + alice, "admin", says(200, "text/plain", "ok"), 0},
		"refused":            {deactivate + alice, "admin", says(403, "application/json", `{"errcode":"M_FORBIDDEN"}`), 0},
		"failed":             {deactivate + alice, "admin", says(500, "application/json", "{}"), 0},
		"client gone":        {deactivate + alice, "admin", func(w http.ResponseWriter) error { w.WriteHeader(499); return nil }, 0},
		"broken off":         {deactivate + alice, "admin", func(http.ResponseWriter) error { return failed(502, io.EOF) }, 0},
		"of somebody else":   {deactivate + bob, "admin", yes, 0},
		"of somebody longer": {deactivate + alice + "x", "admin", yes, 0},
		"raw slashes":        {deactivate + "x/" + alice, "admin", yes, 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, new(options))
			p.Get("alice-token", alice)
			p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
				if !strings.HasPrefix(r.URL.Path, "/_synapse/") {
					return false, nil
				}
				return true, tc.answer(w)
			})
			p.Do(request("POST", tc.path, tc.token, "{}"))
			if got := p.lookupsOf("alice-token"); got != tc.lookups {
				t.Errorf("%d lookups, want %d", got, tc.lookups)
			}
		})
	}
}

// Only what may have reached the homeserver may have ended a token, and only the token that
// the request showed: not its user's others.
func TestRevocationsWithoutAnAnswerConcernTheirTokenOnly(t *testing.T) {
	gone := func(w http.ResponseWriter) error { w.WriteHeader(499); return nil }
	for name, tc := range map[string]struct {
		end   func(w http.ResponseWriter) error
		phone int // lookups of the token that the request showed
	}{
		"client gone":      {gone, 1},
		"broken off":       {func(http.ResponseWriter) error { return failed(502, io.ErrUnexpectedEOF) }, 1},
		"timed out":        {func(http.ResponseWriter) error { return failed(504, errors.New("slow")) }, 1},
		"internal error":   {func(w http.ResponseWriter) error { w.WriteHeader(500); return nil }, 1},
		"no handler":       {func(http.ResponseWriter) error { return nil }, 0},
		"no upstream":      {func(http.ResponseWriter) error { return failed(503, errors.New("no upstreams available")) }, 0},
		"refused by site":  {func(http.ResponseWriter) error { return failed(403, errors.New("banned")) }, 0},
		"refused":          {func(w http.ResponseWriter) error { w.WriteHeader(401); return nil }, 0},
		"an error of ours": {func(http.ResponseWriter) error { return errors.New("a handler's own") }, 0},
	} {
		for _, path := range []string{"logout", "logout/all", "delete_devices", "account/password", "account/deactivate", "refresh"} {
			t.Run(name+" "+path, func(t *testing.T) {
				p := newProxy(t, new(options))
				p.Get("alice-token", alice)
				p.Get("alice-phone", alice)
				p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if r.URL.Path == clientAPI+path {
						return true, tc.end(w)
					}
					return false, nil
				})
				r := request("POST", clientAPI+path, "alice-phone", "{}")
				_ = p.gateway.Serve(scripted.NewDiscard(), prepared(r), p.hs)
				if got := p.lookupsOf("alice-phone"); got != tc.phone {
					t.Errorf("%d lookups of the token, want %d", got, tc.phone)
				}
				if got := p.lookupsOf("alice-token"); got != 0 {
					t.Errorf("%d lookups of alice's other token, want 0", got)
				}
			})
		}
	}
}

// An empty user_id is read differently by homeservers, so it wasn't known whose request it
// is. Once that ended everybody's identity, by any user's successful request.
func TestNobodyEndsEverybodysIdentity(t *testing.T) {
	for _, tc := range []struct{ method, path string }{
		{"POST", "logout/all?user_id="},
		{"DELETE", "devices/X?user_id="},
		{"DELETE", "devices/X?device_id="},
		{"POST", "delete_devices?x;access_token=y"},
		{"POST", "account/password?user_id=a&user_id=b"},
		{"POST", "account/deactivate?access_token=alice-phone"},
		{"POST", "account/password"}, // by mail
	} {
		for _, known := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s %s, known: %v", tc.method, tc.path, known), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newProxy(t, new(options))
					path, _, _ := strings.Cut(tc.path, "?")
					p.hs.answers(clientAPI+path, 200, "{}", nil)
					p.Get("bob-token", alice)
					p.Get("alice-token", alice)
					if known {
						p.Get("alice-phone", alice)
					}
					token := "alice-phone"
					if tc.path == "account/password" {
						token = ""
					}
					p.Want(p.Do(request(tc.method, clientAPI+tc.path, token, "{}")), 200, "{}", "")
					synctest.Wait()
					if got := p.lookupsOf("bob-token"); got != 0 {
						t.Errorf("%d lookups of bob's token, want 0", got)
					}
					if got := p.lookupsOf("alice-token"); known && token != "" && got != 1 {
						t.Errorf("%d lookups of alice's other token, want 1", got)
					}
				})
			})
		}
	}
}

// On Dendrite and tuwunel a login with the ID of a device that is there ends that device's
// token. Once it read on here for up to identity ttl.
func TestLoginEndsTheTokenThatItsDeviceHad(t *testing.T) {
	const body = `{"user_id":"@alice:example.com","access_token":"alice-new","device_id":"D"}`
	for name, write := range map[string]func(w http.ResponseWriter){
		"whole": func(w http.ResponseWriter) { answer(w, 200, body) },
		"in parts": func(w http.ResponseWriter) {
			answer(w, 200, body[:40])
			for _, b := range []byte(body[40:]) {
				_, _ = w.Write([]byte{b})
			}
		},
		"compressed": func(w http.ResponseWriter) {
			w.Header().Set("Content-Encoding", "gzip")
			answer(w, 200, scripted.Zip(body))
		},
		"compressed, by the old name of that": func(w http.ResponseWriter) { // RFC 9110, 8.4.1.3
			w.Header().Set("Content-Encoding", "x-gzip")
			answer(w, 200, scripted.Zip(body))
		},
		"in the specification's spelling": func(w http.ResponseWriter) { answer(w, 200, "\n"+body+"\n") },
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, new(options))
			p.Get("alice-token", alice)
			p.Get("bob-token", alice)
			p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
				if r.URL.Path != clientAPI+"login" {
					return false, nil
				}
				p.hs.Mu.Lock()
				delete(p.hs.Tokens, "alice-token")
				p.hs.Tokens["alice-new"] = alice
				p.hs.Mu.Unlock()
				write(w)
				return true, nil
			})
			resp := p.Do(request("POST", clientAPI+"login", "", `{"type":"m.login.password","device_id":"D"}`))
			if got := bodyOf(resp); name == "whole" && got != body {
				t.Errorf("the client got %s", got)
			}
			p.WantError(p.Get("alice-token", alice), 401, unknownToken)
			p.Want(p.Get("alice-new", alice), 200, "", "")
			if got := p.lookupsOf("bob-token"); got != 0 {
				t.Errorf("%d lookups of bob's token, want 0", got)
			}
		})
	}
}

// Browsers offer brotli and zstd, and a homeserver or a proxy before it that uses one wrote
// what nothing here could read: the token that the device had before read on.
func TestLoginIsAskedForInPlain(t *testing.T) {
	const body = `{"user_id":"@alice:example.com","access_token":"alice-new","device_id":"D"}`
	for mode, want := range map[string]string{"enforce": "", "observe": "gzip, deflate, br, zstd"} {
		t.Run(mode, func(t *testing.T) {
			p := newProxy(t, &options{Mode: mode})
			p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
				if r.URL.Path != clientAPI+"login" {
					return false, nil
				}
				if got := r.Header.Get("Accept-Encoding"); got != want {
					t.Errorf("the homeserver is asked for %q, want %q", got, want)
				}
				answer(w, 200, body)
				return true, nil
			})
			r := request("POST", clientAPI+"login", "", "{}")
			r.Header.Set("Accept-Encoding", "gzip, deflate, br, zstd")
			p.Want(p.Do(r), 200, body, "")
			if got := r.Header.Get("Accept-Encoding"); got != "gzip, deflate, br, zstd" {
				t.Errorf("handlers before us see %q", got)
			}
		})
	}
}

// The client that is told of its new token may use another at once: what ended is
// forgotten before the last byte goes out.
func TestLoginEndsTokensBeforeItsAnswerIsWhole(t *testing.T) {
	p := newProxy(t, new(options))
	p.Get("alice-token", alice)
	p.hs.answers(clientAPI+"login", 200, `{"user_id":"@alice:example.com","access_token":"alice-new"}`, nil)
	told := false
	w := &onWrite{scripted.NewDiscard(), func() {
		told = true
		if userID, _ := p.memory.identities.Lookup(matrix.Credential{Token: "alice-token"}, time.Now(), p.gateway.cfg.Lifetimes); userID != "" {
			t.Error("the old token is still known when the client reads its new one")
		}
	}}
	if err := p.gateway.Serve(w, prepared(request("POST", clientAPI+"login", "", "{}")), p.hs); err != nil || !told {
		t.Errorf("told: %v, error %v", told, err)
	}
}

type onWrite struct {
	*scripted.Discard
	call func()
}

func (w *onWrite) Write(p []byte) (int, error) { w.call(); return len(p), nil }

// A failed login ends nothing, whatever it says.
func TestFailedLoginEndsNothing(t *testing.T) {
	for name, status := range map[string]int{"refused": 403, "failed": 500} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, new(options))
			p.Get("alice-token", alice)
			p.hs.answers(clientAPI+"login", status, `{"user_id":"@alice:example.com","errcode":"M_FORBIDDEN"}`, nil)
			p.Do(request("POST", clientAPI+"login", "", "{}"))
			if got := p.lookupsOf("alice-token"); got != 0 {
				t.Errorf("%d lookups, want 0", got)
			}
		})
	}
}

// On tuwunel the access token ends when its refresh token is used, or when anybody names it
// to the authentication service, and so it does here.
func TestRefreshAndRevocationByName(t *testing.T) {
	const refreshed = `{"access_token":"alice-new","refresh_token":"r2"}`
	login := func(p *proxy) { // by which refresh tokens become known
		p.hs.answers(clientAPI+"login", 200, `{"user_id":"@alice:example.com","access_token":"alice-token","refresh_token":"r1"}`, nil)
		p.Do(request("POST", clientAPI+"login", "", "{}"))
	}
	register := func(p *proxy) {
		p.hs.answers(clientAPI+"register", 200, `{"user_id":"@alice:example.com","access_token":"alice-token","refresh_token":"r1"}`, nil)
		p.Do(request("POST", clientAPI+"register", "", "{}"))
	}
	refresh := func(p *proxy) { // once more
		p.hs.answers(clientAPI+"refresh", 200, `{"access_token":"alice-token","refresh_token":"r1"}`, nil)
		p.Do(request("POST", clientAPI+"refresh", "", `{"refresh_token":"r0"}`))
	}
	for name, tc := range map[string]struct {
		before            func(p *proxy)
		path, token, body string
		status, lookups   int
	}{
		"the old token shown":                          {nil, clientAPI + "refresh", "alice-token", `{"refresh_token":"?"}`, 200, 1},
		"the old token in the query":                   {nil, clientAPI + "refresh?access_token=alice-token", "", `{"refresh_token":"?"}`, 200, 1},
		"in another version":                           {nil, "/_matrix/client/v1/refresh", "alice-token", `{"refresh_token":"?"}`, 200, 1},
		"issued by a login":                            {login, clientAPI + "refresh", "", `{"refresh_token":"r1"}`, 200, 1},
		"issued by a registration":                     {register, clientAPI + "refresh", "", `{"refresh_token":"r1"}`, 200, 1},
		"issued by a refresh":                          {refresh, clientAPI + "refresh", "", `{"refresh_token":"r1"}`, 200, 1},
		"at the authentication service":                {login, "/_tuwunel/oidc/token", "", "grant_type=refresh_token&refresh_token=r1", 200, 1},
		"another refresh token":                        {login, clientAPI + "refresh", "", `{"refresh_token":"r2"}`, 200, 0},
		"another's":                                    {login, clientAPI + "refresh", "bob-token", `{"refresh_token":"r2"}`, 200, 0},
		"refused":                                      {login, clientAPI + "refresh", "alice-token", `{"refresh_token":"r1"}`, 401, 0},
		"no JSON":                                      {login, clientAPI + "refresh", "", `{"refresh_token"`, 200, 0},
		"revoked by name":                              {nil, "/_tuwunel/oidc/revoke", "", "token=alice-token", 200, 1},
		"revoked by name, escaped":                     {nil, "/_tuwunel/oidc/revoke", "", "token_type_hint=access_token&token=alice%2Dtoken", 200, 1},
		"revoked by name, twice":                       {nil, "/oauth2/revoke", "", "token=x&token=alice-token", 200, 1},
		"revoked by name in JSON, twice":               {nil, "/oauth2/revoke", "", `{"token":1,"token":"x","tok\u0065n":"alice-token"}`, 200, 1},
		"revoked by its refresh token":                 {login, "/_tuwunel/oidc/revoke", "", "token=r1", 200, 1},
		"another revoked by name":                      {nil, "/_tuwunel/oidc/revoke", "alice-token", "token=bob-token", 200, 0},
		"revoked by name where there is no such route": {nil, "/_tuwunel/oidc/revoke", "", "token=alice-token", 404, 0},
		"a large body":                                 {nil, "/_tuwunel/oidc/revoke", "", "x=" + strings.Repeat("x", maxNamedBody-20) + "&token=alice-token", 200, 1},
		"too large a body":                             {nil, "/_tuwunel/oidc/revoke", "", "x=" + strings.Repeat("x", maxNamedBody) + "&token=alice-token", 200, 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, new(options))
			p.Get("alice-phone", alice)
			if tc.before != nil {
				tc.before(p)
			}
			p.Get("alice-token", alice)
			var got string
			p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
				if path, _, _ := strings.Cut(tc.path, "?"); r.URL.Path != path {
					return false, nil
				}
				sent, _ := io.ReadAll(r.Body)
				got = string(sent)
				answer(w, tc.status, refreshed)
				return true, nil
			})
			p.Want(p.Do(request("POST", tc.path, tc.token, tc.body)), tc.status, refreshed, "")
			if got != tc.body {
				t.Errorf("the homeserver got %.60q", got)
			}
			if got := p.lookupsOf("alice-token"); got != tc.lookups {
				t.Errorf("%d lookups of alice's token, want %d", got, tc.lookups)
			}
			if got := p.lookupsOf("alice-phone"); got > 1 || got == 1 && tc.before == nil {
				t.Errorf("%d lookups of her phone", got)
			}
		})
	}
}

// A homeserver may give no new refresh token out, or take one that was used once more (tuwunel,
// for who has sent it twice). What was given out by the use before ends all the same: once only
// the first access token of a refresh token did.
func TestRefreshTokenIsUsedAgain(t *testing.T) {
	for name, refreshes := range map[string][2]string{
		"it stays good":       {`{"access_token":"alice-1"}`, `{"access_token":"alice-2"}`},
		"it was sent twice":   {`{"access_token":"alice-1","refresh_token":"r1"}`, `{"access_token":"alice-2","refresh_token":"r1"}`},
		"it is given out too": {`{"access_token":"alice-1","refresh_token":"r0"}`, `{"access_token":"alice-2","refresh_token":"r0"}`},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, new(options))
			p.hs.answers(clientAPI+"login", 200, `{"user_id":"@alice:example.com","access_token":"alice-0","refresh_token":"r0"}`, nil)
			p.Do(request("POST", clientAPI+"login", "", "{}"))
			for i, refreshed := range refreshes {
				old, fresh := fmt.Sprint("alice-", i), fmt.Sprint("alice-", i+1)
				p.hs.Mu.Lock()
				p.hs.Tokens[old] = alice
				p.hs.Mu.Unlock()
				p.Want(p.Get(old, bob), 200, "", "")
				p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if r.URL.Path != clientAPI+"refresh" {
						return false, nil
					}
					_, _ = io.Copy(io.Discard, r.Body)
					p.hs.Mu.Lock()
					delete(p.hs.Tokens, old)
					p.hs.Tokens[fresh] = alice
					p.hs.Mu.Unlock()
					answer(w, 200, refreshed)
					return true, nil
				})
				p.Want(p.Do(request("POST", clientAPI+"refresh", "", `{"refresh_token":"r0"}`)), 200, refreshed, "")
				p.WantError(p.Get(old, bob), 401, unknownToken)
				p.Want(p.Get(fresh, bob), 200, "", "")
			}
		})
	}
}

// A proxy, or a client, that got no answer asks again, and is told that there is no such token:
// the first try has ended it. Once the token went on reading here.
func TestLogoutThatIsSentTwice(t *testing.T) {
	const unknown = `{"errcode":"M_UNKNOWN_TOKEN","error":"?"}`
	for name, tc := range map[string]struct {
		path, coding, body string
		phone, token       int // lookups of the token that was shown, and of another of its user's
	}{
		"logout":                    {"logout", "", unknown, 1, 1}, // a device may have several tokens
		"of all":                    {"logout/all", "", unknown, 1, 1},
		"deletion":                  {"delete_devices", "", unknown, 1, 1},
		"uncertain":                 {"logout?user_id=", "", unknown, 1, 0},
		"what can't be read":        {"logout", "br", unknown, 1, 0},
		"a question for a password": {"delete_devices", "", `{"session":"s","flows":[{"stages":["m.login.password"]}]}`, 0, 0},
		"a locked account":          {"logout", "", lockedBody, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, new(options))
				for _, token := range []string{"alice-token", "alice-phone", "bob-token"} {
					p.Get(token, alice)
				}
				path, _, _ := strings.Cut(tc.path, "?")
				p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if r.URL.Path != clientAPI+path {
						return false, nil
					}
					if tc.phone > 0 {
						p.hs.Mu.Lock()
						delete(p.hs.Tokens, "alice-phone")
						p.hs.Mu.Unlock()
					}
					if tc.coding != "" {
						w.Header().Set("Content-Encoding", tc.coding)
					}
					answer(w, 401, tc.body)
					return true, nil
				})
				p.Do(request("POST", clientAPI+tc.path, "alice-phone", "{}"))
				if phone, token := p.lookupsOf("alice-phone"), p.lookupsOf("alice-token"); phone != tc.phone || token != tc.token {
					t.Errorf("%d lookups of what was shown and %d of alice's other token, want %d and %d", phone, token, tc.phone, tc.token)
				}
				time.Sleep(2 * time.Second) // the other token may have ended, which settles
				p.Get("alice-token", alice)
				// Who shows again and again what has ended ends no more by it.
				p.Do(request("POST", clientAPI+tc.path, "alice-phone", "{}"))
				for _, token := range []string{"alice-token", "bob-token"} {
					if got := p.lookupsOf(token); got != 0 {
						t.Errorf("%d lookups of %s, want 0", got, token)
					}
				}
			})
		})
	}
}

// A refresh by a refresh token that the homeserver doesn't know says nothing of the access token that came along, as
// some clients send one. It was taken for ended all the same: what waited of its user, and had been answered 200, was lost.
// But the refresh may have been sent twice, and have ended what was given out with its token at first.
func TestRefusedRefreshEndsNoOtherToken(t *testing.T) {
	p := newProxy(t, &options{OverLimit: "coalesce", WriteLimit: &rate{Events: 1, Window: time.Minute, Burst: 1}})
	p.hs.answers(clientAPI+"login", 200, `{"user_id":"@alice:example.com","access_token":"alice-phone","refresh_token":"r1"}`, nil)
	p.Do(request("POST", clientAPI+"login", "", "{}"))
	p.hs.AnswerBy(func(http.ResponseWriter, *http.Request) (bool, error) { return false, nil })
	p.Get("alice-phone", bob)
	p.Want(p.Put("alice-token", alice, `{"presence":"online"}`), 200, "{}", "")
	p.Want(p.Put("alice-token", alice, `{"presence":"unavailable"}`), 200, "{}", "")
	waiting := func() int { n, _ := p.memory.pendings.Waits(alice); return n }
	if waiting() != 1 {
		t.Fatal("the second write doesn't wait")
	}
	p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if r.URL.Path != clientAPI+"refresh" {
			return false, nil
		}
		_, _ = io.Copy(io.Discard, r.Body)
		answer(w, 401, `{"errcode":"M_UNKNOWN_TOKEN","error":"no such refresh token"}`)
		return true, nil
	})
	p.Do(request("POST", clientAPI+"refresh", "alice-token", `{"refresh_token":"r0"}`))
	if waiting() != 1 {
		t.Error("the write that waited is gone")
	}
	if got := p.lookupsOf("alice-phone"); got != 0 {
		t.Errorf("%d lookups of her other token", got)
	}
	p.Do(request("POST", clientAPI+"refresh", "", `{"refresh_token":"r1"}`))
	if got := p.lookupsOf("alice-phone"); got != 1 {
		t.Errorf("%d lookups of what was given out with the token that was used, want 1", got)
	}
}

// On Synapse a device has several tokens if its ID was used for several logins, and a logout by any of
// them ends all. One of which only the answer tells that gave it out, or that the homeserver is to be asked
// about again, ended itself only, and the others read on for up to identity ttl.
func TestLogoutEndsTheOtherTokensOfItsDevice(t *testing.T) {
	for name, before := range map[string]func(p *proxy){
		"it has read": func(p *proxy) { p.Get("alice-token", bob) },
		"a login told whose it is": func(p *proxy) {
			p.hs.answers(clientAPI+"login", 200, `{"user_id":"@alice:example.com","access_token":"alice-token"}`, nil)
			p.Do(request("POST", clientAPI+"login", "", "{}"))
		},
		"its client has asked whose it is": func(p *proxy) { p.Do(request("GET", clientAPI+"account/whoami", "alice-token", "")) },
		"it was refreshed": func(p *proxy) {
			p.Get("alice-token", bob)
			p.hs.answers(clientAPI+"refresh", 200, `{"access_token":"alice-new","refresh_token":"r2"}`, nil)
			p.Do(request("POST", clientAPI+"refresh", "alice-token", `{"refresh_token":"r1"}`))
		},
		"it is in doubt": func(p *proxy) {
			p.Get("alice-token", bob)
			p.hs.answers(clientAPI+"logout", 499, "", nil)
			p.Do(request("POST", clientAPI+"logout", "alice-token", "{}"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newNodes(t, 2, new(options), ClusterRules{})
				p, other := c.all[0], c.all[1]
				before(p)
				time.Sleep(time.Second) // the other node is told of what came before
				for _, node := range c.all {
					node.Get("alice-phone", bob)
					node.Get("bob-token", bob)
				}
				p.hs.answers(clientAPI+"logout", 200, "{}", func() {
					p.hs.Mu.Lock()
					defer p.hs.Mu.Unlock()
					delete(p.hs.Tokens, "alice-token")
					delete(p.hs.Tokens, "alice-phone")
				})
				p.Want(p.Do(request("POST", clientAPI+"logout", "alice-token", "{}")), 200, "{}", "")
				synctest.Wait()
				for where, node := range map[string]*proxy{"here": p, "at the other node": other} {
					if resp := node.Get("alice-phone", bob); resp.StatusCode != 401 {
						t.Errorf("%s the device's other token reads on: %d", where, resp.StatusCode)
					}
					if got := node.lookupsOf("bob-token"); got != 0 {
						t.Errorf("%s %d lookups of bob's token, want 0", where, got)
					}
				}
			})
		})
	}
}

// A login voids what is remembered of its user, and nothing of the new token is but that: who
// logged all others out then may have been asked about when it was too late.
func TestSessionsEndOfWhoseTokenOnlyALoginTold(t *testing.T) {
	for _, tc := range []struct{ path, token string }{
		{"logout/all", "alice-new"}, {"delete_devices", "alice-new"},
		{"logout/all", "alice-token"}, {"account/deactivate", "alice-token"},
	} {
		t.Run(tc.path+" "+tc.token, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, new(options))
				p.Get("alice-token", alice)
				p.hs.answers(clientAPI+"login", 200, `{"user_id":"@alice:example.com","access_token":"alice-new"}`, nil)
				p.Do(request("POST", clientAPI+"login", "", "{}"))
				p.Get("alice-phone", alice)
				p.Get("bob-token", alice)
				p.hs.answers(clientAPI+tc.path, 200, "{}", func() {
					p.hs.Mu.Lock()
					defer p.hs.Mu.Unlock()
					delete(p.hs.Tokens, tc.token)
				})
				before := p.hs.Count("whoami")
				p.Do(request("POST", clientAPI+tc.path, tc.token, "{}"))
				synctest.Wait()
				if got := p.hs.Count("whoami") - before; got != 0 {
					t.Errorf("it was asked %d times whose it is", got)
				}
				if got := p.lookupsOf("alice-phone"); got != 1 {
					t.Errorf("%d lookups of alice's other token, want 1", got)
				}
				if got := p.lookupsOf("bob-token"); got != 0 {
					t.Errorf("%d lookups of bob's, want 0", got)
				}
			})
		})
	}
}

// Whoever had a token of hers, that ended elsewhere, had alice's presence be fetched by each
// reader for as long as they went on to show it: it might be changed by them.
func TestATokenThatHasEndedPutsNothingInDoubt(t *testing.T) {
	for name, tc := range map[string]struct{ method, path, body string }{
		"a message":                {"PUT", clientAPI + "rooms/!r:x/send/m.room.message/1", "{}"},
		"an uncertain message":     {"PUT", clientAPI + "rooms/!r:x/send/m.room.message/1?user_id=", "{}"},
		"a sync":                   {"GET", syncPath, ""},
		"an uncertain sync":        {"GET", syncPath + "?user_id=", ""},
		"a sync of another mind":   {"GET", syncPath + "?set_presence=unavailable", ""},
		"a sync that says no word": {"GET", syncPath + "?set_presence=%zz", ""},
		"a write":                  {"PUT", statusPath(alice), online},
	} {
		for _, handler := range []*options{
			{SyncPresence: "limit", RepeatWrites: "absorb", Homeserver: "synapse"},
			{SyncPresence: "limit", RepeatWrites: "absorb", Homeserver: "tuwunel"},
			{SyncPresence: "pass", RepeatWrites: "absorb"},
		} {
			t.Run(fmt.Sprint(name, ", ", handler.SyncPresence, " ", handler.Homeserver), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newProxy(t, handler)
					p.knows("alice-phone")
					p.hs.Mu.Lock()
					delete(p.hs.Tokens, "alice-phone")
					p.hs.Mu.Unlock()
					for range 2 {
						p.Do(request(tc.method, tc.path, "alice-phone", tc.body))
						synctest.Wait()
						time.Sleep(3 * time.Second) // until all has settled
					}
					p.Get("bob-token", alice)
					p.Do(request(tc.method, tc.path, "alice-phone", tc.body))
					synctest.Wait()
					p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; hit")
				})
			})
		}
	}
}

// No other token is asked about anew when one ends, and whoever comes after that has what
// was asked before it no longer.
func TestLookupsAreSharedPastAnothersRevocationButNotPastTheirOwn(t *testing.T) {
	for name, tc := range map[string]struct {
		token   string // that is logged out meanwhile
		lookups int
	}{
		"another's": {"bob-token", 1},
		"its own":   {"alice-token", 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, new(options))
				p.Get("bob-token", alice)
				before := p.hs.Count("whoami")
				first := true
				release := make(chan struct{})
				p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if strings.HasSuffix(r.URL.Path, "/whoami") && first {
						first = false
						answer(w, 200, `{"user_id":"@alice:example.com"}`)
						<-release // on its way
						return true, nil
					}
					return false, nil
				})
				var reads sync.WaitGroup
				reads.Go(func() { p.Get("alice-token", alice) })
				synctest.Wait()
				p.Want(p.Do(request("POST", clientAPI+"logout", tc.token, "")), 200, "", "")
				reads.Go(func() {
					want := 200
					if tc.token == "alice-token" {
						want = 401
					}
					if resp := p.Get("alice-token", bob); resp.StatusCode != want {
						t.Errorf("who came after the logout got %d, want %d", resp.StatusCode, want)
					}
				})
				synctest.Wait()
				close(release)
				reads.Wait()
				if got := p.hs.Count("whoami") - before; got != tc.lookups {
					t.Errorf("%d lookups, want %d", got, tc.lookups)
				}
			})
		})
	}
}

// Of requests that nobody has an account for, only a little is kept while they are under way:
// what is too large to be looked at is let go at once.
func TestBodiesOfRevocationsAreBounded(t *testing.T) {
	for _, sent := range []int{100, maxNamedBody, maxNamedBody + 1, 1 << 20} {
		r := request("POST", clientAPI+"refresh", "", strings.Repeat("x", sent))
		namedTokens(r, "refresh_token")
		body := r.Body.(*copied)
		if n, err := io.Copy(io.Discard, body); n != int64(sent) || err != nil {
			t.Fatalf("%d of %d bytes passed, %v", n, sent, err)
		}
		if kept := body.kept.Cap(); kept > 4*maxNamedBody || sent > maxNamedBody && kept > 0 {
			t.Errorf("of %d bytes %d are kept", sent, kept)
		}
	}
}

// Whoever registers, on a server that is open to all, ends nobody's session, and has nobody be
// asked about anew, however many they register. Logins of many others cost one lookup at most.
func TestRegistrationsVoidNobody(t *testing.T) {
	for path, want := range map[string]int{"register": 0, "login": 1} {
		t.Run(path, func(t *testing.T) {
			p := newProxy(t, &options{Identity: &identifying{Tokens: 160}})
			p.Get("alice-token", alice)
			n := 0
			p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
				if r.URL.Path != clientAPI+path {
					return false, nil
				}
				n++
				answer(w, 200, fmt.Sprintf(`{"user_id":"@new%d:example.com","access_token":"new-%d","refresh_token":"r-%d"}`, n, n, n))
				return true, nil
			})
			flood := func() {
				for range 1000 {
					p.Do(request("POST", clientAPI+path, "", "{}"))
				}
			}
			flood()
			for range 3 {
				if got := p.lookupsOf("alice-token"); got > want {
					t.Errorf("%d lookups, want %d at most", got, want)
				}
			}
			// Who reads meanwhile isn't touched by what was before.
			before := p.hs.Count("whoami")
			for range 100 {
				p.Do(request("POST", clientAPI+path, "", "{}"))
				p.Get("alice-token", alice)
			}
			if got := p.hs.Count("whoami") - before; got > 0 {
				t.Errorf("%d lookups of who reads meanwhile, want 0", got)
			}
		})
	}
}

// Whoever still has a token that has ended, and uses it, changes nothing for the one whose it was: each logout with it had the
// answers about that one's other tokens not be remembered for a while.
func TestTokenThatHasEndedEndsNothingMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{})
		p.hs.answers(clientAPI+"login", 200, `{"user_id":"@alice:example.com","access_token":"alice-new","device_id":"D"}`, nil)
		p.Do(request("POST", clientAPI+"login", "", `{"type":"m.login.password"}`))
		time.Sleep(2 * time.Second) // what the login may have ended has settled
		logout := func(status int, body string) {
			p.hs.answers(clientAPI+"logout", status, body, nil)
			p.Do(request("POST", clientAPI+"logout", "alice-new", ""))
		}
		logout(200, "{}")
		time.Sleep(2 * time.Second)
		logout(401, `{"errcode":"M_UNKNOWN_TOKEN","error":"No"}`)
		p.lookupsOf("alice-token")
		if got := p.lookupsOf("alice-token"); got > 0 {
			t.Errorf("%d lookups, want 0", got)
		}
	})
}
