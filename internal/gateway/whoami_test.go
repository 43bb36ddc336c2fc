package gateway

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

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

func TestUnknownTokenIsAnsweredAsTheHomeserverDidAndRememberedBriefly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, new(options))
		const body = `{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed.","soft_logout":false}`
		for range 3 {
			p.Want(p.Get("no-such-token", alice), 401, body, "")
			p.Want(p.Put("no-such-token", alice, `{"presence":"online"}`), 401, body, "")
		}
		p.WantCounts(map[string]int{"whoami": 1, "GET": 0, "PUT": 0})
		time.Sleep(defaultRejectedTTL)
		p.hs.Tokens["no-such-token"] = alice
		p.Want(p.Put("no-such-token", alice, `{"presence":"online"}`), 200, `{}`, "")
	})
}

func TestIdentityIsAskedAgainAfterItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{Identity: &identifying{TTL: time.Minute}})
		p.Get("bob-token", alice)
		time.Sleep(time.Minute - time.Nanosecond)
		p.Get("bob-token", alice)
		p.WantCounts(map[string]int{"whoami": 1})
		time.Sleep(time.Nanosecond)
		p.Get("bob-token", alice)
		p.WantCounts(map[string]int{"whoami": 2})
	})
}

func TestWhoAmIGoesAsTheClient(t *testing.T) {
	p := newProxy(t, new(options))
	var sent *http.Request
	p.hs.Intercept = func(_ http.ResponseWriter, r *http.Request) (bool, error) {
		if strings.HasSuffix(r.URL.Path, "/whoami") {
			sent = r
		}
		return false, nil
	}
	r := request("PUT", statusPath(alice)+"?access_token=alice-token", "", `{"presence":"online"}`)
	r.RemoteAddr = "[2001:db8::7]:4711"
	r.Host = "matrix.example.com"
	r.Header.Set("User-Agent", "Element/1.0")
	r.Header.Set("X-Forwarded-For", "192.0.2.1")
	r.Header.Set("Content-Type", "application/json")
	p.Want(p.Do(r), 200, `{}`, "")
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
	p := newProxy(t, new(options))
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
		if resp := p.Do(request("PUT", target, "as-token", `{"presence":"online"}`)); resp.StatusCode != tc.status {
			t.Errorf("as %q on %s: %d, want %d", tc.user, tc.target, resp.StatusCode, tc.status)
		}
	}
	p.Want(p.Do(request("PUT", statusPath(ghost)+"?user_id=@ghost_1:example.com&org.matrix.msc3202.device_id=D", "as-token", `{"presence":"online"}`)), 200, `{}`, "")
}

// Dendrite answers 401 M_UNKNOWN_TOKEN if it doesn't know the user_id. That is not
// about the token.
func TestUnknownUserDoesNotCostAnAppserviceItsToken(t *testing.T) {
	p := newProxy(t, new(options))
	p.hs.Tokens["as-token"] = "@bridge:example.com"
	p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if r.URL.Query().Get("user_id") != "@someone:elsewhere.example" {
			return false, nil
		}
		answer(w, 401, `{"errcode":"M_UNKNOWN_TOKEN","error":"Unknown token"}`)
		return true, nil
	}
	p.Want(p.Get("as-token", alice), 200, "", "")
	p.WantError(p.Do(request("GET", statusPath(alice)+"?user_id=@someone:elsewhere.example", "as-token", "")), 401, "M_UNKNOWN_TOKEN")
	p.Want(p.Get("as-token", alice), 200, "", "matrix_presence; hit")
	p.WantCounts(map[string]int{"whoami": 2})
}

func TestMadeUpUserIDsOfAnOrdinaryTokenCostOneLookup(t *testing.T) {
	p := newProxy(t, new(options))
	for i := range 100 {
		target := fmt.Sprintf("%s?user_id=@x%d:example.com&device_id=%d", statusPath(alice), i, i)
		p.Want(p.Do(request("GET", target, "bob-token", "")), 200, "", "")
	}
	p.WantCounts(map[string]int{"whoami": 1, "GET": 1})
}

func TestConcurrentLookupsOfATokenAreOneAndTheirNumberIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, new(options))
		release := make(chan struct{})
		p.hs.Intercept = func(http.ResponseWriter, *http.Request) (bool, error) {
			<-release
			return false, nil
		}
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() { p.Do(from(fmt.Sprintf("192.0.2.%d", i/2%20), fmt.Sprintf("token-%d", i/2))) })
		}
		synctest.Wait()
		p.WantCounts(map[string]int{"whoami": maxWhoAmIs})
		close(release)
		wg.Wait()
		p.WantCounts(map[string]int{"whoami": 500, "GET": 0})
	})
}

func TestUpstreamThatIsNoHomeserverIsLoggedOnce(t *testing.T) {
	p := newProxy(t, new(options))
	logger, logs := testkit.NewLogs(slog.LevelInfo)
	p.gateway.logger = logger
	p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
		http.NotFound(w, r)
		return true, nil
	}
	for range 5 {
		p.WantError(p.Put("alice-token", alice, `{"presence":"online"}`), 502, "M_UNKNOWN")
		p.Want(p.Get("alice-token", alice), 404, "", "matrix_presence; fwd=bypass")
	}
	if got := logs.Count("check the address"); got != 1 {
		t.Errorf("logged %d times: %v", got, logs.All())
	}
	p.hs.Intercept = nil
	p.Want(p.Put("alice-token", alice, `{"presence":"online"}`), 200, `{}`, "")
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
				p := newProxy(t, new(options))
				p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if r.URL.Path == tc.path {
						answer(w, 200, `{}`)
						return true, nil
					}
					return false, nil
				}
				p.Get("alice-token", alice)
				if tc.phone {
					p.Get("alice-phone", alice)
				}
				p.Want(p.Do(request(tc.method, tc.path, tc.token, `{}`)), 200, `{}`, "")
				synctest.Wait() // for who it was, if that had to be asked
				before := p.hs.Count("whoami")
				p.Get("alice-token", alice)
				if got := p.hs.Count("whoami") - before; got != tc.lookups {
					t.Errorf("%d lookups of alice's other token, want %d", got, tc.lookups)
				}
			})
		})
	}
}

func TestTokenIsRefusedAtOnceAfterItsLogout(t *testing.T) {
	p := newProxy(t, new(options))
	p.Want(p.Get("bob-token", alice), 200, "", "")
	p.Want(p.Do(request("POST", "/_matrix/client/v3/logout", "bob-token", `{}`)), 200, `{}`, "")
	p.Want(p.Get("bob-token", alice), 401, "", "")
	p.Want(p.Put("bob-token", bob, `{"presence":"online"}`), 401, "", "")
}

func TestRefusedLogoutChangesNothing(t *testing.T) {
	p := newProxy(t, new(options))
	p.Get("bob-token", alice)
	p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if strings.HasSuffix(r.URL.Path, "/logout") {
			answer(w, 403, `{"errcode":"M_FORBIDDEN","error":"no"}`)
			return true, nil
		}
		return false, nil
	}
	p.Do(request("POST", "/_matrix/client/v3/logout", "bob-token", `{}`))
	p.Get("bob-token", alice)
	p.WantCounts(map[string]int{"whoami": 1})
}

// A client that logs out often closes its connection without waiting, after the
// homeserver has done it.
func TestLogoutWithoutAnAnswerCounts(t *testing.T) {
	for name, end := range map[string]func(w http.ResponseWriter) error{
		"client gone": func(w http.ResponseWriter) error { w.WriteHeader(499); return nil },
		"broken off":  func(http.ResponseWriter) error { return failed(502, io.ErrUnexpectedEOF) },
		"timed out":   func(w http.ResponseWriter) error { w.WriteHeader(504); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, new(options))
			p.Get("bob-token", alice)
			p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
				if !strings.HasSuffix(r.URL.Path, "/logout") {
					return false, nil
				}
				p.hs.Mu.Lock()
				delete(p.hs.Tokens, "bob-token")
				p.hs.Mu.Unlock()
				return true, end(w)
			}
			p.Do(request("POST", "/_matrix/client/v3/logout", "bob-token", `{}`))
			p.Want(p.Get("bob-token", alice), 401, "", "")
		})
	}
}

// Whoever asks for a password reset and leaves, or logs out in an odd way, must
// not make everybody else be looked up again.
func TestOddRevocationsForgetNobodyElse(t *testing.T) {
	p := newProxy(t, new(options))
	p.Get("bob-token", alice)
	p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if strings.HasSuffix(r.URL.Path, "/password") {
			w.WriteHeader(499)
			return true, nil
		}
		return false, nil
	}
	p.Do(request("POST", "/_matrix/client/v3/account/password", "", `{}`))
	p.Do(request("POST", "/_matrix/client/v3/logout?x;access_token=evil", "alice-token", `{}`))
	p.Get("bob-token", alice)
	p.WantCounts(map[string]int{"whoami": 1})
}

func TestOversizedTokenIsNobodys(t *testing.T) {
	p := newProxy(t, new(options))
	long := strings.Repeat("x", 5000)
	p.WantError(p.Put(long, alice, `{"presence":"online"}`), 401, "M_MISSING_TOKEN")
	p.Want(p.Get(long, alice), 401, "", "matrix_presence; fwd=bypass; detail=uncertain-credential")
	p.WantCounts(map[string]int{"whoami": 0})
}
