package gateway

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/identity"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

const syncPath = "/_matrix/client/v3/sync"

// sync sends a sync and returns the query and the body with which it reached the
// homeserver.
func (p *proxy) sync(token, query string) string {
	p.t.Helper()
	target := syncPath
	if query != "" {
		target += "?" + query
	}
	p.knows(token)
	p.Do(request("GET", target, token, ""))
	return p.hs.lastSync().URL.RawQuery
}

// knows has the handler know whose a token is, as it does if the client has asked for
// anything else.
func (p *proxy) knows(token string) {
	p.hs.Mu.Lock()
	userID, ok := p.hs.Tokens[token]
	p.hs.Mu.Unlock()
	if ids := p.memory.identities; ok && ids.LastKnown(matrix.Credential{Token: token}) == "" {
		under := ids.Begin(matrix.Credential{Token: token})
		under.Learn(identity.WhoAmI{UserID: userID}, ids.Revision(), time.Now())
		under.End()
	}
}

// lastSync is the sync that came last.
func (hs *homeserver) lastSync() *http.Request {
	hs.Mu.Lock()
	defer hs.Mu.Unlock()
	for _, r := range slices.Backward(hs.Seen) {
		if strings.Contains(r.URL.Path, "/sync") {
			return r
		}
	}
	return nil
}

func (p *proxy) wantSync(token, query, want string) {
	p.t.Helper()
	if got := p.sync(token, query); got != want {
		p.t.Errorf("the sync %q reached the homeserver as %q, want %q", query, got, want)
	}
}

func (p *proxy) wantMetrics(want map[string]float64) {
	p.t.Helper()
	got := p.samples()
	for metric, n := range want {
		if got[metric] != n {
			p.t.Errorf("%s is %v, want %v", metric, got[metric], n)
		}
	}
}

func TestSyncsAreNotLookedAtUnlessAskedFor(t *testing.T) {
	for name, handler := range map[string]*options{"default": {}, "observed": {Mode: "observe"}, "coalesced": {OverLimit: "coalesce"}} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, handler)
			for _, query := range []string{"", "set_presence=offline", "since=s&timeout=0"} {
				p.wantSync("alice-token", query, query)
			}
			p.WantCounts(map[string]int{"other": 3, "whoami": 0})
			p.Put("alice-token", alice, `{"presence":"online"}`)
			if n := p.memory.devices.Len(); n != 0 {
				t.Errorf("%d devices are remembered", n)
			}
			p.wantMetrics(map[string]float64{"requests_total sync": 0, "upstream_requests_total sync": 0})
		})
	}
}

func TestSyncLimitLetsChangesThroughAndTakesRepeatsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{SyncPresence: "limit", Homeserver: "synapse"})
		for _, s := range []struct {
			query, want string
		}{
			{"since=s&timeout=0", "since=s&timeout=0"}, // absent is online
			{"since=s&timeout=0", "since=s&timeout=0&set_presence=offline"},
			{"since=s&set_presence=online&timeout=0", "since=s&set_presence=offline&timeout=0"},
			{"since=s&set_presence=unavailable&timeout=0", "since=s&set_presence=unavailable&timeout=0"},
			{"since=s&set_presence=unavailable&timeout=0", "since=s&set_presence=offline&timeout=0"},
			{"since=s&set_presence=unavailable&timeout=30000", "since=s&set_presence=unavailable&timeout=30000"},
			{"since=s&set_presence=offline&timeout=0", "since=s&set_presence=offline&timeout=0"}, // the client's own
			{"since=s&set_presence=nonsense", "since=s&set_presence=nonsense"},
		} {
			p.wantSync("alice-token", s.query, s.want)
			time.Sleep(time.Second)
		}
		p.wantMetrics(map[string]float64{
			"requests_total sync": 8, "outcomes_total forwarded sync": 5, "outcomes_total stripped_unchanged sync": 3, "upstream_requests_total sync": 8,
			"sync_writes_total changed": 2, "sync_writes_total repeated": 1, "sync_writes_total unchanged": 3, "sync_writes_total none": 2,
			"saved_total": 0, "upstream_seconds sync": 0, "entries devices": 1,
		})
	})
}

func TestSyncRefreshReachesTheHomeserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{SyncPresence: "limit", Homeserver: "synapse", Refresh: 10 * time.Second})
		let := 0
		for range 60 {
			if p.sync("alice-token", "since=s&timeout=0") == "since=s&timeout=0" {
				let++
			}
			time.Sleep(time.Second)
		}
		if let != 6 { // one each 10 seconds
			t.Errorf("%d of 60 syncs in a minute reached the homeserver with their presence", let)
		}
	})
}

func TestChangesOverTheSyncLimitAreHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{
			SyncPresence: "limit", Homeserver: "synapse", SyncLimit: &rate{Events: 1, Window: 10 * time.Second},
			Exempt:  []string{"@bob:*"},
			Classes: []userClass{{Name: "carol", Match: []string{"@carol:*"}, SyncLimit: &rate{Events: 2, Window: time.Hour}}},
		})
		online, away := "set_presence=online&timeout=30000", "set_presence=unavailable&timeout=30000"
		p.wantSync("alice-token", online, online)
		p.wantSync("alice-token", away, away)
		p.wantSync("alice-token", online, away)   // what she was
		p.wantSync("alice-token", away, away)     // which is no change
		p.wantSync("alice-phone", online, online) // it may have been there all the time
		p.wantSync("alice-phone", away, away)     // it isn't made to say more than it asks for
		p.wantSync("alice-phone", online, away)
		time.Sleep(10 * time.Second)
		p.wantSync("alice-token", online, online)
		for range 10 {
			p.wantSync("bob-token", online, online)
			p.wantSync("bob-token", away, away)
		}
		p.wantSync("carol-token", online, online)
		p.wantSync("carol-token", away, away)
		p.wantSync("carol-token", online, online)
		p.wantSync("carol-token", away, away)
		p.wantSync("carol-token", online, away)
		p.wantMetrics(map[string]float64{"outcomes_total stripped_limited sync": 3, "sync_writes_total limited": 3, "entries syncers": 2})
	})
}

// Of what goes wrong then there is no other sign.
func TestSynapsesOwnLimitIsWarnedOfOnce(t *testing.T) {
	const warning = "raise rc_presence"
	for name, tt := range map[string]struct {
		handler *options
		want    int
	}{
		"told":     {&options{SyncPresence: "limit", Homeserver: "synapse"}, 1},
		"learned":  {&options{SyncPresence: "limit"}, 1},
		"strip":    {&options{SyncPresence: "strip", Homeserver: "synapse"}, 0},
		"watched":  {absorbing(), 0},
		"Dendrite": {&options{SyncPresence: "limit", Homeserver: "dendrite"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, tt.handler)
				logger, logs := testkit.NewLogs(slog.LevelWarn)
				p.gateway.logger = logger
				p.tells(map[string]func(http.ResponseWriter){"/_matrix/federation/v1/version": says("", `{"server":{"name":"Synapse"}}`)})
				for range 3 {
					p.sync("alice-token", "")
					synctest.Wait()
				}
				reloaded := *tt.handler
				p.reload(&reloaded)
				p.gateway.logger = logger
				p.sync("alice-token", "")
				if got := logs.Count(warning); got != tt.want {
					t.Errorf("%d warnings", got)
				}
			})
		})
	}
}

func TestDevicesOfDendriteAreDamped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{SyncPresence: "limit", Homeserver: "dendrite"})
		p.wantSync("alice-token", "", "")
		p.wantSync("alice-phone", "set_presence=unavailable", "set_presence=unchanged")
		p.wantSync("alice-phone", "set_presence=offline", "set_presence=unchanged")
		time.Sleep(defaultRefresh + time.Second)
		p.wantSync("alice-phone", "set_presence=unavailable", "set_presence=unavailable")
		p.wantMetrics(map[string]float64{"sync_writes_total outranked": 2, "outcomes_total stripped_limited sync": 2})
	})
}

// A device of Dendrite whose session has ended holds nobody down, whatever has ended it. A login that
// takes over a device did, so that who was away showed as online for refresh.
func TestEndedSessionHoldsNobodyDown(t *testing.T) {
	for name, end := range map[string]func() *http.Request{
		"logout":     func() *http.Request { return request("POST", "/_matrix/client/v3/logout", "alice-token", "") },
		"logout/all": func() *http.Request { return request("POST", "/_matrix/client/v3/logout/all", "alice-token", "") },
		"device":     func() *http.Request { return request("DELETE", "/_matrix/client/v3/devices/ONE", "alice-phone", "{}") },
		"login":      func() *http.Request { return request("POST", "/_matrix/client/v3/login", "", `{"device_id":"ONE"}`) },
		"a sync's 401": func() *http.Request {
			return request("GET", syncPath+"?since=ended", "alice-token", "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, &options{SyncPresence: "limit", Homeserver: "dendrite"})
				p.wantSync("alice-token", "", "")
				p.wantSync("alice-phone", "set_presence=unavailable", "set_presence=unchanged")
				p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					switch {
					case strings.HasSuffix(r.URL.Path, "/login"):
						answer(w, 200, `{"user_id":"`+alice+`","access_token":"alice-new","device_id":"ONE"}`)
					case strings.HasPrefix(r.URL.RawQuery, "since=ended"):
						answer(w, 401, `{"errcode":"M_UNKNOWN_TOKEN","error":"Unknown token"}`)
					default:
						return false, nil
					}
					return true, nil
				})
				p.Do(end())
				p.hs.AnswerBy(nil)
				p.hs.Tokens["alice-phone"] = alice
				p.wantSync("alice-phone", "set_presence=unavailable", "set_presence=unavailable")
			})
		})
	}
}

func TestSyncPresenceStripTouchesNoPresence(t *testing.T) {
	for _, tt := range []struct {
		homeserver, query, want string
	}{
		{"synapse", "", "set_presence=offline"},
		{"synapse", "a=%41&set_presence=online&b", "a=%41&set_presence=offline&b"},
		{"synapse", "x=1;set_presence=online", "set_presence=offline&x=1;set_presence=online"},
		{"synapse", "set_presence=nonsense", "set_presence=nonsense"},
		{"dendrite", "since=s", "since=s&set_presence=unchanged"},
		{"dendrite", "set_presence=offline", "set_presence=unchanged"},
		{"dendrite", "set_presence=nonsense", "set_presence=nonsense"},
	} {
		p := newProxy(t, &options{SyncPresence: "strip", Homeserver: tt.homeserver})
		p.wantSync("alice-token", tt.query, tt.want)
		p.wantSync("", tt.query, tt.want)
		p.WantCounts(map[string]int{"whoami": 0})
		if uri := p.hs.lastSync().RequestURI; uri != p.hs.lastSync().URL.RequestURI() {
			t.Errorf("the URI is %q, the URL %v", uri, p.hs.lastSync().URL)
		}
	}
}

func TestUncertainSyncsPassAsTheyCame(t *testing.T) {
	p := newProxy(t, &options{SyncPresence: "limit", Homeserver: "synapse"})
	pass := func(what string, r *http.Request) {
		t.Helper()
		before := r.URL.RawQuery
		p.Do(r)
		if got := p.hs.lastSync().URL.RawQuery; got != before {
			t.Errorf("%s: %q reached the homeserver as %q", what, before, got)
		}
	}
	for range 3 {
		pass("no token", request("GET", syncPath+"?timeout=0&since=s", "", ""))
		pass("an unknown token", request("GET", syncPath+"?timeout=0&since=s", "nonsense", ""))
		pass("two tokens", request("GET", syncPath+"?timeout=0&since=s&access_token=bob-token", "alice-token", ""))
		pass("a query that is no ASCII", request("GET", syncPath+"?a=\xff", "alice-token", ""))
		pass("another method", request("POST", syncPath+"?timeout=0&since=s", "alice-token", ""))
		pass("another path", request("GET", syncPath+"/?timeout=0&since=s", "alice-token", ""))
		pass("sliding sync", request("POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout=0", "alice-token", "{}"))
	}
	p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if strings.HasSuffix(r.URL.Path, "/whoami") {
			return true, failed(502, errors.New("no connection"))
		}
		return false, nil
	}
	for range 3 {
		pass("an identity that isn't known", request("GET", syncPath+"?timeout=0&since=s", "carol-token", ""))
	}
	p.wantMetrics(map[string]float64{"sync_writes_total unknown": 15, "requests_total sync": 15, "outcomes_total forwarded sync": 15})
}

// A homeserver has lost what a sync said: Synapse when it comes with a first read, all by a
// restart. The next syncs, which would have mended it, were taken for repeats: on Synapse they
// were taken out for refresh, and on both readers kept "offline" for a ttl.
func TestALostSyncIsMended(t *testing.T) {
	for _, homeserver := range []string{"synapse", "tuwunel"} {
		for _, off := range []bool{false, true} {
			t.Run(fmt.Sprint(homeserver, off), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newProxy(t, &options{SyncPresence: "limit", Homeserver: homeserver, Cache: &caching{Off: off}})
					m := p.behaves(homeserver)
					p.knows("alice-token")
					for range 4 {
						p.Do(request("GET", syncPath+"?since=s&timeout=0", "alice-token", ""))
						time.Sleep(2 * time.Second)
					}
					m.Forget(alice, time.Now())
					if got := p.wantShown(m, alice, "it was lost"); got != "offline" {
						t.Fatal(got)
					}
					p.Do(request("GET", syncPath+"?since=s&timeout=0", "alice-token", ""))
					if got := p.wantShown(m, alice, "the next sync"); got != "online" {
						t.Errorf("after a sync that was lost, and another, the user is %q", got)
					}
				})
			})
		}
	}
}

// Dendrite takes from a form in the body of a GET what the query doesn't say. Such a sync was taken
// for one that says online: it went up and down past the limit, and readers saw the old state.
func TestSyncThatSaysItsPresenceInAForm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{SyncPresence: "limit", Homeserver: "dendrite"})
		m := p.behaves("dendrite")
		p.knows("alice-token")
		p.Do(request("GET", syncPath+"?since=s&set_presence=online", "alice-token", ""))
		time.Sleep(12 * time.Second) // until a lower one counts
		p.wantShown(m, alice, "a sync")
		time.Sleep(2 * time.Second)
		form := request("GET", syncPath+"?since=s", "alice-token",
			"--x\r\nContent-Disposition: form-data; name=\"set_presence\"\r\n\r\nunavailable\r\n--x--\r\n")
		form.Header.Set("Content-Type", "Multipart/Form-Data; boundary=x")
		p.Do(form)
		if got := p.wantShown(m, alice, "a form"); got != "unavailable" || p.hs.lastSync().URL.RawQuery != "since=s" {
			t.Errorf("a form made the presence %q by %q", got, p.hs.lastSync().URL.RawQuery)
		}
	})
}

// Synapse serves it under a further prefix, and HEAD like GET.
func TestEverySpellingOfASyncCounts(t *testing.T) {
	p := newProxy(t, &options{SyncPresence: "strip", Homeserver: "synapse"})
	for _, path := range []string{"/_matrix/client/v3/sync", "/_matrix/client/r0/sync", "/_matrix/client/unstable/sync"} {
		for _, method := range []string{"GET", "HEAD"} {
			p.Do(request(method, path, "alice-token", ""))
			if got := p.hs.lastSync().URL.RawQuery; got != "set_presence=offline" {
				t.Errorf("%s %s reached the homeserver with %q", method, path, got)
			}
		}
	}
	p = newProxy(t, &options{SyncPresence: "strip", Homeserver: "dendrite"})
	for _, r := range []*http.Request{
		request("GET", "/_matrix/client/unstable/sync", "alice-token", ""), request("HEAD", syncPath, "alice-token", ""),
	} {
		p.Do(r)
		if got := p.hs.lastSync().URL.RawQuery; got != "" {
			t.Errorf("%s %s, which Dendrite doesn't serve, reached it with %q", r.Method, r.URL.Path, got)
		}
	}
	p.wantMetrics(map[string]float64{"requests_total sync": 0})
}

// With repeat_writes alone syncs are looked at, and nothing of them is changed.
func TestSyncPassChangesNoSync(t *testing.T) {
	p := newProxy(t, &options{RepeatWrites: "absorb", WriteLimit: &rate{Off: true}, Homeserver: "dendrite"})
	for range 10 {
		for _, query := range []string{"since=s&timeout=0", "since=s&timeout=0&set_presence=unavailable"} {
			for _, token := range []string{"alice-token", "alice-phone"} {
				p.wantSync(token, query, query)
			}
		}
	}
	p.wantMetrics(map[string]float64{"outcomes_total forwarded sync": 40, "entries devices": 2, "entries syncers": 0})
}

func TestSyncWithARevokedTokenEndsItsIdentity(t *testing.T) {
	p := newProxy(t, &options{SyncPresence: "limit", Homeserver: "synapse"})
	p.sync("alice-token", "")
	p.hs.Mu.Lock()
	delete(p.hs.Tokens, "alice-token")
	p.hs.Mu.Unlock()
	p.sync("alice-token", "")
	p.WantError(p.Get("alice-token", alice), 401, "M_UNKNOWN_TOKEN")
	p.WantCounts(map[string]int{"whoami": 1})
}

func TestSyncThatChangesPresenceInvalidates(t *testing.T) {
	for name, handler := range map[string]func() *options{
		"limit": func() *options { return &options{SyncPresence: "limit", Homeserver: "synapse"} },
		"repeat_writes": func() *options {
			return &options{RepeatWrites: "absorb", WriteLimit: &rate{Off: true}, Homeserver: "synapse"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, handler())
				release := make(chan struct{})
				p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if r.URL.Query().Get("timeout") != "30000" {
						return false, nil
					}
					p.hs.Mu.Lock()
					p.hs.Presence[alice] = `{"presence":"` + r.URL.Query().Get("set_presence") + `"}`
					p.hs.Mu.Unlock()
					<-release
					return false, nil
				}
				want := func(presence, cacheStatus string) {
					t.Helper()
					p.Want(p.Get("bob-token", alice), 200, presence, cacheStatus)
				}
				away := `{"presence":"unavailable"}`
				want("", "matrix_presence; fwd=miss; stored")
				var over sync.WaitGroup
				over.Go(func() { p.sync("alice-token", "set_presence=unavailable&timeout=30000") })
				synctest.Wait()
				want(away, "matrix_presence; fwd=miss")
				time.Sleep(defaultSettle)
				want(away, "matrix_presence; fwd=miss; stored") // while it waits for news
				want(away, "matrix_presence; hit")
				close(release)
				over.Wait()
				want(away, "matrix_presence; fwd=miss") // the homeserver may have been slow
				time.Sleep(defaultSettle)
				want(away, "matrix_presence; fwd=miss; stored")
				if got := p.sync("alice-token", "set_presence=unavailable&timeout=30000"); name == "repeat_writes" && got != "set_presence=unavailable&timeout=30000" {
					t.Errorf("sync_presence pass made %q of it", got)
				}
				want(away, "matrix_presence; hit") // a repeat changes nothing
			})
		})
	}
}

// A message makes an unavailable device of Synapse online, and its next sync unavailable
// again: readers see both at once.
func TestActivityBetweenSyncsIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{SyncPresence: "limit", Homeserver: "synapse"})
		p.Get("alice-token", bob)
		sets := func(presence string) {
			p.hs.Mu.Lock()
			defer p.hs.Mu.Unlock()
			p.hs.Presence[alice] = `{"presence":"` + presence + `"}`
		}
		want := func(presence, cacheStatus string) {
			t.Helper()
			p.Want(p.Get("bob-token", alice), 200, `{"presence":"`+presence+`"}`, cacheStatus)
		}
		const away = "since=s&timeout=0&set_presence=unavailable"
		message := func() {
			p.Do(request("PUT", "/_matrix/client/v3/rooms/!r:x/send/m.room.message/1", "alice-token", "{}"))
		}
		p.sync("alice-token", away)
		sets("unavailable")
		time.Sleep(5 * time.Second)
		want("unavailable", "matrix_presence; fwd=miss; stored")
		want("unavailable", "matrix_presence; hit")
		message()
		sets("online")
		want("online", "matrix_presence; fwd=miss")
		time.Sleep(2 * time.Second)
		want("online", "matrix_presence; fwd=miss; stored")
		p.wantSync("alice-token", away, away)
		sets("unavailable")
		want("unavailable", "matrix_presence; fwd=miss")
		p.wantSync("alice-token", away, "since=s&timeout=0&set_presence=offline")

		time.Sleep(2 * time.Second)
		p.sync("alice-token", "since=s&timeout=0")
		sets("online")
		time.Sleep(2 * time.Second)
		want("online", "matrix_presence; fwd=miss; stored")
		message()
		want("online", "matrix_presence; hit") // who is online stays that
		p.wantSync("alice-token", "since=s&timeout=0", "since=s&timeout=0&set_presence=offline")

		// It isn't known which of two at the same time came first.
		p.sync("alice-token", away)
		p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
			if r.Method == http.MethodPut {
				p.Do(request("GET", syncPath+"?"+away, "alice-token", ""))
			}
			return false, nil
		})
		message()
		p.wantSync("alice-token", away, away)
	})
}

// A request that takes long may make its user active when it ends. What a sync has said
// within, and what was read of that, was taken for what the presence is.
func TestActivityThatEndsAfterASyncIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{SyncPresence: "limit", Homeserver: "synapse", RepeatWrites: "absorb"})
		p.Get("alice-token", bob)
		p.sync("alice-token", "since=s&timeout=0")
		sets := func(presence string) {
			p.hs.Mu.Lock()
			defer p.hs.Mu.Unlock()
			p.hs.Presence[alice] = `{"presence":"` + presence + `"}`
		}
		want := func(presence, cacheStatus string) {
			t.Helper()
			p.Want(p.Get("bob-token", alice), 200, `{"presence":"`+presence+`"}`, cacheStatus)
		}
		release := make(chan struct{})
		p.hs.AnswerBy(func(_ http.ResponseWriter, r *http.Request) (bool, error) {
			if strings.Contains(r.URL.Path, "/send/") {
				<-release
				sets("online")
			}
			return false, nil
		})
		var over sync.WaitGroup
		over.Go(func() {
			p.Do(request("PUT", "/_matrix/client/v3/rooms/!r:x/send/m%2Eroom.message/1", "alice-token", "{}"))
		})
		synctest.Wait()
		p.sync("alice-token", "since=s&timeout=0&set_presence=unavailable")
		sets("unavailable")
		time.Sleep(5 * time.Second)
		want("unavailable", "matrix_presence; fwd=miss; stored")
		want("unavailable", "matrix_presence; hit")
		close(release)
		over.Wait()
		want("online", "matrix_presence; fwd=miss")
		time.Sleep(defaultSettle)
		want("online", "matrix_presence; fwd=miss; stored")
	})
}

func TestSyncAfterAWriteOfTheSameStateIsNoChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{SyncPresence: "limit", Homeserver: "synapse"})
		p.Put("alice-token", alice, `{"presence":"unavailable","status_msg":"x"}`)
		for _, want := range []string{"unavailable", "offline"} { // the first goes through
			p.wantSync("alice-token", "since=s&timeout=0&set_presence=unavailable", "since=s&timeout=0&set_presence="+want)
		}
		p.Put("bob-token", alice, `{"presence":"online"}`) // refused
		p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
			if r.Method == "PUT" {
				answer(w, 429, `{"errcode":"M_LIMIT_EXCEEDED","error":"Too many requests"}`)
			}
			return r.Method == "PUT", nil
		}
		p.Put("alice-token", alice, `{"presence":"online"}`) // refused, too
		p.hs.Intercept = nil
		p.wantSync("alice-token", "since=s&timeout=0&set_presence=unavailable", "since=s&timeout=0&set_presence=offline")
		p.Put("alice-token", alice, `{"presence":"online"}`)
		p.wantSync("alice-token", "since=s&timeout=0&set_presence=unavailable", "since=s&timeout=0&set_presence=unavailable")
		if body := bodyOf(p.Get("bob-token", alice)); body != `{"presence":"online","status_msg":""}` {
			t.Errorf("the write reached the homeserver as %s", body)
		}
	})
}

// A sync that the homeserver didn't take has told it nothing.
func TestFailedSyncIsNotTakenForSaid(t *testing.T) {
	for name, fail := range map[string]func(w http.ResponseWriter) error{
		"error":  func(http.ResponseWriter) error { return failed(502, errors.New("no connection")) },
		"status": func(w http.ResponseWriter) error { answer(w, 500, `{}`); return nil },
		"elsewhere": func(w http.ResponseWriter) error {
			w.Header().Set("Location", "https://other.example/_matrix/client/v3/sync")
			answer(w, 307, "")
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, &options{SyncPresence: "limit", Homeserver: "synapse"})
			query := "since=s&timeout=0"
			p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
				if strings.HasSuffix(r.URL.Path, "/sync") {
					return true, fail(w)
				}
				return false, nil
			}
			for range 3 {
				p.wantSync("alice-token", query, query)
			}
			p.hs.Intercept = nil
			p.wantSync("alice-token", query, query)
			p.wantSync("alice-token", query, query+"&set_presence=offline")
			p.wantMetrics(map[string]float64{"sync_writes_total changed": 4, "sync_writes_total unchanged": 1})
		})
	}
}

const slidingPath = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"

func TestSlidingSyncOfTuwunel(t *testing.T) {
	p := newProxy(t, &options{
		SyncPresence: "limit", Homeserver: "tuwunel", MaxBody: 100, SyncLimit: &rate{Events: 1, Window: time.Hour},
	})
	var got string
	var length int64
	p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if r.Method == "POST" {
			body, _ := io.ReadAll(r.Body)
			got, length = string(body), r.ContentLength
		}
		return false, nil
	}
	p.sync("alice-token", "set_presence=unavailable") // to have something to change
	large := `{"set_presence":"offline","x":"` + strings.Repeat("x", 100) + `"}`
	for _, s := range []struct{ body, want string }{
		{`{"lists":{}}`, `{"lists":{}}`},                                         // online, a change
		{`{"set_presence":"offline","a":1}`, `{"set_presence":"offline","a":1}`}, // over the limit, and less
		{`{"a":1,"set_presence":"online"}`, `{"a":1,"set_presence":"offline"}`},
		{`{"set_presence":"foo"}`, `{"set_presence":"foo"}`}, // offline there
		{`{}`, `{"set_presence":"offline"}`},
		{``, `{"set_presence":"offline"}`},
		{`{"set_presence":"foo","set_presence":"online"}`, `{"set_presence":"foo","set_presence":"offline"}`},
		{`{"set_presence":null}`, `{"set_presence":null}`},
		{`nonsense`, `nonsense`},
		{large, large},
	} {
		p.Do(request("POST", slidingPath+"?timeout=0", "alice-token", s.body))
		if got != s.want || length != int64(len(s.want)) {
			t.Errorf("%s reached the homeserver as %s, length %d", s.body, got, length)
		}
		r := request("POST", slidingPath, "alice-token", s.body)
		r.ContentLength = -1 // in chunks
		p.Do(r)
		if got != s.want || s.want == s.body && length != -1 {
			t.Errorf("%s in chunks reached the homeserver as %s, length %d", s.body, got, length)
		}
	}
	// The homeserver has to notice, too.
	r := request("POST", slidingPath, "alice-token", "")
	r.Body, r.ContentLength = io.NopCloser(io.MultiReader(strings.NewReader(`{"a"`), brokenReader{io.ErrUnexpectedEOF})), -1
	var broken error
	p.hs.Intercept = func(_ http.ResponseWriter, r *http.Request) (bool, error) {
		_, broken = io.ReadAll(r.Body)
		return false, nil
	}
	p.Do(r)
	if !errors.Is(broken, io.ErrUnexpectedEOF) {
		t.Errorf("a body that broke off ended with %v", broken)
	}
	p.wantSync("alice-token", "set_presence=unavailable", "set_presence=offline")
}

// tellsAfter is how long tellsLate takes.
const tellsAfter = time.Millisecond

// tellsLate is tells by a homeserver that takes its time: the request that made us ask is decided before.
func (p *proxy) tellsLate(answers map[string]func(w http.ResponseWriter)) {
	p.tells(answers)
	tell := p.hs.Intercept
	p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if strings.Contains(r.URL.Path, "/version") {
			time.Sleep(tellsAfter)
		}
		return tell(w, r)
	}
}

// tells has the scripted homeserver say which one it is.
func (p *proxy) tells(answers map[string]func(w http.ResponseWriter)) {
	p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if r.Header.Get("Authorization") != "" || !strings.HasSuffix(r.URL.Path, "/version") && !strings.HasSuffix(r.URL.Path, "/versions") {
			return false, nil
		}
		if tell := answers[r.URL.Path]; tell != nil {
			tell(w)
			return true, nil
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(404)
		_, _ = io.WriteString(w, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`)
		return true, nil
	}
}

func says(server, body string) func(w http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/json")
		if server != "" {
			w.Header().Set("Server", server)
		}
		_, _ = io.WriteString(w, body)
	}
}

func TestHomeserverIsLearned(t *testing.T) {
	const federation, client = "/_matrix/federation/v1/version", "/_matrix/client/versions"
	for name, tt := range map[string]struct {
		answers map[string]func(w http.ResponseWriter)
		want    string // of sync_presence strip
		asked   float64
	}{
		"Synapse":                     {map[string]func(http.ResponseWriter){federation: says("", `{"server":{"name":"Synapse","version":"1.160.0"}}`)}, "set_presence=offline", 1},
		"Synapse without federation":  {map[string]func(http.ResponseWriter){federation: func(w http.ResponseWriter) { w.Header().Set("Server", "Synapse/1.160.0"); w.WriteHeader(404) }}, "set_presence=offline", 1},
		"Dendrite":                    {map[string]func(http.ResponseWriter){federation: says("", `{"server":{"version":"0.13.8","name":"Dendrite"}}`)}, "set_presence=unchanged", 1},
		"Dendrite behind another":     {map[string]func(http.ResponseWriter){federation: says("nginx/1.24", `{"server":{"name":"Dendrite"}}`)}, "set_presence=unchanged", 1},
		"by MSC4383":                  {map[string]func(http.ResponseWriter){client: says("", `{"versions":["v1.1"],"server":{"name":"Dendrite"}}`)}, "set_presence=unchanged", 2},
		"Dendrite without federation": {map[string]func(http.ResponseWriter){client: says("", `{"versions":["v1.2"]}`)}, "", 2},
		"tuwunel":                     {map[string]func(http.ResponseWriter){federation: says("", `{"server":{"name":"Tuwunel","version":"1.9.0"}}`)}, "", 1},
		"another":                     {map[string]func(http.ResponseWriter){federation: says("", `{"server":{"name":"conduwuit"}}`), client: says("", `[]`)}, "", 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, &options{SyncPresence: "strip"})
				p.tellsLate(tt.answers)
				p.wantSync("alice-token", "", "")
				time.Sleep(2 * tellsAfter)
				synctest.Wait()
				for range 3 {
					p.wantSync("alice-token", "", tt.want)
				}
				p.wantMetrics(map[string]float64{"upstream_requests_total version": tt.asked, "upstream_seconds version": tt.asked, "requests_total sync": 4})
			})
		})
	}
}

func TestHomeserverIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{SyncPresence: "strip"})
		asked := func(want float64) {
			t.Helper()
			time.Sleep(4 * tellsAfter)
			synctest.Wait()
			p.wantMetrics(map[string]float64{"upstream_requests_total version": want})
		}
		p.tellsLate(nil)
		p.wantSync("alice-token", "", "")
		time.Sleep(softwareRetry - time.Second)
		p.wantSync("alice-token", "", "")
		asked(2)
		const federation = "/_matrix/federation/v1/version"
		p.tellsLate(map[string]func(http.ResponseWriter){federation: says("", `{"server":{"name":"Dendrite"}}`)})
		time.Sleep(2 * time.Second)
		p.wantSync("alice-token", "", "")
		asked(3)
		p.wantSync("alice-token", "", "set_presence=unchanged")
		time.Sleep(softwareLasts - time.Second)
		p.wantSync("alice-token", "", "set_presence=unchanged")
		asked(3)
		p.tellsLate(nil) // it has told before
		time.Sleep(2 * time.Second)
		p.wantSync("alice-token", "", "set_presence=unchanged")
		asked(5)
		p.tellsLate(map[string]func(http.ResponseWriter){federation: says("", `{"server":{"name":"Synapse"}}`)})
		time.Sleep(softwareRetry + time.Second)
		p.wantSync("alice-token", "", "set_presence=unchanged")
		asked(6)
		p.wantSync("alice-token", "", "set_presence=offline")
	})
}

// A homeserver that was down tells as soon as it is up.
func TestHomeserverThatCouldNotBeAskedIsAskedSoon(t *testing.T) {
	for name, fail := range map[string]func() error{
		"down":  func() error { return failed(502, errors.New("no connection")) },
		"hangs": func() error { time.Sleep(softwareTimeout); return failed(504, errors.New("timeout")) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, &options{SyncPresence: "limit"})
				logger, logs := testkit.NewLogs(slog.LevelWarn)
				p.gateway.logger = logger
				p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if strings.Contains(r.URL.Path, "/version") {
						return true, fail()
					}
					return false, nil
				})
				start := time.Now()
				p.sync("alice-token", "")
				p.sync("bob-token", "")
				if took := time.Since(start); took != 0 {
					t.Errorf("two syncs took %v", took)
				}
				time.Sleep(2*softwareTimeout + firstSoftwareRetry)
				if n := len(logs.All()); n != 0 {
					t.Errorf("a warning: %v", logs.All())
				}
				p.hs.AnswerBy(nil)
				p.tellsLate(map[string]func(http.ResponseWriter){"/_matrix/federation/v1/version": says("", `{"server":{"name":"Synapse"}}`)})
				p.sync("alice-token", "")
				time.Sleep(2 * tellsAfter)
				p.sync("alice-token", "")
				p.wantMetrics(map[string]float64{"upstream_requests_total version": 3, "sync_writes_total unknown": 3, "sync_writes_total changed": 1})
			})
		})
	}
}

// Many syncs, one question.
func TestNoSyncWaitsForTheHomeserversName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{SyncPresence: "strip"})
		release := make(chan struct{})
		p.tells(map[string]func(w http.ResponseWriter){"/_matrix/federation/v1/version": func(w http.ResponseWriter) {
			<-release
			says("", `{"server":{"name":"Synapse"}}`)(w)
		}})
		p.wantSync("alice-token", "", "")
		synctest.Wait()
		p.wantSync("bob-token", "", "")
		close(release)
		synctest.Wait()
		p.wantSync("bob-token", "", "set_presence=offline")
		p.wantMetrics(map[string]float64{"upstream_requests_total version": 1})
	})
}

// What a client shows of itself is not needed for the question.
func TestHomeserverIsAskedWithoutACredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{SyncPresence: "strip"})
		r := request("GET", syncPath+"?access_token=alice-token", "", "")
		r.Header.Set("Cookie", "session=1")
		p.Do(r)
		synctest.Wait()
		i := slices.IndexFunc(p.hs.Seen, func(r *http.Request) bool { return r.URL.String() == "/_matrix/federation/v1/version" })
		if i < 0 {
			t.Fatal("not asked")
		}
		if header := p.hs.Seen[i].Header; header["Cookie"] != nil || header["Authorization"] != nil {
			t.Errorf("asked with %v", header)
		}
	})
}

func TestDecisionsOnSyncsAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{SyncPresence: "limit", Homeserver: "synapse", SyncLimit: &rate{Events: 1, Window: time.Hour}})
		for _, s := range []struct{ query, decision string }{
			{"since=s&timeout=0", "forwarded"},
			{"since=s&timeout=0", "stripped_unchanged"},
			{"since=s&timeout=0&set_presence=unavailable", "forwarded"},
			{"since=s&timeout=0&set_presence=unavailable", "stripped_unchanged"},
			{"since=s&timeout=0", "stripped_limited"},
		} {
			p.sync("alice-token", s.query)
			vars := stateOf(p.hs.lastSync()).vars
			if vars[varDecision] != s.decision || vars[varCache] != nil {
				t.Errorf("%s: decision %v, cache %v, want %s", s.query, vars[varDecision], vars[varCache], s.decision)
			}
		}
	})
}

// reverse_proxy panics if an answer breaks off.
func TestSyncThatBreaksOffEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{SyncPresence: "limit", Homeserver: "dendrite"})
		p.hs.Intercept = func(_ http.ResponseWriter, r *http.Request) (bool, error) {
			if strings.HasSuffix(r.URL.Path, "/sync") {
				panic(http.ErrAbortHandler)
			}
			return false, nil
		}
		func() {
			defer func() { _ = recover() }()
			p.sync("alice-token", "")
		}()
		p.hs.Intercept = nil
		time.Sleep(defaultRefresh + time.Second)
		// It holds nobody down any more.
		p.wantSync("alice-phone", "set_presence=unavailable", "set_presence=unavailable")
	})
}

// A write that is repeated after a sync has changed the presence is none that changes
// nothing.
func TestWriteAfterASyncIsNoRepeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{RepeatWrites: "absorb", WriteLimit: &rate{Off: true}, Homeserver: "synapse"})
		away := `{"presence":"unavailable"}`
		p.Put("alice-token", alice, away)
		p.Put("alice-token", alice, away)
		p.WantCounts(map[string]int{"PUT": 1})
		p.sync("alice-token", "set_presence=unavailable") // no change
		p.Put("alice-token", alice, away)
		p.WantCounts(map[string]int{"PUT": 1})
		p.sync("alice-phone", "")
		p.Put("alice-token", alice, away)
		p.WantCounts(map[string]int{"PUT": 2})
	})
}

// A sync whose token nobody knows yet goes at once, and teaches. What it may have changed
// is forgotten then.
func TestNoSyncWaitsForWhoAmI(t *testing.T) {
	for name, handler := range map[string]*options{
		"limit":    {SyncPresence: "limit", Homeserver: "synapse", RepeatWrites: "absorb", WriteLimit: &rate{Off: true}},
		"pass":     {Homeserver: "synapse", RepeatWrites: "absorb", WriteLimit: &rate{Off: true}},
		"observed": {Mode: "observe", SyncPresence: "limit", Homeserver: "synapse"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, handler)
				p.Put("alice-phone", alice, online)
				p.Put("alice-phone", alice, online) // absorbed
				p.Get("bob-token", alice)
				time.Sleep(defaultSettle)
				p.Get("bob-token", alice)
				writes := p.hs.Count("PUT")
				p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if strings.HasSuffix(r.URL.Path, "/whoami") {
						time.Sleep(5 * time.Second)
					}
					return false, nil
				})
				start := time.Now()
				sync := func() { p.Do(request("GET", syncPath+"?since=s&timeout=0", "alice-token", "")) }
				sync()
				if took := time.Since(start); took != 0 {
					t.Errorf("it took %v", took)
				}
				time.Sleep(6 * time.Second)
				p.hs.AnswerBy(nil)
				p.Put("alice-phone", alice, online)
				p.WantCounts(map[string]int{"PUT": writes + 1})
				time.Sleep(defaultSettle)
				sync()
				p.wantMetrics(map[string]float64{"sync_writes_total unknown": 1, "sync_writes_total changed": 1})
			})
		})
	}
}

// Whose an idle client's token is, is asked once: the homeserver checks it each time.
func TestIdleClientIsNotAskedAbout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{SyncPresence: "limit", Homeserver: "synapse"})
		p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
			if strings.HasSuffix(r.URL.Path, "/sync") {
				time.Sleep(30 * time.Second)
			}
			return false, nil
		})
		for range 40 { // 20 minutes
			p.Do(request("GET", syncPath+"?since=s&timeout=30000", "alice-token", ""))
		}
		p.WantCounts(map[string]int{"whoami": 1, "other": 40})
		p.wantMetrics(map[string]float64{"sync_writes_total unknown": 1, "sync_writes_total changed": 1, "sync_writes_total repeated": 38})
		// By each sync that it has answered, the homeserver has told that the token is still good.
		p.Put("alice-token", alice, online)
		p.WantCounts(map[string]int{"whoami": 1})
		// Without one, what would authorise something is asked for.
		time.Sleep(2 * time.Minute)
		p.Put("alice-token", alice, online)
		p.WantCounts(map[string]int{"whoami": 2})
	})
}

func TestObservedSyncsGoAsTheyCame(t *testing.T) {
	for mode, want := range map[string]map[string]float64{
		"limit": {
			"outcomes_total forwarded sync": 6, "outcomes_total stripped_unchanged sync": 0, "outcomes_total stripped_limited sync": 0,
			"observed_total forwarded sync": 2, "observed_total stripped_unchanged sync": 2, "observed_total stripped_limited sync": 2,
			"sync_writes_total changed": 4, "sync_writes_total repeated": 2,
		},
		"strip": {"outcomes_total forwarded sync": 6, "observed_total stripped_unchanged sync": 6, "sync_writes_total unknown": 6},
	} {
		t.Run(mode, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				handler := &options{Mode: "observe", SyncPresence: mode, Homeserver: "synapse"}
				if mode == "limit" {
					handler.SyncLimit = &rate{Events: 1, Window: time.Hour}
				}
				p := newProxy(t, handler)
				p.Get("alice-token", bob) // so that it is known whose token it is: no sync waits for that
				synctest.Wait()
				for range 3 {
					for _, query := range []string{"since=s&timeout=0", "since=s&timeout=0&set_presence=unavailable"} {
						p.wantSync("alice-token", query, query)
					}
				}
				p.wantMetrics(want)
				p.Get("bob-token", alice)
				time.Sleep(defaultSettle)
				p.Want(p.Get("bob-token", alice), 200, "", "")
			})
		})
	}
}

// A homeserver that doesn't say which one it is may make anything of a sync, so a write
// after one is no repeat.
func TestNothingIsAbsorbedPastASyncThatIsNotJudged(t *testing.T) {
	for name, query := range map[string]string{"unknown homeserver": "since=s&timeout=0", "odd query": "x;set_presence=online"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, &options{RepeatWrites: "absorb", SyncPresence: "limit", WriteLimit: &rate{Off: true}})
				p.Put("alice-token", alice, unavailable)
				p.Get("bob-token", alice)
				p.wantSync("alice-token", query, query)
				p.Want(p.Put("alice-token", alice, unavailable), 200, "{}", "matrix_presence; fwd=method")
			})
		})
	}
}
