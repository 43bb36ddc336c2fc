package caddymodule

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

func TestUnknownTokenIsAnsweredAsTheHomeserverDidAndRememberedBriefly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, new(Handler))
		const body = `{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed.","soft_logout":false}`
		for range 3 {
			p.want(p.get("no-such-token", Alice), 401, body, "")
			p.want(p.put("no-such-token", Alice, `{"presence":"online"}`), 401, body, "")
		}
		p.wantCounts(map[string]int{"whoami": 1, "GET": 0, "PUT": 0})
		time.Sleep(defaultRejectedTTL)
		p.hs.Tokens["no-such-token"] = Alice
		p.want(p.put("no-such-token", Alice, `{"presence":"online"}`), 200, `{}`, "")
	})
}

func TestIdentityIsAskedAgainAfterItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &Handler{Identity: &Identity{TTL: caddy.Duration(time.Minute)}})
		p.get("bob-token", Alice)
		time.Sleep(time.Minute - time.Nanosecond)
		p.get("bob-token", Alice)
		p.wantCounts(map[string]int{"whoami": 1})
		time.Sleep(time.Nanosecond)
		p.get("bob-token", Alice)
		p.wantCounts(map[string]int{"whoami": 2})
	})
}

func TestWhoAmIGoesAsTheClient(t *testing.T) {
	p := newProxy(t, new(Handler))
	var sent *http.Request
	p.hs.Intercept = func(_ http.ResponseWriter, r *http.Request) (bool, error) {
		if strings.HasSuffix(r.URL.Path, "/whoami") {
			sent = r
		}
		return false, nil
	}
	r := request("PUT", statusPath(Alice)+"?access_token=alice-token", "", `{"presence":"online"}`)
	r.RemoteAddr = "[2001:db8::7]:4711"
	r.Host = "matrix.example.com"
	r.Header.Set("User-Agent", "Element/1.0")
	r.Header.Set("X-Forwarded-For", "192.0.2.1")
	r.Header.Set("Content-Type", "application/json")
	p.want(p.do(r), 200, `{}`, "")
	if got := sent.URL.RequestURI(); got != "/_matrix/client/v3/account/whoami" {
		t.Errorf("whoami went to %s", got)
	}
	for name, want := range map[string]string{
		"Authorization": "Bearer alice-token", "User-Agent": "Element/1.0", "X-Forwarded-For": "192.0.2.1", "Content-Type": "",
	} {
		if got := sent.Header.Get(name); got != want {
			t.Errorf("whoami has %s: %q, want %q", name, got, want)
		}
	}
	if sent.RemoteAddr != r.RemoteAddr || sent.Host != r.Host || sent.Method != "GET" || sent.ContentLength != 0 {
		t.Errorf("whoami went as %s from %s to %s with %d bytes", sent.Method, sent.RemoteAddr, sent.Host, sent.ContentLength)
	}
}

func TestAppserviceActsAsItsUsers(t *testing.T) {
	p := newProxy(t, new(Handler))
	p.hs.Tokens["as-token"] = "@bridge:example.com"
	ghost := "@ghost_1:example.com"
	for _, tc := range []struct {
		user, target string
		status       int
	}{
		{ghost, ghost, 200},
		{"@ghost_2:example.com", ghost, 403},
		{"", ghost, 403},
		{"", "@bridge:example.com", 200},
		{ghost, "@bridge:example.com", 403},
	} {
		target := statusPath(tc.target)
		if tc.user != "" {
			target += "?user_id=" + tc.user
		}
		if resp := p.do(request("PUT", target, "as-token", `{"presence":"online"}`)); resp.StatusCode != tc.status {
			t.Errorf("as %q on %s: %d, want %d", tc.user, tc.target, resp.StatusCode, tc.status)
		}
	}
	p.want(p.do(request("PUT", statusPath(ghost)+"?user_id=@ghost_1:example.com&org.matrix.msc3202.device_id=D", "as-token", `{"presence":"online"}`)), 200, `{}`, "")
}

// Dendrite answers 401 M_UNKNOWN_TOKEN if it doesn't know the user_id. That is not
// about the token.
func TestUnknownUserDoesNotCostAnAppserviceItsToken(t *testing.T) {
	p := newProxy(t, new(Handler))
	p.hs.Tokens["as-token"] = "@bridge:example.com"
	p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if r.URL.Query().Get("user_id") != "@someone:elsewhere.example" {
			return false, nil
		}
		answer(w, 401, `{"errcode":"M_UNKNOWN_TOKEN","error":"Unknown token"}`)
		return true, nil
	}
	p.want(p.get("as-token", Alice), 200, "", "")
	p.wantError(p.do(request("GET", statusPath(Alice)+"?user_id=@someone:elsewhere.example", "as-token", "")), 401, "M_UNKNOWN_TOKEN")
	p.want(p.get("as-token", Alice), 200, "", "matrix_presence; hit")
	p.wantCounts(map[string]int{"whoami": 2})
}

func TestMadeUpUserIDsOfAnOrdinaryTokenCostOneLookup(t *testing.T) {
	p := newProxy(t, new(Handler))
	for i := range 100 {
		target := fmt.Sprintf("%s?user_id=@x%d:example.com&device_id=%d", statusPath(Alice), i, i)
		p.want(p.do(request("GET", target, "bob-token", "")), 200, "", "")
	}
	p.wantCounts(map[string]int{"whoami": 1, "GET": 1})
}

func TestConcurrentLookupsOfATokenAreOneAndTheirNumberIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, new(Handler))
		release := make(chan struct{})
		p.hs.Intercept = func(http.ResponseWriter, *http.Request) (bool, error) {
			<-release
			return false, nil
		}
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() { p.do(from(fmt.Sprintf("192.0.2.%d", i/2%20), fmt.Sprintf("token-%d", i/2))) })
		}
		synctest.Wait()
		p.wantCounts(map[string]int{"whoami": maxWhoAmIs})
		close(release)
		wg.Wait()
		p.wantCounts(map[string]int{"whoami": 500, "GET": 0})
	})
}

func TestUpstreamThatIsNoHomeserverIsLoggedOnce(t *testing.T) {
	p := newProxy(t, new(Handler))
	logger, logs := testkit.NewLogs(slog.LevelInfo)
	p.handler.gateway.logger = logger
	p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
		http.NotFound(w, r)
		return true, nil
	}
	for range 5 {
		p.wantError(p.put("alice-token", Alice, `{"presence":"online"}`), 502, "M_UNKNOWN")
		p.want(p.get("alice-token", Alice), 404, "", "matrix_presence; fwd=bypass")
	}
	if got := logs.Count("check the address"); got != 1 {
		t.Errorf("logged %d times: %v", got, logs.All())
	}
	p.hs.Intercept = nil
	p.want(p.put("alice-token", Alice, `{"presence":"online"}`), 200, `{}`, "")
	if len(logs.All()) != 1 {
		t.Errorf("a change within the same minute was logged: %v", logs.All())
	}
	for _, entry := range logs.All() {
		if line := fmt.Sprint(entry.Message, entry.Fields); strings.Contains(line, "alice-token") {
			t.Errorf("a token was logged: %s", line)
		}
	}
}

func TestRevocations(t *testing.T) {
	for name, tc := range map[string]struct {
		method, path, token string
		phone               bool // alice's phone was known before
		lookups             int  // of alice's other token, afterwards
	}{
		"logout of a known token":    {"POST", "/_matrix/client/v3/logout", "alice-phone", true, 1},
		"logout of an unknown token": {"POST", "/_matrix/client/v3/logout", "alice-phone", false, 0},
		"logout/all":                 {"POST", "/_matrix/client/r0/logout/all", "alice-phone", false, 1},
		"device":                     {"DELETE", "/_matrix/client/v3/devices/X", "alice-phone", false, 1},
		"devices":                    {"POST", "/_matrix/client/v3/delete_devices", "alice-phone", true, 1},
		"password":                   {"POST", "/_matrix/client/v3/account/password", "alice-phone", false, 1},
		"password by mail":           {"POST", "/_matrix/client/v3/account/password", "", false, 0},
		"deactivation":               {"POST", "/_matrix/client/v3/account/deactivate", "alice-token", false, 1},
		"admin":                      {"POST", "/_synapse/admin/v1/deactivate/@alice:example.com", "bob-token", false, 1},
		"of somebody else":           {"POST", "/_matrix/client/v3/logout/all", "bob-token", true, 0},
		"admin, of somebody else":    {"PUT", "/_synapse/admin/v2/users/@bob:example.com", "bob-token", false, 0},
		"with an unknown token":      {"POST", "/_matrix/client/v3/logout/all", "no-such-token", false, 0},
		"reading devices":            {"GET", "/_matrix/client/v3/devices/X", "alice-phone", true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, new(Handler))
				p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if r.URL.Path == tc.path {
						answer(w, 200, `{}`)
						return true, nil
					}
					return false, nil
				}
				p.get("alice-token", Alice)
				if tc.phone {
					p.get("alice-phone", Alice)
				}
				p.want(p.do(request(tc.method, tc.path, tc.token, `{}`)), 200, `{}`, "")
				synctest.Wait() // for who it was, if that had to be asked
				before := p.hs.Count("whoami")
				p.get("alice-token", Alice)
				if got := p.hs.Count("whoami") - before; got != tc.lookups {
					t.Errorf("%d lookups of alice's other token, want %d", got, tc.lookups)
				}
			})
		})
	}
}

func TestTokenIsRefusedAtOnceAfterItsLogout(t *testing.T) {
	p := newProxy(t, new(Handler))
	p.want(p.get("bob-token", Alice), 200, "", "")
	p.want(p.do(request("POST", "/_matrix/client/v3/logout", "bob-token", `{}`)), 200, `{}`, "")
	p.want(p.get("bob-token", Alice), 401, "", "")
	p.want(p.put("bob-token", bob, `{"presence":"online"}`), 401, "", "")
}

func TestRefusedLogoutChangesNothing(t *testing.T) {
	p := newProxy(t, new(Handler))
	p.get("bob-token", Alice)
	p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if strings.HasSuffix(r.URL.Path, "/logout") {
			answer(w, 403, `{"errcode":"M_FORBIDDEN","error":"no"}`)
			return true, nil
		}
		return false, nil
	}
	p.do(request("POST", "/_matrix/client/v3/logout", "bob-token", `{}`))
	p.get("bob-token", Alice)
	p.wantCounts(map[string]int{"whoami": 1})
}

// A client that logs out often closes its connection without waiting, after the
// homeserver has done it.
func TestLogoutWithoutAnAnswerCounts(t *testing.T) {
	for name, end := range map[string]func(w http.ResponseWriter) error{
		"client gone": func(w http.ResponseWriter) error { w.WriteHeader(499); return nil },
		"broken off":  func(http.ResponseWriter) error { return caddyhttp.Error(502, io.ErrUnexpectedEOF) },
		"timed out":   func(w http.ResponseWriter) error { w.WriteHeader(504); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, new(Handler))
			p.get("bob-token", Alice)
			p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
				if !strings.HasSuffix(r.URL.Path, "/logout") {
					return false, nil
				}
				p.hs.Mu.Lock()
				delete(p.hs.Tokens, "bob-token")
				p.hs.Mu.Unlock()
				return true, end(w)
			}
			p.do(request("POST", "/_matrix/client/v3/logout", "bob-token", `{}`))
			p.want(p.get("bob-token", Alice), 401, "", "")
		})
	}
}

// Whoever asks for a password reset and leaves, or logs out in an odd way, must
// not make everybody else be looked up again.
func TestOddRevocationsForgetNobodyElse(t *testing.T) {
	p := newProxy(t, new(Handler))
	p.get("bob-token", Alice)
	p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if strings.HasSuffix(r.URL.Path, "/password") {
			w.WriteHeader(499)
			return true, nil
		}
		return false, nil
	}
	p.do(request("POST", "/_matrix/client/v3/account/password", "", `{}`))
	p.do(request("POST", "/_matrix/client/v3/logout?x;access_token=evil", "alice-token", `{}`))
	p.get("bob-token", Alice)
	p.wantCounts(map[string]int{"whoami": 1})
}

func TestOversizedTokenIsNobodys(t *testing.T) {
	p := newProxy(t, new(Handler))
	long := strings.Repeat("x", 5000)
	p.wantError(p.put(long, Alice, `{"presence":"online"}`), 401, "M_MISSING_TOKEN")
	p.want(p.get(long, Alice), 401, "", "matrix_presence; fwd=bypass; detail=uncertain-credential")
	p.wantCounts(map[string]int{"whoami": 0})
}
