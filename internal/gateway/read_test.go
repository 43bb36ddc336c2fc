package gateway

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestReadIsAMissThenAHit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, new(options))
		p.Want(p.Get("bob-token", alice), 200, p.hs.Presence[alice], "matrix_presence; fwd=miss; stored")
		time.Sleep(2500 * time.Millisecond)
		p.Want(p.Get("bob-token", alice), 200,
			`{"presence":"online","last_active_ago":3500,"status_msg":"hi","currently_active":true}`, "matrix_presence; hit; ttl=27")
		p.WantCounts(map[string]int{"GET": 1, "whoami": 1})
	})
}

func TestReadExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{Cache: &caching{TTL: 10 * time.Second}})
		p.Get("bob-token", alice)
		time.Sleep(10 * time.Second)
		p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; fwd=miss")
		p.WantCounts(map[string]int{"GET": 2})
	})
}

func TestOneUsersReadDoesNotPermitAnother(t *testing.T) {
	p := newProxy(t, new(options))
	p.Get("bob-token", alice)
	p.Want(p.Get("carol-token", alice), 403, "", "matrix_presence; fwd=miss")
	p.Want(p.Get("carol-token", alice), 403, `{"errcode":"M_FORBIDDEN","error":"You are not allowed to see their presence."}`, "matrix_presence; hit")
	p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; hit")
	p.WantCounts(map[string]int{"GET": 2})
}

func TestHitHasTheHomeserversFieldsAndItsOwnValues(t *testing.T) {
	p := newProxy(t, new(options))
	p.Get("bob-token", alice)
	for range 2 {
		resp := p.Get("bob-token", alice)
		for name, want := range map[string]string{
			"Content-Type":                "application/json",
			"Cache-Control":               "no-cache, no-store, must-revalidate",
			"Access-Control-Allow-Origin": "*",
		} {
			if got := resp.Header[name]; len(got) != 1 || got[0] != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
			// A header directive with "replace" edits in place. That must not
			// reach what is kept.
			resp.Header[name][0] = "edited"
		}
		if got := resp.Header.Get("Server"); strings.HasPrefix(got, "Synapse") {
			t.Errorf("Server is %q, which was about another response", got)
		}
	}
}

func TestHeadIsServedAsGet(t *testing.T) {
	p := newProxy(t, new(options))
	for _, cacheStatus := range []string{"matrix_presence; fwd=miss", "matrix_presence; hit"} {
		resp := p.Do(request("HEAD", statusPath(alice), "bob-token", ""))
		p.Want(resp, 200, "", cacheStatus)
		if body := bodyOf(resp); body != "" {
			t.Errorf("HEAD has the body %q", body)
		}
		if got, want := resp.Header.Get("Content-Length"), fmt.Sprint(len(p.hs.Presence[alice])); got != want {
			t.Errorf("Content-Length is %s, want %s", got, want)
		}
	}
	p.WantCounts(map[string]int{"GET": 1, "HEAD": 0})
}

func TestSpellingsOfOneReadShareAnEntry(t *testing.T) {
	p := newProxy(t, new(options))
	p.Get("bob-token", alice)
	for _, target := range []string{
		"/_matrix/client/r0/presence/@alice:example.com/status",
		"/_matrix/client/v3/presence/%40alice%3Aexample.com/status",
		"/_matrix/client/r0/presence/%40%61lice:example.com/status",
		"/_matrix/client/v3/presence/@alice:example.com/status?ts=1",
	} {
		p.Want(p.Do(request("GET", target, "bob-token", "")), 200, "", "matrix_presence; hit")
	}
	p.Want(p.Do(request("GET", statusPath(alice)+"?access_token=bob-token", "", "")), 200, "", "matrix_presence; hit")
}

func TestSpellingsThatOnlySynapseServesAreNotStored(t *testing.T) {
	p := newProxy(t, new(options))
	p.Get("bob-token", alice)
	for i, target := range []string{
		"/_matrix/client/unstable/presence/@alice:example.com/status",
		"/_matrix/client/api/v1/presence/@alice:example.com/status",
		"/_matrix/client/v3/presence/@alice:example.com/statusfoo",
		"/_matrix/client/r0/presence/%40alice:example.com/status/x?y=%2F",
	} {
		p.Want(p.Do(request("GET", target, "bob-token", "")), 200, "", "matrix_presence; fwd=bypass; detail=spelling")
		p.WantCounts(map[string]int{"GET": i + 2})
		if got := p.hs.Last().URL.RequestURI(); got != target {
			t.Errorf("forwarded as %s, not %s", got, target)
		}
	}
}

func TestWhatHomeserversDoNotServePassesUntouched(t *testing.T) {
	p := newProxy(t, new(options))
	for _, target := range []string{
		"//_matrix/client/v3/presence/@alice:example.com/status",
		"/_matrix/client/v3/%70resence/@alice:example.com/status",
		"/_MATRIX/client/v3/presence/@alice:example.com/status",
		"/_matrix/client/v3/presence/list/@alice:example.com",
		"/_matrix/client/v3/sync",
	} {
		r := request("GET", "http://example.com/", "no-such-token", "")
		r.URL.Path, r.URL.RawPath = target, ""
		if strings.Contains(target, "%") {
			r.URL.Path, r.URL.RawPath = strings.Replace(target, "%70", "p", 1), target
		}
		resp := p.Do(r)
		if got := resp.Header.Get("Cache-Status"); got != "" {
			t.Errorf("%s: Cache-Status is %q", target, got)
		}
	}
	p.WantCounts(map[string]int{"whoami": 0})
}

func TestReadWithoutATokenIsAnsweredHere(t *testing.T) {
	p := newProxy(t, new(options))
	p.WantError(p.Get("", alice), 401, "M_MISSING_TOKEN")
	p.WantCounts(map[string]int{"GET": 0, "whoami": 0})
}

func TestUncertainReadIsTheHomeserversToJudge(t *testing.T) {
	p := newProxy(t, new(options))
	p.hs.Intercept = func(w http.ResponseWriter, _ *http.Request) (bool, error) {
		w.Header().Set("Cache-Status", "upstream; hit") // the nearest to the origin comes first
		return false, nil
	}
	for range 2 {
		r := request("GET", statusPath(alice)+"?access_token=bob-token", "bob-token", "")
		resp := p.Do(r)
		p.Want(resp, 200, "", "upstream; hit")
		if got := resp.Header["Cache-Status"]; len(got) != 2 || got[1] != "matrix_presence; fwd=bypass; detail=uncertain-credential" {
			t.Errorf("Cache-Status is %q", got)
		}
	}
	// Its tokens' users pay for it, so they have to be known.
	p.WantCounts(map[string]int{"GET": 2, "whoami": 1})
}

// Spellings whose credential homeservers read differently are no way around the
// limit: they are charged to whoever it may be.
func TestUncertainReadsAreLimited(t *testing.T) {
	for name, known := range map[string]bool{"known token": true, "unknown token": false} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, &options{ReadLimit: &rate{Events: 3, Window: time.Hour}})
			if known {
				p.Get("bob-token", alice)
			}
			limited := 0
			for i := range 5 {
				r := request("GET", fmt.Sprintf("%s?x=%d;access_token=junk-%d", statusPath(alice), i, i), "bob-token", "")
				r.Header.Add("Authorization", fmt.Sprintf("Bearer junk-%d", i))
				if p.Do(r).StatusCode == 429 {
					limited++
				}
			}
			if want := map[bool]int{true: 3, false: 2}[known]; limited != want {
				t.Errorf("%d of 5 were limited, want %d", limited, want)
			}
		})
	}
	p := newProxy(t, &options{ReadLimit: &rate{Events: 1, Window: time.Hour}})
	p.Want(p.Do(request("GET", statusPath(alice)+"?user_id=", "bob-token", "")), 200, "", "matrix_presence; fwd=bypass")
	p.WantError(p.Do(request("GET", statusPath(alice)+"?user_id=&device_id=", "bob-token", "")), 429, "M_LIMIT_EXCEEDED")
}

func TestStatesOutliveIdentitiesIfTheHomeserverFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{Cache: &caching{StaleIfError: 10 * time.Minute}})
		p.hs.Presence[alice] = `{"presence":"offline"}`
		p.Get("bob-token", alice)
		p.hs.Intercept = func(http.ResponseWriter, *http.Request) (bool, error) {
			return true, failed(http.StatusBadGateway, io.ErrUnexpectedEOF)
		}
		time.Sleep(5 * time.Minute)
		p.Want(p.Get("bob-token", alice), 200, `{"presence":"offline"}`, "matrix_presence; hit; ttl=-270; detail=stale-if-error")
		p.Want(p.Put("bob-token", bob, `{"presence":"online"}`), 502, "", "")
		p.Want(p.Get("carol-token", alice), 502, "", "")
		time.Sleep(5 * time.Minute)
		p.Want(p.Get("bob-token", alice), 502, "", "")
	})
}

// Carol came when the write had settled, after somebody had seen the new state.
// A fetch that departed before must not bring her the old one.
func TestSettledReaderDoesNotShareAnUnsettledFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{Cache: &caching{Settle: ptr(2 * time.Second)}})
		p.Get("bob-token", carol)
		p.Put("alice-token", alice, `{"presence":"unavailable"}`)
		time.Sleep(1500 * time.Millisecond)
		release := make(chan struct{})
		p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
			if !strings.HasSuffix(r.URL.Path, "/status") || p.hs.Count("GET") > 2 {
				return false, nil
			}
			answer(w, 200, `{"presence":"online"}`) // it applies writes late
			<-release
			return true, nil
		}
		var wg sync.WaitGroup
		wg.Go(func() { p.Want(p.Get("bob-token", alice), 200, `{"presence":"online"}`, "") })
		synctest.Wait()
		time.Sleep(time.Second)
		p.Want(p.Get("bob-token", alice), 200, `{"presence":"unavailable","status_msg":""}`, "matrix_presence; fwd=miss")
		close(release)
		wg.Wait()
	})
}

func TestConcurrentReadsAreOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, new(options))
		release := make(chan struct{})
		p.hs.Intercept = func(_ http.ResponseWriter, r *http.Request) (bool, error) {
			<-release
			return false, nil
		}
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() { p.Want(p.Get("bob-token", alice), 200, p.hs.Presence[alice], "matrix_presence; ") })
		}
		synctest.Wait()
		close(release)
		wg.Wait()
		p.WantCounts(map[string]int{"GET": 1, "whoami": 1})
	})
}

// Two permitted viewers share a fetch, and the one who is refused by then doesn't
// take the other along.
func TestSharedFetchThatIsRefusedIsTriedByEachReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{Cache: &caching{TTL: 10 * time.Second}})
		// A state that ends before the permissions do.
		p.hs.Presence[alice] = `{"presence":"online","last_active_ago":55000,"currently_active":true}`
		p.Get("bob-token", alice)
		p.Get("carol-token", bob) // so that carol's token is known
		p.hs.Hidden[carol+" "+alice] = false
		p.Get("carol-token", alice)
		time.Sleep(6 * time.Second)

		p.hs.Hidden[carol+" "+alice] = true
		release := make(chan struct{})
		p.hs.Intercept = func(_ http.ResponseWriter, r *http.Request) (bool, error) {
			<-release
			return false, nil
		}
		var wg sync.WaitGroup
		wg.Go(func() { p.Want(p.Get("carol-token", alice), 403, "", "") })
		synctest.Wait() // carol's request is the one that is shared
		wg.Go(func() { p.Want(p.Get("bob-token", alice), 200, p.hs.Presence[alice], "") })
		synctest.Wait()
		close(release)
		wg.Wait()
	})
}

func TestReaderThatGoesAwayLeavesItsFetchToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, new(options))
		p.Get("bob-token", carol)
		release := make(chan struct{})
		p.hs.Intercept = func(_ http.ResponseWriter, r *http.Request) (bool, error) {
			select {
			case <-release:
				return false, nil
			case <-r.Context().Done():
				return true, r.Context().Err()
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { p.Do(request("GET", statusPath(alice), "bob-token", "").WithContext(ctx)) })
		synctest.Wait()
		wg.Go(func() { p.Want(p.Get("bob-token", alice), 200, "", "") })
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(release)
		wg.Wait()
		p.WantCounts(map[string]int{"GET": 2})
	})
}

// What is asked about a request may take longer than its client waits. Over HTTP/3 reverse_proxy took what
// was sent on then for a failure of the homeserver's, and with passive health checks nobody had one any more.
func TestNothingIsSentOnForAClientThatHasLeft(t *testing.T) {
	for name, r := range map[string]*http.Request{
		"a read":                 request("GET", statusPath(alice), "bob-token", ""),
		"a read of nobody":       request("GET", statusPath("nonsense"), "bob-token", ""),
		"a read with a body":     request("GET", statusPath(alice), "bob-token", "{}"),
		"a read with two tokens": request("GET", statusPath(alice)+"?access_token=carol-token", "bob-token", ""),
		"a write":                request("PUT", statusPath(bob), "bob-token", online),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, &options{ReadLimit: &rate{Events: 100, Window: time.Second}})
				sent := 0
				p.hs.Intercept = func(_ http.ResponseWriter, r *http.Request) (bool, error) {
					if strings.HasSuffix(r.URL.Path, "/whoami") {
						time.Sleep(3 * time.Second)
					} else if r.Context().Err() != nil {
						sent++
					}
					return false, nil
				}
				ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
				defer cancel()
				p.Do(r.WithContext(ctx))
				if time.Sleep(time.Minute); sent != 0 {
					t.Error("it was sent on all the same")
				}
			})
		})
	}
}

func TestStaleAnswerIfTheHomeserverFails(t *testing.T) {
	fail := func(w http.ResponseWriter, r *http.Request) (bool, error) {
		return true, failed(http.StatusBadGateway, fmt.Errorf("connection refused"))
	}
	hang := func(w http.ResponseWriter, r *http.Request) (bool, error) {
		<-r.Context().Done()
		return true, r.Context().Err()
	}
	overload := func(w http.ResponseWriter, r *http.Request) (bool, error) {
		answer(w, 503, `{"errcode":"M_UNKNOWN","error":"overload"}`)
		return true, nil
	}
	for name, intercept := range map[string]func(http.ResponseWriter, *http.Request) (bool, error){
		"refused": fail, "hanging": hang, "overloaded": overload,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, &options{
					Cache:    &caching{TTL: 10 * time.Second, StaleIfError: time.Minute},
					Identity: &identifying{TTL: time.Hour},
				})
				p.hs.Presence[alice] = `{"presence":"unavailable","last_active_ago":1000}`
				p.Get("bob-token", alice)
				p.Get("carol-token", alice) // refused
				time.Sleep(20 * time.Second)
				p.hs.Intercept = intercept
				began := time.Now()
				resp := p.Get("bob-token", alice)
				waited := time.Since(began)
				p.Want(resp, 200, fmt.Sprintf(`{"presence":"unavailable","last_active_ago":%d}`, 21000+waited.Milliseconds()),
					"matrix_presence; hit; ttl=-1")
				if !strings.HasSuffix(resp.Header.Get("Cache-Status"), "; detail=stale-if-error") {
					t.Errorf("Cache-Status is %q", resp.Header.Get("Cache-Status"))
				}
				if resp := p.Get("carol-token", alice); resp.StatusCode < 500 {
					t.Errorf("who was refused got %d", resp.StatusCode)
				}
				time.Sleep(time.Minute)
				if resp := p.Get("bob-token", alice); resp.StatusCode < 500 {
					t.Errorf("after stale_if_error: %d", resp.StatusCode)
				}
			})
		})
	}
}

func TestNothingStaleAfterAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{Cache: &caching{StaleIfError: time.Hour}})
		p.Get("bob-token", alice)
		p.Put("alice-token", alice, `{"presence":"offline"}`)
		p.hs.Intercept = func(http.ResponseWriter, *http.Request) (bool, error) {
			return true, failed(http.StatusBadGateway, io.ErrUnexpectedEOF)
		}
		p.Want(p.Get("bob-token", alice), 502, "", "")
	})
}

func TestAnswersThatAreNotKept(t *testing.T) {
	for name, tc := range map[string]struct {
		status      int
		contentType string
		header      http.Header
		body        string
	}{
		"HTML":                        {200, "text/html", nil, "<html>"},
		"not a presence":              {200, "application/json", nil, `{"other":1}`},
		"cut off":                     {200, "application/json", nil, `{"presence":"online"`},
		"encoded":                     {200, "application/json", http.Header{"Content-Encoding": {"br"}}, `{"presence":"online"}`},
		"varies by something":         {200, "application/json", http.Header{"Vary": {"Accept-Language"}}, `{"presence":"online"}`},
		"varies by an echoed origin":  {200, "application/json", http.Header{"Vary": {"Origin"}, "Access-Control-Allow-Origin": {"https://a"}}, `{"presence":"online"}`},
		"names no origin for none":    {200, "application/json", http.Header{"Vary": {"Origin"}}, `{"presence":"online"}`},
		"large":                       {200, "application/json", nil, `{"presence":"online","status_msg":"` + strings.Repeat("x", 10_000) + `"}`},
		"very large":                  {200, "application/json", nil, `{"presence":"online","status_msg":"` + strings.Repeat("x", 1<<20) + `"}`},
		"404 of an unknown route":     {404, "application/json", nil, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`},
		"403 of a web firewall":       {403, "text/html", nil, "<html>"},
		"500":                         {500, "application/json", nil, `{"errcode":"M_UNKNOWN","error":"Internal server error"}`},
		"429":                         {429, "application/json", nil, `{"errcode":"M_LIMIT_EXCEEDED","error":"Too many requests"}`},
		"currently active for an age": {200, "application/json", nil, `{"presence":"online","last_active_ago":3000000,"currently_active":true}`},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, new(options))
			p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
				if strings.HasSuffix(r.URL.Path, "/whoami") {
					return false, nil
				}
				for name, values := range tc.header {
					w.Header()[name] = values
				}
				w.Header().Set("Content-Type", tc.contentType)
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
				return true, nil
			}
			for i := range 3 {
				resp := p.Get("bob-token", alice)
				if got := bodyOf(resp); resp.StatusCode != tc.status || got != tc.body {
					t.Errorf("request %d: got %d and %d bytes, want %d and %d", i, resp.StatusCode, len(got), tc.status, len(tc.body))
				}
				if got := resp.Header.Get("Cache-Status"); strings.Contains(got, "hit") || strings.Contains(got, "stored") {
					t.Errorf("request %d: Cache-Status is %q", i, got)
				}
			}
			// A body too large to share is fetched once more, to be streamed; after
			// that it is known.
			if got := p.hs.Count("GET"); got > 4 {
				t.Errorf("3 reads cost %d requests", got)
			}
		})
	}
}

func TestFetchIsPlainWhateverTheClientAsksFor(t *testing.T) {
	p := newProxy(t, new(options))
	r := request("GET", statusPath(alice), "bob-token", "")
	r.Header.Set("Accept-Encoding", "gzip, br")
	r.Header.Set("If-None-Match", `"x"`)
	r.Header.Set("Range", "bytes=0-1")
	r.Header.Set("User-Agent", "Element/1.0")
	r.RemoteAddr = "192.0.2.7:1234"
	p.Want(p.Do(r), 200, p.hs.Presence[alice], "")
	sent := p.hs.Last()
	for _, name := range []string{"Accept-Encoding", "If-None-Match", "Range"} {
		if got := sent.Header.Get(name); got != "" {
			t.Errorf("%s: %s went upstream", name, got)
		}
	}
	if sent.Header.Get("User-Agent") != "Element/1.0" || sent.RemoteAddr != "192.0.2.7:1234" {
		t.Errorf("went as %q from %s", sent.Header.Get("User-Agent"), sent.RemoteAddr)
	}
}

func TestCacheOffStillLimitsReads(t *testing.T) {
	p := newProxy(t, &options{
		Cache:     &caching{Off: true},
		ReadLimit: &rate{Events: 2, Window: time.Hour},
	})
	for range 2 {
		p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; fwd=bypass; detail=off")
	}
	p.WantError(p.Get("bob-token", alice), 429, "M_LIMIT_EXCEEDED")
	p.WantCounts(map[string]int{"GET": 2})
}

func TestPerViewerKeepsBodiesApart(t *testing.T) {
	p := newProxy(t, &options{Cache: &caching{PerViewer: true}})
	p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if r.Method != "GET" || strings.HasSuffix(r.URL.Path, "/whoami") {
			return false, nil
		}
		answer(w, 200, fmt.Sprintf(`{"presence":"online","status_msg":%q}`, r.Header.Get("Authorization")))
		return true, nil
	}
	for _, cacheStatus := range []string{"matrix_presence; fwd=miss", "matrix_presence; hit"} {
		for _, token := range []string{"bob-token", "carol-token"} {
			p.Want(p.Get(token, alice), 200, fmt.Sprintf(`{"presence":"online","status_msg":"Bearer %s"}`, token), cacheStatus)
		}
	}
	p.Put("alice-token", alice, `{"presence":"offline"}`)
	for _, token := range []string{"bob-token", "carol-token"} {
		p.Want(p.Get(token, alice), 200, "", "matrix_presence; fwd=miss")
	}
}

// A reader whose permission, or identity, was fresh when they came shares a fetch that
// takes longer than that lasts. Meanwhile they have left the room, or are logged out.
func TestSharedFetchIsNoUseAfterThePermissionHasEnded(t *testing.T) {
	testSharedFetchThatTakesLonger(t, &options{Cache: &caching{TTL: 10 * time.Second}},
		func(hs *homeserver) { hs.Hidden[bob+" "+alice] = true }, 403, "M_FORBIDDEN")
}

func TestSharedFetchIsNoUseAfterTheIdentityHasEnded(t *testing.T) {
	testSharedFetchThatTakesLonger(t, &options{Identity: &identifying{TTL: 10 * time.Second}},
		func(hs *homeserver) { delete(hs.Tokens, "bob-token") }, 401, "M_UNKNOWN_TOKEN")
}

func testSharedFetchThatTakesLonger(t *testing.T, handler *options, meanwhile func(*homeserver), status int, errcode string) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, handler)
		p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; fwd=miss")
		p.Want(p.Get("alice-token", alice), 200, "", "matrix_presence; fwd=miss")
		p.Want(p.Put("alice-token", alice, `{"presence":"unavailable","status_msg":"secret"}`), 200, `{}`, "")
		time.Sleep(9 * time.Second)
		p.hs.Mu.Lock()
		meanwhile(p.hs)
		p.hs.Mu.Unlock()
		p.hs.Intercept = func(_ http.ResponseWriter, r *http.Request) (bool, error) {
			time.Sleep(5 * time.Second)
			return false, nil
		}
		var both sync.WaitGroup
		both.Go(func() { p.Want(p.Get("alice-token", alice), 200, "", "matrix_presence; fwd=miss; stored") })
		time.Sleep(500 * time.Millisecond)
		both.Go(func() { p.WantError(p.Get("bob-token", alice), status, errcode) })
		both.Wait()
	})
}

// Somebody is kicked while a fetch of theirs is on its way, which was answered before that. A read
// that comes after the kick must not share it.
func TestFetchFromBeforeAMembershipChangeIsNotShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, new(options))
		first := true
		p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
			if !strings.Contains(r.URL.Path, "/presence/") || !first {
				return false, nil
			}
			first = false
			time.Sleep(5 * time.Second)
			answer(w, 200, `{"presence":"online","status_msg":"from before"}`)
			return true, nil
		}
		var both sync.WaitGroup
		both.Go(func() { p.Want(p.Get("bob-token", alice), 200, `{"presence":"online","status_msg":"from before"}`, "") })
		time.Sleep(time.Second)
		p.hs.Mu.Lock()
		p.hs.Hidden[bob+" "+alice] = true
		p.hs.Mu.Unlock()
		p.memory.presence.MembershipChanged(bob, p.memory.now(), 0)
		time.Sleep(time.Second)
		both.Go(func() { p.WantError(p.Get("bob-token", alice), 403, "M_FORBIDDEN") })
		both.Wait()
		p.WantError(p.Get("bob-token", alice), 403, "M_FORBIDDEN") // nor was it kept
	})
}
