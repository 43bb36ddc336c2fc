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
)

// strict makes a homeserver drop heads that are too large, as Twisted does, or have too
// many fields, as hyper does.
func (hs *homeserver) strict() {
	hs.AnswerBy(func(_ http.ResponseWriter, r *http.Request) (bool, error) {
		if size, lines := sizeOf(r); size > 16<<10 || lines > 100 {
			return true, failed(http.StatusBadGateway, io.ErrUnexpectedEOF)
		}
		return false, nil
	})
}

// odd are clients whose requests some homeserver doesn't take.
var odd = map[string]func(r *http.Request){
	"a field of 16.5 KB": func(r *http.Request) { r.Header.Set("X-Large", strings.Repeat("x", 16<<10+512)) },
	"200 fields": func(r *http.Request) {
		for n := range 200 {
			r.Header.Set(fmt.Sprintf("X-%d", n), "x")
		}
	},
	"a User-Agent of 16.5 KB": func(r *http.Request) { r.Header.Set("User-Agent", strings.Repeat("x", 16<<10+512)) },
	"200 times X-Forwarded-For": func(r *http.Request) {
		for range 200 {
			r.Header.Add("X-Forwarded-For", "192.0.2.1")
		}
	},
	"a cookie of 16.5 KB":     func(r *http.Request) { r.Header.Set("Cookie", strings.Repeat("x", 16<<10+512)) },
	"an Origin of 16.5 KB":    func(r *http.Request) { r.Header.Set("Origin", strings.Repeat("x", 16<<10+512)) },
	"a query of 16.5 KB":      func(r *http.Request) { r.URL.RawQuery = "x=" + strings.Repeat("x", 16<<10+512) },
	"a user_id of 8 KB":       func(r *http.Request) { r.URL.RawQuery = "user_id=" + strings.Repeat("@", 8<<10) },
	"a host of 16.5 KB":       func(r *http.Request) { r.Host = strings.Repeat("h", 16<<10+512) },
	"Connection names fields": func(r *http.Request) { r.Header.Set("Connection", "Authorization, User-Agent") },
}

func stale() *options {
	return &options{
		Cache:    &caching{TTL: 10 * time.Second, StaleIfError: time.Hour},
		Identity: &identifying{TTL: 10 * time.Second},
	}
}

// newStaleProxy returns one in whose memory what bob has read is stale, and whose his token is is fresh. It takes a bubble.
func newStaleProxy(t *testing.T) *proxy {
	h := stale()
	h.Identity.TTL = time.Hour
	p := newProxy(t, h)
	p.Get("bob-token", alice)
	time.Sleep(20 * time.Second)
	return p
}

// A client with a head that the homeserver drops made our questions fail, and we took the
// homeserver for down: whose token had been deleted elsewhere, and who had been kicked, read
// what was in memory. Now they are told what the homeserver says, or what it does to their
// own request.
func TestOddClientReadsNothingStale(t *testing.T) {
	for name, change := range odd {
		t.Run(name, func(t *testing.T) {
			for what, end := range map[string]func(hs *homeserver){
				"deleted": func(hs *homeserver) { delete(hs.Tokens, "bob-token") },
				"kicked":  func(hs *homeserver) { hs.Hidden[bob+" "+alice] = true },
			} {
				synctest.Test(t, func(t *testing.T) {
					p := newProxy(t, stale())
					p.hs.strict()
					p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; fwd=miss; stored")
					end(p.hs)
					time.Sleep(20 * time.Second)
					for range 2 {
						r := request("GET", statusPath(alice), "bob-token", "")
						change(r)
						resp := p.Do(r)
						body := bodyOf(resp)
						if resp.StatusCode == http.StatusOK || strings.Contains(resp.Header.Get("Cache-Status"), "stale") {
							t.Errorf("who is %s got %d %s, %s", what, resp.StatusCode, body, resp.Header.Get("Cache-Status"))
						}
						if drops := name == "a user_id of 8 KB" || name == "a host of 16.5 KB"; !drops {
							if want := map[string]int{"deleted": 401, "kicked": 403}[what]; resp.StatusCode != want {
								t.Errorf("who is %s got %d %s, want %d", what, resp.StatusCode, body, want)
							}
						}
					}
				})
			}
		})
	}
}

// A proxy before the homeserver may fail by a field that we pass on. That it does for this
// client says nothing about the homeserver.
func TestFailureByAFieldOfTheClientIsNoOutage(t *testing.T) {
	for _, field := range []string{"User-Agent", "Origin", "X-Forwarded-For", "Traceparent"} {
		synctest.Test(t, func(t *testing.T) {
			p := newProxy(t, stale())
			p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
				if r.Header.Get(field) == "evil" {
					answer(w, 500, `{"errcode":"M_UNKNOWN","error":"Internal server error"}`)
					return true, nil
				}
				return false, nil
			}
			p.Get("bob-token", alice)
			p.hs.Hidden[bob+" "+alice] = true
			time.Sleep(20 * time.Second)
			r := request("GET", statusPath(alice), "bob-token", "")
			r.Header.Set(field, "evil")
			p.Want(p.Do(r), 403, "", "")
		})
	}
}

// Nor may it by a parameter that has no effect on the client's token: an ordinary one is the same
// with any user_id.
func TestFailureByAParameterOfTheClientIsNoOutage(t *testing.T) {
	for _, parameter := range []string{"user_id", "device_id", "org.matrix.msc3202.device_id"} {
		synctest.Test(t, func(t *testing.T) {
			p := newProxy(t, stale())
			p.hs.AnswerBy(func(_ http.ResponseWriter, r *http.Request) (bool, error) {
				if strings.Contains(r.URL.RawQuery, "evil") {
					return true, failed(http.StatusBadGateway, io.ErrUnexpectedEOF)
				}
				return false, nil
			})
			read := func(value string) *http.Response {
				return p.Do(request("GET", statusPath(alice)+"?"+parameter+"="+value, "bob-token", ""))
			}
			p.Get("bob-token", alice)
			read("another") // by which it is known that it has no effect
			p.hs.Hidden[bob+" "+alice] = true
			time.Sleep(20 * time.Second)
			p.Want(read("evil"), 403, "", "")
		})
	}
}

// What stands before the homeserver may hold a request up by what the client chose, as a tarpit
// does. That was a timeout like any, after which the client read what was in memory.
func TestRequestThatAFieldOfTheClientHoldsUpIsNoOutage(t *testing.T) {
	for what, tc := range map[string]struct {
		end    func(hs *homeserver)
		status int
	}{
		"deleted": {func(hs *homeserver) { delete(hs.Tokens, "bob-token") }, 401},
		"kicked":  {func(hs *homeserver) { hs.Hidden[bob+" "+alice] = true }, 403},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, stale())
				p.hs.AnswerBy(func(_ http.ResponseWriter, r *http.Request) (bool, error) {
					if r.Header.Get("User-Agent") == "evil" {
						<-r.Context().Done()
						return true, r.Context().Err()
					}
					return false, nil
				})
				p.Get("bob-token", alice)
				tc.end(p.hs)
				time.Sleep(20 * time.Second)
				r := request("GET", statusPath(alice), "bob-token", "")
				r.Header.Set("User-Agent", "evil")
				p.Want(p.Do(r), tc.status, "", "")
			})
		})
	}
}

// A homeserver that answers nobody costs two requests, and the reader the time that it takes
// until what is stale is shown.
func TestHomeserverThatHangsIsAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newStaleProxy(t)
		p.hs.AnswerBy(func(_ http.ResponseWriter, r *http.Request) (bool, error) {
			<-r.Context().Done()
			return true, r.Context().Err()
		})
		r := request("GET", statusPath(alice), "bob-token", "")
		r.Header.Set("User-Agent", "a client")
		began := time.Now()
		p.Want(p.Do(r), 200, "", "matrix_presence; hit; ttl=-15; detail=stale-if-error")
		if took := time.Since(began); took != slowAfter {
			t.Errorf("it took %v", took)
		}
		p.WantCounts(map[string]int{"whoami": 1, "GET": 1 + 2})
		time.Sleep(fetchTimeout) // for the requests to end
	})
}

// A Synapse whose database is gone answers with an error of its own, M_UNKNOWN. To whoami that was
// taken for an answer about the account, so nothing stale was shown once identities had ended.
func TestErrorOfTheHomeserversOwnIsAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, stale())
		p.Get("bob-token", alice)
		time.Sleep(20 * time.Second)
		p.hs.AnswerBy(func(w http.ResponseWriter, _ *http.Request) (bool, error) {
			answer(w, 500, `{"errcode":"M_UNKNOWN","error":"Internal server error"}`)
			return true, nil
		})
		p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; hit; ttl=-10; detail=stale-if-error")
		p.Want(p.Get("carol-token", alice), 500, "", "matrix_presence; fwd=bypass; detail=unknown-identity")
		p.WantError(p.Put("alice-token", alice, `{"presence":"online"}`), 500, "M_UNKNOWN")
	})
}

// What stands before the homeserver may drop requests to a host that it doesn't know, and a
// site without a host takes any. That one client names another is no outage.
func TestHostThatAClientNamesIsNoOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, stale())
		p.hs.AnswerBy(func(_ http.ResponseWriter, r *http.Request) (bool, error) {
			if r.Host != "example.com" {
				return true, failed(http.StatusBadGateway, io.ErrUnexpectedEOF)
			}
			return false, nil
		})
		p.Get("bob-token", alice)
		p.hs.Hidden[bob+" "+alice] = true
		for range 2 {
			time.Sleep(20 * time.Second)
			r := request("GET", statusPath(alice), "bob-token", "")
			r.Host = "evil.example"
			p.Want(p.Do(r), 403, "", "")
		}
	})
}

// With a homeserver that is really down, each question is asked twice at most, and once if
// there is no connection.
func TestOutageCostsTwoRequestsAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, stale())
		p.Get("bob-token", alice)
		time.Sleep(20 * time.Second)
		p.hs.Intercept = func(w http.ResponseWriter, _ *http.Request) (bool, error) {
			answer(w, 503, `{}`)
			return true, nil
		}
		r := request("GET", statusPath(alice), "bob-token", "")
		r.Header.Set("User-Agent", "a client")
		p.Want(p.Do(r), 200, "", "matrix_presence; hit; ttl=-10; detail=stale-if-error")
		p.WantCounts(map[string]int{"whoami": 1 + 2, "GET": 1 + 2})
	})
}

// A page of 80 KB for an error was fetched, fetched once more without the client's fields, and
// then, as no such page is kept, asked for by the reader: three requests for one read.
func TestErrorAtLengthCostsTwoRequestsAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, new(options))
		p.Get("bob-token", bob)
		p.hs.AnswerBy(func(w http.ResponseWriter, _ *http.Request) (bool, error) {
			answer(w, 500, strings.Repeat("x", 80_000))
			return true, nil
		})
		before := p.hs.Count("GET")
		r := request("GET", statusPath(alice), "bob-token", "")
		r.Header.Set("User-Agent", "a client")
		p.Want(p.Do(r), 500, "", "matrix_presence; fwd=bypass; detail=large")
		p.WantCounts(map[string]int{"GET": before + 2})
	})
}

// 666 of 1,617 readers got the 502 of a client whose request they shared. What one client's
// request fails with, or is refused with on the way, is no other's answer.
func TestNobodyGetsAnothersFailure(t *testing.T) {
	for name, fail := range map[string]func(w http.ResponseWriter) error{
		"no answer": func(http.ResponseWriter) error { return failed(502, io.ErrUnexpectedEOF) },
		"500": func(w http.ResponseWriter) error {
			answer(w, 500, `{"errcode":"M_UNKNOWN","error":"Internal server error"}`)
			return nil
		},
		"large 500":   func(w http.ResponseWriter) error { answer(w, 500, strings.Repeat("x", 100_000)); return nil },
		"limited":     func(w http.ResponseWriter) error { http.Error(w, "slow down", http.StatusTooManyRequests); return nil },
		"site's 403":  func(http.ResponseWriter) error { return failed(403, errors.New("banned")) },
		"panic":       func(http.ResponseWriter) error { panic("bug") },
		"broken off":  func(w http.ResponseWriter) error { w.WriteHeader(200); panic(http.ErrAbortHandler) },
		"no handler":  func(http.ResponseWriter) error { return nil },
		"redirection": func(w http.ResponseWriter) error { w.WriteHeader(302); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const readers = 20
				p := newProxy(t, &options{Cache: &caching{TTL: 10 * time.Second}, Identity: &identifying{TTL: time.Hour}})
				for n := range readers {
					p.hs.Tokens[fmt.Sprintf("token-%d", n)] = fmt.Sprintf("@reader%d:example.com", n)
					p.Get(fmt.Sprintf("token-%d", n), alice)
				}
				// The states end, the permissions are renewed.
				time.Sleep(9 * time.Second)
				p.Put("alice-token", alice, `{"presence":"online"}`)
				time.Sleep(2 * time.Second)
				for n := range readers {
					p.Get(fmt.Sprintf("token-%d", n), alice)
				}
				p.Put("alice-token", alice, `{"presence":"unavailable"}`)
				time.Sleep(2 * time.Second)

				release := make(chan struct{})
				p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					token := r.Header.Get("Authorization")
					if strings.HasSuffix(token, "token-0") {
						<-release
						return true, fail(w)
					}
					return false, nil
				})
				var wg sync.WaitGroup
				wg.Go(func() { p.Get("token-0", alice) })
				synctest.Wait()
				for n := 1; n < readers; n++ {
					wg.Go(func() {
						resp := p.Get(fmt.Sprintf("token-%d", n), alice)
						if body := bodyOf(resp); resp.StatusCode != 200 || !strings.Contains(body, "unavailable") {
							t.Errorf("reader %d got %d %s", n, resp.StatusCode, body)
						}
					})
				}
				synctest.Wait()
				close(release)
				wg.Wait()
			})
		})
	}
}

// What stands before a homeserver refuses one client's request for its time, its size or because it comes too early.
// Other clients of the same token who shared it got that as well.
func TestRefusalOnTheWayIsOfItsOwnClient(t *testing.T) {
	for _, status := range aboutRequest {
		t.Run(http.StatusText(status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, new(options))
				p.Get("bob-token", bob)
				release := make(chan struct{})
				p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if !strings.HasPrefix(r.RemoteAddr, "203.0.113.1:") {
						return false, nil
					}
					<-release
					answer(w, status, `{"errcode":"M_UNKNOWN","error":"no"}`)
					return true, nil
				})
				var wg sync.WaitGroup
				wg.Go(func() { p.Want(p.readFrom("203.0.113.1", "bob-token"), status, "", "") })
				synctest.Wait()
				wg.Go(func() { p.Want(p.readFrom("203.0.113.2", "bob-token"), 200, "", "") })
				synctest.Wait()
				close(release)
				wg.Wait()
			})
		})
	}
}

// A token may be copied. What the homeserver, or a limit, does to one client who has it is
// not what another one gets.
func TestLookupThatFailsIsOfItsOwnClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, new(options))
		release := make(chan struct{})
		p.hs.AnswerBy(func(_ http.ResponseWriter, r *http.Request) (bool, error) {
			if strings.HasPrefix(r.RemoteAddr, "203.0.113.1:") {
				<-release
				return true, failed(http.StatusBadGateway, io.ErrUnexpectedEOF)
			}
			return false, nil
		})
		var wg sync.WaitGroup
		for n := range 3 {
			wg.Go(func() {
				r := request("PUT", statusPath(alice), "alice-token", `{"presence":"online"}`)
				r.RemoteAddr = fmt.Sprintf("203.0.113.%d:1", n+1)
				want := 200
				if n == 0 {
					want = 502
				}
				p.Want(p.Do(r), want, "", "")
			})
			synctest.Wait()
		}
		close(release)
		wg.Wait()
	})
}

// Everybody who shared a lookup that failed asked once more, all at the same time: of the
// readers and writers of one token in an outage each cost the homeserver a question. Now one of
// each address does.
func TestCrowdOfOneTokenDoesNotRunAgainstAHomeserverThatIsDown(t *testing.T) {
	for name, tc := range map[string]struct {
		fail   func(w http.ResponseWriter) error
		status int
	}{
		"no answer": {func(http.ResponseWriter) error { return failed(502, io.ErrUnexpectedEOF) }, 502},
		"500":       {func(w http.ResponseWriter) error { answer(w, 500, `{}`); return nil }, 502},
		"no Matrix": {func(w http.ResponseWriter) error { answer(w, 204, ""); return nil }, 502},
		"limited":   {func(w http.ResponseWriter) error { answer(w, 429, `{"errcode":"M_LIMIT_EXCEEDED"}`); return nil }, 429},
	} {
		for _, known := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, known: %v", name, known), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newProxy(t, &options{Identity: &identifying{TTL: time.Minute}})
					if known {
						p.Get("alice-token", alice)
						time.Sleep(2 * time.Minute)
					}
					release := make(chan struct{})
					p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
						<-release
						return true, tc.fail(w)
					})
					before := p.hs.Count("whoami")
					var wg sync.WaitGroup
					for n := range 200 {
						wg.Go(func() {
							r := request("PUT", statusPath(alice), "alice-token", `{"presence":"online"}`)
							r.RemoteAddr = fmt.Sprintf("203.0.113.%d:%d", 1+n%2, n) // of two addresses
							p.Want(p.Do(r), tc.status, "", "")
						})
					}
					synctest.Wait()
					close(release)
					wg.Wait()
					if got := p.hs.Count("whoami") - before; got != 1+2 {
						t.Errorf("%d questions, want one of all and one of each address", got)
					}
				})
			})
		}
	}
}

// fromAddress does a read with a token from an address.
func (p *proxy) readFrom(address, token string) *http.Response {
	r := request("GET", statusPath(alice), token, "")
	r.RemoteAddr = address + ":1"
	return p.Do(r)
}

// Made-up tokens whose lookups the client makes fail were never charged to it.
func TestLookupsThatFailCountAgainstTheirClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{Cache: &caching{TTL: time.Second}})
		p.hs.AnswerBy(func(_ http.ResponseWriter, r *http.Request) (bool, error) {
			if strings.HasPrefix(r.Header.Get("Authorization"), "Bearer evil") {
				return true, failed(http.StatusBadGateway, io.ErrUnexpectedEOF)
			}
			return false, nil
		})
		limited := 0
		for n := range 200 {
			if p.readFrom("203.0.113.1", fmt.Sprintf("evil-%d", n)).StatusCode == http.StatusTooManyRequests {
				limited++
			}
			p.hs.Tokens[fmt.Sprint("honest-", n)] = bob
			if resp := p.readFrom("198.51.100.1", fmt.Sprint("honest-", n)); resp.StatusCode != 200 {
				t.Fatalf("somebody else got %d", resp.StatusCode)
			}
		}
		if limited < 100 {
			t.Errorf("%d of 200 were limited", limited)
		}
	})
}

// In an outage everybody's lookups fail. When it is over, nobody has to wait for that: not
// the many behind one address, and neither those of a homeserver that answers now and then.
func TestOutageIsChargedToNobody(t *testing.T) {
	for name, up := range map[string]func(n int) bool{
		"down":          func(int) bool { return false },
		"now and then":  func(n int) bool { return n%3 == 0 },
		"up and down":   func(n int) bool { return n/100%2 == 0 },
		"once a minute": func(n int) bool { return n%100 == 0 },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, &options{Cache: &caching{TTL: time.Second}})
				p.hs.AnswerBy(nil)
				for n := range 10 {
					p.hs.Tokens[fmt.Sprint("early-", n)] = bob
					p.readFrom("203.0.113.1", fmt.Sprint("early-", n))
				}
				for n := range 1000 {
					p.hs.AnswerBy(func(http.ResponseWriter, *http.Request) (bool, error) {
						return !up(n), map[bool]error{false: failed(502, io.ErrUnexpectedEOF)}[up(n)]
					})
					token := fmt.Sprint("token-", n)
					p.hs.Tokens[token] = bob
					address := "203.0.113.1"
					if n%2 == 0 {
						address = fmt.Sprintf("198.51.%d.%d", n/200, n%200)
					}
					p.readFrom(address, token)
				}
				p.hs.AnswerBy(nil)
				for n := range 100 {
					token := fmt.Sprint("late-", n)
					p.hs.Tokens[token] = bob
					if resp := p.readFrom("203.0.113.1", token); resp.StatusCode != 200 {
						t.Fatalf("after it: %d", resp.StatusCode)
					}
				}
			})
		})
	}
}

// One client's request decides what software everybody's homeserver is taken for, so it
// has nothing of the client's.
func TestVersionQuestionsHaveNothingOfTheClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{SyncPresence: "limit"})
		r := request("GET", "/_matrix/client/v3/sync?x="+strings.Repeat("x", 100), "alice-token", "")
		for _, name := range []string{"User-Agent", "Origin", "Cookie", "X-Forwarded-For", "Traceparent", "X-Evil"} {
			r.Header.Set(name, "evil")
		}
		p.Do(r)
		synctest.Wait()
		asked := 0
		for _, got := range p.hs.Seen {
			if strings.Contains(got.URL.Path, "version") {
				asked++
				if len(got.Header) > 0 || got.URL.RawQuery != "" {
					t.Errorf("%s with %v", got.URL, got.Header)
				}
			}
		}
		if asked == 0 {
			t.Error("nobody asked")
		}
	})
}

// A scripted refusal of the token with an Origin that isn't allowed must not be what all
// scripts get. Our questions have no Origin, and scripts can read the answers to them.
func TestUnknownTokenIsReadableForScripts(t *testing.T) {
	p := newProxy(t, new(options))
	p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Vary", "Origin")
		if origin := r.Header.Get("Origin"); origin != "" {
			w.Header().Set("Access-Control-Allow-Origin", origin)
		}
		w.WriteHeader(401)
		_, err := io.WriteString(w, `{"errcode":"M_UNKNOWN_TOKEN","error":"Unknown token"}`)
		return true, err
	})
	for _, origin := range []string{"https://evil.example", "https://app.example"} {
		r := request("GET", statusPath(alice), "old-token", "")
		r.Header.Set("Origin", origin)
		resp := p.Do(r)
		if got := resp.Header.Get("Access-Control-Allow-Origin"); resp.StatusCode != 401 || got != "*" {
			t.Errorf("%s: %d, Access-Control-Allow-Origin %q", origin, resp.StatusCode, got)
		}
	}
}

// Many proxies echo any Origin, and name no Vary. One reader with an Origin of their own
// chose the field that browsers judge by, for all who read after them.
func TestEchoedOriginIsOfOneReaderOnly(t *testing.T) {
	p := newProxy(t, new(options))
	p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
		origin := r.Header.Get("Origin")
		if origin == "" || !strings.HasSuffix(r.URL.Path, "/status") {
			return false, nil
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Access-Control-Allow-Origin", origin)
		_, err := io.WriteString(w, `{"presence":"online"}`)
		return true, err
	})
	for _, origin := range []string{"https://evil.example", "https://app.example", "https://evil.example"} {
		r := request("GET", statusPath(alice), "bob-token", "")
		r.Header.Set("Origin", origin)
		resp := p.Do(r)
		if got := resp.Header.Get("Access-Control-Allow-Origin"); resp.StatusCode != 200 || got != origin {
			t.Errorf("%s: %d, Access-Control-Allow-Origin %q", origin, resp.StatusCode, got)
		}
	}
	// It costs those who send none nothing.
	p.Want(p.Get("carol-token", bob), 200, "", "matrix_presence; fwd=miss; stored")
	p.Want(p.Get("bob-token", bob), 200, "", "matrix_presence; fwd=miss; stored")
	p.Want(p.Get("bob-token", bob), 200, "", "matrix_presence; hit")
}

// What a reader without an Origin was answered by such a proxy, a field without a value or none,
// was what browsers got from memory, and no script could read it.
func TestBrowsersDoNotGetWhatWasForNoOrigin(t *testing.T) {
	for name, allowed := range map[string]func(origin string) []string{
		"an empty field": func(origin string) []string { return []string{origin} },
		"no field": func(origin string) []string {
			if origin == "" {
				return nil
			}
			return []string{origin}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, new(options))
			p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
				if !strings.HasSuffix(r.URL.Path, "/status") {
					return false, nil
				}
				w.Header().Set("Content-Type", "application/json")
				if values := allowed(r.Header.Get("Origin")); values != nil {
					w.Header()["Access-Control-Allow-Origin"] = values
				}
				_, err := io.WriteString(w, `{"presence":"online"}`)
				return true, err
			})
			read := func(target, origin string) *http.Response {
				r := request("GET", statusPath(target), "bob-token", "")
				if origin != "" {
					r.Header.Set("Origin", origin)
				}
				return p.Do(r)
			}
			read(bob, "https://app.example") // by which it is known that origins matter
			for _, origin := range []string{"", "https://app.example", "https://other.example"} {
				resp := read(alice, origin)
				if got := resp.Header.Get("Access-Control-Allow-Origin"); resp.StatusCode != 200 || got != origin {
					t.Errorf("%q: %d, Access-Control-Allow-Origin %q", origin, resp.StatusCode, got)
				}
			}
			// It is known until the homeserver says otherwise.
			allowed = func(string) []string { return []string{"*"} }
			read(alice, "https://app.example")
			read(carol, "https://app.example")
			p.Want(read(carol, "https://other.example"), 200, "", "matrix_presence; hit")
		})
	}
}

// A client that names "*" for its origin made the proxy look as if it answered each origin for
// itself: other browsers' reads were passed on.
func TestNobodyHasAllOriginsForAnOrigin(t *testing.T) {
	p := newProxy(t, new(options))
	read := func(target, origin, want string) {
		t.Helper()
		r := request("GET", statusPath(target), "bob-token", "")
		r.Header.Set("Origin", origin)
		p.Want(p.Do(r), 200, "", want)
	}
	read(alice, "https://app.example", "matrix_presence; fwd=miss; stored")
	read(bob, "*", "matrix_presence; fwd=miss; stored")
	read(alice, "https://app.example", "matrix_presence; hit")
}

// crowd has readers of so many users share a fetch of alice's presence while the homeserver
// answers by intercept, and returns what they got.
func (p *proxy) crowd(users int, intercept func(http.ResponseWriter, *http.Request) (bool, error)) []*http.Response {
	for n := range users {
		p.hs.Tokens[fmt.Sprint("reader-", n)] = fmt.Sprintf("@reader%d:example.com", n)
		p.Get(fmt.Sprint("reader-", n), alice)
	}
	p.Put("alice-token", alice, `{"presence":"unavailable"}`)
	time.Sleep(2 * time.Second)
	release := make(chan struct{})
	p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
		<-release
		return intercept(w, r)
	})
	answers := make([]*http.Response, users)
	var wg sync.WaitGroup
	for n := range users {
		wg.Go(func() {
			r := request("GET", statusPath(alice), fmt.Sprint("reader-", n), "")
			r.RemoteAddr = fmt.Sprintf("203.0.113.%d:1", n%250)
			r.Header.Set("User-Agent", "a client")
			answers[n] = p.Do(r)
		})
		if n == 0 {
			synctest.Wait()
		}
	}
	synctest.Wait()
	close(release)
	wg.Wait()
	return answers
}

// When the homeserver is down for all, a crowd of readers doesn't run against it: a few ask
// for themselves, and the others believe them.
func TestCrowdDoesNotRunAgainstAHomeserverThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, new(options))
		asked := 0
		for _, resp := range p.crowd(200, func(http.ResponseWriter, *http.Request) (bool, error) {
			p.hs.Mu.Lock()
			defer p.hs.Mu.Unlock()
			asked++
			return true, failed(http.StatusBadGateway, io.ErrUnexpectedEOF)
		}) {
			p.Want(resp, 502, "", "")
		}
		if want := 2 + maxTried - 1; asked != want {
			t.Errorf("200 readers cost %d requests, want %d", asked, want)
		}
	})
}

// A homeserver that refuses two users for their own sake serves all others, also those who
// had shared with both.
func TestCrowdDoesNotBelieveTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, new(options))
		var refused []string
		failures := 0
		for _, resp := range p.crowd(50, func(_ http.ResponseWriter, r *http.Request) (bool, error) {
			p.hs.Mu.Lock()
			defer p.hs.Mu.Unlock()
			token := r.Header.Get("Authorization")
			if len(refused) < 2 && !strings.Contains(strings.Join(refused, " "), token) {
				refused = append(refused, token)
			}
			for _, one := range refused {
				if one == token {
					return true, failed(http.StatusBadGateway, io.ErrUnexpectedEOF)
				}
			}
			return false, nil
		}) {
			if resp.StatusCode != 200 {
				failures++
			}
		}
		if failures != len(refused) {
			t.Errorf("%d readers failures, %d were refused", failures, len(refused))
		}
	})
}
