package gateway

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/scripted"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// locks has the homeserver refuse whatever a token asks for.
func (hs *homeserver) locks(token string, status int, body string) {
	hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			return false, nil
		}
		answer(w, status, body)
		return true, nil
	})
}

const lockedBody = `{"errcode":"M_USER_LOCKED","error":"User account has been locked","soft_logout":true}`

// behind returns a request from the address that everybody of a test is behind.
func behind(method, path, token, body string) *http.Request {
	r := request(method, path, token, body)
	r.RemoteAddr = "192.0.2.7:1"
	return r
}

func fewUnknown() *options {
	return &options{Identity: &identifying{
		TTL: time.Minute, RejectedLimit: &rate{Events: 1, Window: time.Hour, Burst: 3},
	}}
}

// exhaust uses the address's budget of unknown tokens up.
func (p *proxy) exhaust() {
	p.t.Helper()
	for i := range 3 {
		p.WantError(p.Do(behind("GET", statusPath(alice), fmt.Sprint("made-up-", i), "")), 401, unknownToken)
	}
	p.WantError(p.Do(behind("GET", statusPath(alice), "made-up-4", "")), 429, "M_LIMIT_EXCEEDED")
}

// Once one who made up tokens behind a NAT had everybody else there be refused, as soon as
// memory no longer knew whose their tokens are.
func TestKnownTokensAreAskedAboutWhateverTheirAddressHasDone(t *testing.T) {
	const online = `{"presence":"online"}`
	for name, meanwhile := range map[string]func(p *proxy){
		"expired":                func(*proxy) { time.Sleep(2 * time.Minute) },
		"another device is gone": func(p *proxy) { p.Do(behind("DELETE", clientAPI+"devices/D", "alice-phone", "")) },
		"logged out elsewhere":   func(p *proxy) { p.Do(behind("POST", clientAPI+"logout", "alice-phone", "")) },
		"a logout was not answered": func(p *proxy) {
			p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
				if strings.HasSuffix(r.URL.Path, "/logout") {
					w.WriteHeader(499)
					return true, nil
				}
				return false, nil
			})
			p.Do(behind("POST", clientAPI+"logout", "alice-token", ""))
		},
		"its account was locked for a while": func(p *proxy) {
			p.hs.locks("alice-token", 401, lockedBody)
			time.Sleep(2 * time.Minute)
			p.Want(p.Do(behind("GET", statusPath(bob), "alice-token", "")), 401, lockedBody, "")
			time.Sleep(2 * time.Minute)
			p.hs.AnswerBy(nil)
		},
	} {
		for what, ask := range map[string]func(p *proxy) *http.Response{
			"read": func(p *proxy) *http.Response { return p.Do(behind("GET", statusPath(bob), "alice-token", "")) },
			"read with a user": func(p *proxy) *http.Response {
				return p.Do(behind("GET", statusPath(bob)+"?user_id=@x:example.com", "alice-token", ""))
			},
			"write": func(p *proxy) *http.Response { return p.Do(behind("PUT", statusPath(alice), "alice-token", online)) },
			"uncertain read": func(p *proxy) *http.Response {
				return p.Do(behind("GET", statusPath(bob)+"?user_id=", "alice-token", ""))
			},
		} {
			t.Run(name+", "+what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newProxy(t, fewUnknown())
					p.Want(p.Do(behind("GET", statusPath(alice), "alice-token", "")), 200, "", "")
					p.Want(p.Do(behind("GET", statusPath(alice), "alice-phone", "")), 200, "", "")
					p.exhaust()
					meanwhile(p)
					p.Want(ask(p), 200, "", "")
					p.WantError(p.Do(behind("GET", statusPath(alice), "carol-token", "")), 429, "M_LIMIT_EXCEEDED") // who is new
				})
			})
		}
	}
}

// A known token doesn't wait in the line of those that are made up.
func TestKnownTokenDoesNotWaitBehindMadeUpOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{Identity: &identifying{TTL: time.Minute}})
		p.Do(behind("GET", statusPath(alice), "alice-token", ""))
		time.Sleep(2 * time.Minute)
		release := make(chan struct{})
		p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
			if strings.HasPrefix(r.Header.Get("Authorization"), "Bearer made-up") {
				<-release
			}
			return false, nil
		})
		for i := range 1000 {
			go p.Do(behind("GET", statusPath(alice), fmt.Sprint("made-up-", i), ""))
		}
		synctest.Wait()
		p.Want(p.Do(behind("GET", statusPath(alice), "alice-token", "")), 200, "", "")
		close(release)
	})
}

// A token that was known and has ended costs its neighbours nothing, and is looked up
// like any unknown one from then on.
func TestKnownTokenThatHasEndedIsChargedToNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, fewUnknown())
		for i := range 10 {
			p.hs.Mu.Lock()
			p.hs.Tokens[fmt.Sprint("old-", i)] = alice
			p.hs.Mu.Unlock()
			p.Want(p.Do(behind("GET", statusPath(alice), fmt.Sprint("old-", i), "")), 200, "", "")
		}
		time.Sleep(2 * time.Minute)
		for i := range 10 {
			p.hs.Mu.Lock()
			delete(p.hs.Tokens, fmt.Sprint("old-", i))
			p.hs.Mu.Unlock()
			p.WantError(p.Do(behind("GET", statusPath(alice), fmt.Sprint("old-", i), "")), 401, unknownToken)
		}
		p.exhaust()
	})
}

// Once each read of a locked account cost two requests, and fifty of them had its
// neighbours' new tokens be refused.
func TestRefusalOfAnAccountIsItsOwn(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		body   string
	}{
		"locked":         {401, lockedBody},
		"expired":        {403, `{"errcode":"ORG_MATRIX_EXPIRED_ACCOUNT","error":"User account has expired"}`},
		"not its user":   {400, `{"errcode":"M_EXCLUSIVE","error":"User is not in namespace."}`},
		"unknown device": {400, `{"errcode":"M_INVALID_PARAM","error":"Unknown device for user."}`},
		"missing":        {401, `{"errcode":"M_MISSING_TOKEN","error":"Missing access token"}`},
	} {
		for _, known := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, known: %v", name, known), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newProxy(t, fewUnknown())
					read := func(method, token string) *http.Response {
						return p.Do(behind(method, statusPath(bob), token, ""))
					}
					if known {
						p.Want(read("GET", "alice-token"), 200, "", "")
						time.Sleep(2 * time.Minute)
					}
					p.hs.locks("alice-token", tc.status, tc.body)
					lookups, reads := p.hs.Count("whoami"), p.hs.Count("GET")
					for range 100 {
						p.Want(read("GET", "alice-token"), tc.status, tc.body, "matrix_presence; fwd=bypass")
					}
					if lookups, reads = p.hs.Count("whoami")-lookups, p.hs.Count("GET")-reads; lookups != 1 || reads != 100 {
						t.Errorf("100 reads cost %d lookups and %d reads", lookups, reads)
					}
					for range 10 {
						if resp := read("HEAD", "alice-token"); resp.StatusCode != tc.status {
							t.Errorf("HEAD: %d", resp.StatusCode)
						}
						p.Want(p.Do(behind("PUT", statusPath(alice), "alice-token", `{"presence":"online"}`)), tc.status, tc.body, "")
					}
					p.Want(read("GET", "carol-token"), 200, "", "") // a neighbour's new one

					// What is over is over: a write asks, and a read that succeeds is the last that passes.
					p.hs.AnswerBy(nil)
					if known {
						p.Want(p.Do(behind("PUT", statusPath(alice), "alice-token", `{"presence":"online"}`)), 200, "{}", "")
					} else {
						p.Want(read("GET", "alice-token"), 200, "", "matrix_presence; fwd=bypass")
					}
					p.Want(read("GET", "alice-token"), 200, "", "matrix_presence; ")
					if p.gateway.isRefused(matrix.Credential{Token: "alice-token"}, time.Now()) {
						t.Error("it is still remembered")
					}
				})
			})
		}
	}
}

// Nor does it cost more in mode observe, or by its syncs.
func TestRefusedAccountIsAskedAboutOnce(t *testing.T) {
	for name, handler := range map[string]*options{
		"observe": {Mode: "observe"}, "sync": {SyncPresence: "limit", Homeserver: "synapse"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, handler)
				p.hs.locks("alice-token", 401, lockedBody)
				for range 20 {
					p.Do(request("GET", statusPath(bob), "alice-token", ""))
					p.Do(request("GET", syncPath, "alice-token", ""))
					synctest.Wait()
				}
				p.WantCounts(map[string]int{"whoami": 1})
			})
		})
	}
}

// A limit, or trouble of the homeserver's own, says nothing about the credential.
func TestPassingRefusalIsNotRemembered(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		body   string
	}{
		"limited": {429, `{"errcode":"M_LIMIT_EXCEEDED","error":"too quickly","retry_after_ms":500}`},
		"failed":  {503, `{"errcode":"M_UNKNOWN","error":"Unable to introspect the access token"}`},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, new(options))
			p.hs.locks("alice-token", tc.status, tc.body)
			p.Want(p.Get("alice-token", bob), tc.status, tc.body, "matrix_presence; fwd=bypass")
			p.hs.AnswerBy(nil)
			p.Want(p.Get("alice-token", bob), 200, "", "matrix_presence; fwd=miss; stored")
		})
	}
}

// Reads that pass because nobody tells whose they are cost their address only what the
// homeserver says to be made up.
func TestOnlyUnknownTokensOfReadsThatPassAreCharged(t *testing.T) {
	const unknown = `{"errcode":"M_UNKNOWN_TOKEN","error":"Unknown token"}`
	for name, tc := range map[string]struct {
		method, body, encoding string
		charged                bool
	}{
		"unknown":            {"GET", unknown, "", true},
		"locked":             {"GET", lockedBody, "", false},
		"missing":            {"GET", `{"errcode":"M_MISSING_TOKEN"}`, "", false},
		"no JSON":            {"GET", "go away", "", false},
		"an odd encoding":    {"GET", unknown, "zstd", false},
		"without saying why": {"HEAD", "", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, fewUnknown())
			p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
				if strings.HasSuffix(r.URL.Path, "/whoami") {
					w.WriteHeader(502)
					return true, nil
				}
				if tc.encoding != "" {
					w.Header().Set("Content-Encoding", tc.encoding)
				}
				answer(w, 401, tc.body)
				return true, nil
			})
			last := 0
			for range 4 {
				resp := p.Do(behind(tc.method, statusPath(alice), "token", ""))
				if last = resp.StatusCode; last == 401 && bodyOf(resp) != tc.body {
					t.Errorf("the client got %s", bodyOf(resp))
				}
			}
			if want := map[bool]int{true: 429, false: 401}[tc.charged]; last != want {
				t.Errorf("the fourth read got %d, want %d", last, want)
			}
		})
	}
}

// Once the refusal of one ghost dropped what waited of all a bridge's ghosts, without a
// word: writes that had been answered 200.
func TestRefusalOfOneGhostLeavesTheOthersWritesAlone(t *testing.T) {
	const cat, dog = "@cat:example.com", "@dog:example.com"
	as := func(method, ghost, body string) *http.Request {
		return request(method, statusPath(ghost)+"?user_id="+ghost, "as-token", body)
	}
	for name, tc := range map[string]struct {
		body    string
		dropped float64
	}{
		// Dendrite says so of a ghost that it doesn't know.
		"unknown": {`{"errcode":"M_UNKNOWN_TOKEN","error":"Unknown token"}`, 1},
		"locked":  {lockedBody, 0},
	} {
		for what, notice := range map[string]func(p *proxy){
			"read":  func(p *proxy) { p.Do(as("GET", cat, "")) },
			"write": func(*proxy) {}, // the delivery itself
			"sync": func(p *proxy) {
				p.Do(request("GET", syncPath+"?set_presence=unavailable&user_id="+cat, "as-token", ""))
			},
		} {
			t.Run(name+", by a "+what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := coalescing()
					h.SyncPresence, h.Homeserver = "limit", "synapse"
					p := newProxy(t, h)
					logger, logs := testkit.NewLogs(slog.LevelWarn)
					p.gateway.logger = logger
					p.hs.Tokens["as-token"] = "@bridge:example.com"
					for _, ghost := range []string{cat, dog} {
						p.Want(p.Do(as("PUT", ghost, message(0))), 200, "", "")
						p.Want(p.Do(as("PUT", ghost, message(1))), 200, "", "matrix_presence; detail=coalesced")
					}
					p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
						if r.URL.Query().Get("user_id") != cat {
							return false, nil
						}
						answer(w, 401, tc.body)
						return true, nil
					})
					notice(p)
					time.Sleep(2 * time.Minute)
					want := map[string]float64{"delivered": 1, "dropped": tc.dropped}
					if tc.dropped == 0 {
						want["lost"] = 1
					}
					p.wantDeliveries(want)
					if got := logs.Count("answered with 200"); got != 1 {
						t.Errorf("%d lines in the log about it: %v", got, logs.All())
					}
					p.Want(p.Do(as("GET", dog, "")), 200, "", "")
				})
			})
		}
	}
}

// Nor is it forgotten who the others are: that was once the case if it was a client's own request that was refused.
func TestRefusalOfOneGhostCostsTheOthersNoQuestion(t *testing.T) {
	const cat, dog = "@cat:example.com", "@dog:example.com"
	for name, path := range map[string]string{"a write": statusPath(cat), "a message": "/_matrix/client/v3/rooms/!r:hs/send/m.room.message/1"} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, &options{SyncPresence: "limit", Homeserver: "synapse"})
			p.hs.Tokens["as-token"] = "@bridge:example.com"
			as := func(method, path, ghost string) *http.Response {
				return p.Do(request(method, path+"?user_id="+ghost, "as-token", `{"presence":"online"}`))
			}
			for _, ghost := range []string{cat, dog} {
				p.Want(as("PUT", statusPath(ghost), ghost), 200, "", "")
			}
			p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
				if r.URL.Query().Get("user_id") != cat {
					return false, nil
				}
				answer(w, 401, `{"errcode":"M_UNKNOWN_TOKEN","error":"Unknown token"}`)
				return true, nil
			})
			if resp := as("PUT", path, cat); resp.StatusCode != 401 {
				t.Fatal(resp.StatusCode)
			}
			before := p.hs.Count("whoami")
			p.Want(as("PUT", statusPath(dog), dog), 200, "", "")
			if asked := p.hs.Count("whoami") - before; asked != 0 {
				t.Errorf("%d questions whose the other's credential is", asked)
			}
			if resp := as("PUT", statusPath(cat), cat); resp.StatusCode != 401 {
				t.Errorf("the one who was refused writes: %d", resp.StatusCode)
			}
		})
	}
}

// A bridge may be refused for as many users as it likes to name.
func TestRefusalsOfABridgeHideNoLockedAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a slow machine must not outlast what is remembered
		p := newProxy(t, new(options))
		p.hs.locks("locked", 401, lockedBody)
		p.Get("locked", alice)
		p.hs.locks("as-token", 403, `{"errcode":"M_FORBIDDEN","error":"not yours"}`)
		for i := range 3000 {
			p.Do(request("GET", fmt.Sprintf("%s?user_id=@g%d:example.com", statusPath(bob), i), "as-token", ""))
		}
		// Once the locked account of somebody else was forgotten then.
		if got := p.lookupsOf("locked"); got != 0 {
			t.Errorf("%d lookups of a locked account, want 0", got)
		}
	})
}

// A known token is no way around the budget: with made-up user_ids Dendrite doesn't know it.
func TestUnknownUsersOfAKnownTokenAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, fewUnknown())
		p.hs.Tokens["as-token"] = "@bridge:example.com"
		p.Want(p.Do(behind("GET", statusPath(alice), "as-token", "")), 200, "", "")
		p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
			if r.URL.Query().Get("user_id") == "" {
				return false, nil
			}
			answer(w, 401, `{"errcode":"M_UNKNOWN_TOKEN","error":"Unknown token"}`)
			return true, nil
		})
		for i := range 1000 {
			p.Do(behind("GET", fmt.Sprintf("%s?user_id=@x%d:example.com", statusPath(alice), i), "as-token", ""))
		}
		if got := p.hs.Count("whoami"); got != 1+3*retryFactor {
			t.Errorf("%d lookups, want %d", got, 1+3*retryFactor)
		}
		// It is nobody else's budget, and not that of what is known.
		p.Want(p.Do(behind("GET", statusPath(alice), "alice-token", "")), 200, "", "")
		p.Want(p.Do(behind("GET", statusPath(alice), "as-token", "")), 200, "", "")
	})
}

// A refusal while a homeserver answers a read ends what is remembered of the account, but
// not that its token is one.
func TestLockedAccountReadsNothingFromMemory(t *testing.T) {
	p := newProxy(t, new(options))
	p.Want(p.Get("alice-token", alice), 200, "", "")
	p.hs.locks("alice-token", 401, lockedBody)
	p.Want(p.Get("alice-token", bob), 401, lockedBody, "matrix_presence; fwd=miss")
	p.Want(p.Get("alice-token", alice), 401, lockedBody, "matrix_presence; fwd=bypass")
	if !p.memory.identities.IsKnown(matrix.Credential{Token: "alice-token"}) {
		t.Error("the token is no longer one that was known")
	}
}

// What goes past a watch is what was sent, in the parts in which it was sent.
func TestWatchChangesNothing(t *testing.T) {
	const unknown = `{"errcode":"M_UNKNOWN_TOKEN"}`
	for name, write := range map[string]func(w http.ResponseWriter){
		"parts": func(w http.ResponseWriter) {
			w.WriteHeader(401)
			_, _ = io.WriteString(w, unknown[:5])
			_, _ = io.WriteString(w, unknown[5:])
		},
		"a reader": func(w http.ResponseWriter) {
			w.WriteHeader(401)
			_, _ = w.(io.ReaderFrom).ReadFrom(strings.NewReader(unknown))
		},
		"early": func(w http.ResponseWriter) { w.WriteHeader(103); w.WriteHeader(401); _, _ = io.WriteString(w, unknown) },
		"other": func(w http.ResponseWriter) {
			w.WriteHeader(200)
			_, _ = w.(io.ReaderFrom).ReadFrom(strings.NewReader(unknown))
		},
		"no status": func(w http.ResponseWriter) { _, _ = io.WriteString(w, unknown) },
		"no body":   func(w http.ResponseWriter) { w.WriteHeader(401) },
		"no answer": func(http.ResponseWriter) {},
		"large": func(w http.ResponseWriter) {
			w.WriteHeader(401)
			_, _ = io.WriteString(w, strings.Repeat("}", 2*maxSubresponse))
		},
	} {
		t.Run(name, func(t *testing.T) {
			plain, watched := &parts{Discard: scripted.NewDiscard()}, &parts{Discard: scripted.NewDiscard()}
			watched.Header().Set("Content-Type", "application/json")
			write(plain)
			looks, errcode := 0, ""
			w, finish := newWatch(watched, func(status int) bool { return status == 401 }, func(a *subresponse) {
				looks++
				errcode = a.matrixError()
			})
			write(w)
			finish()
			finish()
			if got, want := fmt.Sprint(watched.list), fmt.Sprint(plain.list); got != want {
				t.Errorf("%.80s went out, want %.80s", got, want)
			}
			refused := strings.HasPrefix(fmt.Sprint(plain.list), "[401") || name == "early"
			if known := name == "parts" || name == "a reader" || name == "early"; looks != map[bool]int{true: 1}[refused] || known != (errcode == unknownToken) {
				t.Errorf("looked %d times, errcode %q", looks, errcode)
			}
		})
	}
}

// parts is a response as it is written.
type parts struct {
	*scripted.Discard
	list []string
}

func (p *parts) WriteHeader(status int)      { p.list = append(p.list, fmt.Sprint(status)) }
func (p *parts) Write(b []byte) (int, error) { p.list = append(p.list, string(b)); return len(b), nil }
func (p *parts) ReadFrom(r io.Reader) (int64, error) {
	b, err := io.ReadAll(r)
	p.list = append(p.list, string(b))
	return int64(len(b)), err
}
