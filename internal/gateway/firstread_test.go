package gateway

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Tokens of the form that Synapse gives out, which name their users.
const (
	aliceNamed   = "syt_YWxpY2U_vkxaANspFOMXAxspNQTL_3DH4bd"
	bobNamed     = "syt_Ym9i_CbdQpFKExjlYWvRJKVIf_2hoRHd"
	bobsOther    = "syt_Ym9i_blTYzCrlzBsRGwqUqbRX_4RqgZv"
	carolNamed   = "syt_Y2Fyb2w_ecUCZcAQZiTAisSoEwNE_2CLAAu"
	firstUnknown = `{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed.","soft_logout":false}`
)

// newNamed returns a proxy before a Synapse whose tokens name their users, which has said of one
// that it is its user's.
func newNamed(t *testing.T, o *options) *proxy {
	t.Helper()
	if o.Homeserver == "" {
		o.Homeserver = "synapse"
	}
	p := newProxy(t, o)
	for token, user := range map[string]string{aliceNamed: alice, bobNamed: bob, carolNamed: carol} {
		p.hs.Tokens[token] = user
	}
	p.Want(p.Get(aliceNamed, alice), 200, "", "")
	return p
}

// wantAsked compares how many whoami and GET the homeserver has got since the last call.
func (p *proxy) wantAsked(whoami, get int) {
	p.t.Helper()
	p.hs.Mu.Lock()
	defer p.hs.Mu.Unlock()
	if p.hs.Counts["whoami"] != whoami || p.hs.Counts["GET"] != get {
		p.t.Errorf("the homeserver got %d whoami and %d reads, want %d and %d", p.hs.Counts["whoami"], p.hs.Counts["GET"], whoami, get)
	}
	p.hs.Counts["whoami"], p.hs.Counts["GET"] = 0, 0
}

func TestTheFirstReadOfANewTokenIsOneRequest(t *testing.T) {
	p := newNamed(t, new(options))
	p.wantAsked(1, 1) // it isn't known yet whether tokens name their users
	p.Want(p.Get(bobNamed, alice), 200, "", "matrix_presence; fwd=miss; stored")
	p.wantAsked(0, 1)
	p.Want(p.Get(bobNamed, alice), 200, "", "matrix_presence; hit")
	p.wantAsked(0, 0)
	p.wantMetrics(map[string]float64{"lookups_total by_read": 1, "upstream_requests_total first_read": 1, "learned_total identity": 1})
}

// A read that the homeserver refuses doesn't say why for certain, so it is asked; what it said is
// kept all the same.
func TestARefusedFirstReadIsKeptOnceItIsKnownWhose(t *testing.T) {
	p := newNamed(t, new(options))
	p.wantAsked(1, 1)
	p.WantError(p.Get(carolNamed, alice), 403, "M_FORBIDDEN")
	p.wantAsked(1, 1)
	p.Want(p.Get(carolNamed, alice), 403, "", "matrix_presence; hit")
	p.wantAsked(0, 0)
}

// Once a homeserver that limits its clients got each such read twice: a 429 was followed by a question and by a fetch.
func TestALimitedFirstReadIsNotSentAgain(t *testing.T) {
	p := newNamed(t, new(options))
	p.wantAsked(1, 1)
	p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if !strings.Contains(r.URL.Path, "/presence/") {
			return false, nil
		}
		w.Header().Set("Retry-After", "7")
		answer(w, 429, `{"errcode":"M_LIMIT_EXCEEDED","error":"Too many requests"}`)
		return true, nil
	})
	resp := p.Get(bobNamed, alice)
	p.WantError(resp, 429, "M_LIMIT_EXCEEDED")
	if after := resp.Header.Get("Retry-After"); after != "7" {
		t.Errorf("the homeserver's Retry-After is %q", after)
	}
	p.wantAsked(1, 1)
	p.wantMetrics(map[string]float64{"upstream_requests_total first_read": 1, "upstream_requests_total fetch": 1})
}

// What a token says of itself is worth nothing until the homeserver takes it.
func TestAMadeUpTokenThatNamesAUserIsNobodys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newNamed(t, &options{ReadLimit: &rate{Events: 1, Window: time.Hour, Burst: 2},
			Identity: &identifying{RejectedLimit: &rate{Events: 1, Window: time.Hour, Burst: 2}}})
		p.Want(p.Get(bobNamed, alice), 200, "", "")
		p.wantAsked(1, 2)
		p.Want(p.Get(bobsOther, carol), 401, firstUnknown, "")
		p.Want(p.Get(bobsOther, carol), 401, firstUnknown, "") // from memory
		p.Want(p.Get(bobsOther, alice), 401, firstUnknown, "") // as bob reads from memory
		p.Want(p.Put(bobsOther, bob, `{"presence":"online"}`), 401, firstUnknown, "")
		if asked := p.hs.Count("whoami") + p.hs.Count("GET"); asked != 1 {
			t.Errorf("the homeserver was asked %d times about one token", asked)
		}
		time.Sleep(defaultRejectedTTL)
		p.Want(p.Get(bobsOther, carol), 401, firstUnknown, "")
		// It is charged as any other that is made up, and nothing of it to bob.
		p.Want(p.Get("syt_made_up", alice), 401, firstUnknown, "")
		p.WantError(p.Get("another", alice), 429, "M_LIMIT_EXCEEDED")
		p.Want(p.Get(bobNamed, alice), 200, "", "matrix_presence; hit")
		p.WantError(p.Get(bobNamed, alice), 429, "M_LIMIT_EXCEEDED")
	})
}

func TestAFirstReadIsChargedToItsUser(t *testing.T) {
	p := newNamed(t, &options{ReadLimit: &rate{Events: 1, Window: time.Hour, Burst: 2}})
	p.hs.Tokens[bobsOther] = bob
	p.Want(p.Get(bobNamed, carol), 200, "", "")
	p.Want(p.Get(bobsOther, alice), 200, "", "")
	p.WantError(p.Get(bobsOther, alice), 429, "M_LIMIT_EXCEEDED")
	p.wantAsked(1, 3)
}

// Reads that come while the first one is under way wait for it, as for a question.
func TestManyFirstReadsOfATokenAreOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newNamed(t, new(options))
		p.wantAsked(1, 1)
		p.hs.AnswerBy(func(http.ResponseWriter, *http.Request) (bool, error) {
			time.Sleep(time.Second)
			return false, nil
		})
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() { p.Want(p.Get(bobNamed, alice), 200, "", "") })
		}
		all.Wait()
		p.wantAsked(0, 1)
	})
}

func TestWhatIsNoFirstRead(t *testing.T) {
	get := func(target string, change func(r *http.Request)) func(p *proxy) {
		return func(p *proxy) {
			r := request("GET", target, bobNamed, "")
			if change != nil {
				change(r)
			}
			p.Want(p.Do(r), 200, "", "")
		}
	}
	plain := get(statusPath(alice), nil)
	for name, tt := range map[string]struct {
		o      options
		before func(p *proxy)
		read   func(p *proxy)
	}{
		"learn off":           {o: options{LearnOff: true}, read: plain},
		"Dendrite":            {o: options{Homeserver: "dendrite"}, read: plain},
		"no known homeserver": {o: options{Homeserver: "auto"}, read: plain},
		"for another user":    {read: get(statusPath(alice)+"?user_id="+bob, nil)},
		"for another user, again": {o: options{Identity: &identifying{TTL: time.Nanosecond}}, before: func(p *proxy) {
			p.hs.Tokens["as-token"] = carol
			p.Want(p.Do(request("GET", statusPath(alice)+"?user_id="+bob, "as-token", "")), 200, "", "")
		}, read: func(p *proxy) {
			p.Want(p.Do(request("GET", statusPath(bob)+"?user_id="+bob, "as-token", "")), 200, "", "")
		}},
		"as a device":           {read: get(statusPath(alice)+"?device_id=D", nil)},
		"in another spelling":   {read: get("/_matrix/client/unstable/presence/"+alice+"/status", nil)},
		"with a body":           {read: get(statusPath(alice), func(r *http.Request) { r.ContentLength, r.Body = 1, http.NoBody })},
		"a token of other form": {before: func(p *proxy) { p.hs.Tokens["opaque"] = bob }, read: func(p *proxy) { p.Want(p.Get("opaque", alice), 200, "", "") }},
		"answered from memory": {before: func(p *proxy) {
			p.hs.Tokens[bobsOther] = bob
			p.Want(p.Get(bobsOther, alice), 200, "", "")
			p.hs.Counts["GET"] = 0
			p.hs.Counts["whoami"] = -1 // the question
		}, read: plain},
		"once the homeserver has named another user": {before: func(p *proxy) {
			p.hs.Tokens[carolNamed] = bob
			p.Want(p.Put(carolNamed, bob, `{"presence":"online"}`), 200, `{}`, "")
		}, read: plain},
	} {
		t.Run(name, func(t *testing.T) {
			p := newNamed(t, &tt.o)
			if tt.before != nil {
				tt.before(p)
			}
			before := p.samples()["lookups_total known"]
			tt.read(p)
			if after := p.samples(); after["lookups_total known"] != before+1 {
				t.Errorf("%v of %v lookups were questions", after["lookups_total known"]-before, after["lookups_total by_read"])
			}
		})
	}
}

// A read tells whose its token is only if the homeserver itself has answered it, now.
func TestAFirstReadThatTellsNothingIsFollowedByAQuestion(t *testing.T) {
	for name, answers := range map[string]func(w http.ResponseWriter){
		"a cache between":   func(w http.ResponseWriter) { w.Header().Set("Age", "1"); answer(w, 200, `{"presence":"online"}`) },
		"an error":          func(w http.ResponseWriter) { answer(w, 500, `{"errcode":"M_UNKNOWN","error":""}`) },
		"a page":            func(w http.ResponseWriter) { w.Header().Set("Content-Type", "text/html"); w.WriteHeader(200) },
		"a locked account":  func(w http.ResponseWriter) { answer(w, 401, `{"errcode":"M_USER_LOCKED","error":""}`) },
		"a limit":           func(w http.ResponseWriter) { answer(w, 429, `{"errcode":"M_LIMIT_EXCEEDED","error":""}`) },
		"no such presence":  func(w http.ResponseWriter) { answer(w, 404, `{"errcode":"M_NOT_FOUND","error":""}`) },
		"not for this user": func(w http.ResponseWriter) { answer(w, 403, `{"errcode":"M_FORBIDDEN","error":""}`) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newNamed(t, new(options))
			p.wantAsked(1, 1)
			p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
				if !strings.Contains(r.URL.Path, "/presence/") || r.Header.Get("Authorization") != "Bearer "+bobNamed {
					return false, nil
				}
				answers(w)
				return true, nil
			})
			p.Get(bobNamed, alice)
			if asked := p.hs.Count("whoami"); asked != 1 {
				t.Errorf("%d questions", asked)
			}
			p.wantMetrics(map[string]float64{"lookups_total by_read": 0, "lookups_total known": 2})
		})
	}
}

// A token that names another user than the homeserver does is that one's, and so is what is read with it.
func TestAFirstReadIsKeptForItsUserOnly(t *testing.T) {
	p := newNamed(t, new(options))
	p.hs.Tokens[carolNamed] = bob
	p.hs.Hidden = map[string]bool{bob + " " + alice: true}
	p.WantError(p.Get(carolNamed, alice), 403, "M_FORBIDDEN")
	p.wantAsked(2, 3) // the first read, and bob's own
	p.Want(p.Get("carol-token", alice), 200, "", "")
	p.wantAsked(1, 1)
}

// What a logout ends is not learned from a read that was answered before.
func TestAFirstReadThatALogoutOvertakesTeachesNothing(t *testing.T) {
	for name, end := range map[string]func(p *proxy){
		"logout":               func(p *proxy) { p.Do(request("POST", "/_matrix/client/v3/logout", bobNamed, "{}")) },
		"logout of all, known": func(p *proxy) { p.memory.identities.RevokeUser(bob) },
		"revoked by name":      func(p *proxy) { p.Do(request("POST", "/auth/oauth2/revoke", "", "token="+bobNamed)) },
		"locked by an admin": func(p *proxy) {
			p.Do(request("PUT", "/_matrix/client/v1/admin/lock/%40bob%3aexample.com", "admin-token", `{"locked":true}`))
		},
		"its device, by an admin": func(p *proxy) {
			p.Do(request("DELETE", "/_synapse/admin/v2/users/@bob:example.com/devices/X", "admin-token", ""))
		},
		"a login as its device": func(p *proxy) { p.Do(request("POST", "/_matrix/client/v3/login", "", `{"device_id":"X"}`)) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newNamed(t, new(options))
				p.wantAsked(1, 1)
				hold := make(chan struct{})
				p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					_, _ = io.Copy(io.Discard, r.Body)
					switch {
					case strings.Contains(r.URL.Path, "/presence/"):
						answer(w, 200, `{"presence":"online"}`)
						<-hold
					case strings.HasSuffix(r.URL.Path, "/whoami"):
						return false, nil
					default:
						answer(w, 200, `{"user_id":"@bob:example.com","access_token":"new"}`)
					}
					return true, nil
				})
				var read sync.WaitGroup
				read.Go(func() { p.Get(bobNamed, alice) })
				synctest.Wait()
				end(p)
				close(hold)
				read.Wait()
				p.hs.AnswerBy(nil)
				delete(p.hs.Tokens, bobNamed)
				p.Want(p.Get(bobNamed, alice), 401, firstUnknown, "")
			})
		})
	}
}

// A write that overtakes the first read is seen by the next.
func TestAFirstReadThatAWriteOvertakesIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newNamed(t, new(options))
		time.Sleep(time.Minute) // what was read of alice is no longer fresh
		hold := make(chan struct{})
		p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
			if r.Method == "GET" && strings.Contains(r.URL.Path, "/presence/") {
				answer(w, 200, `{"presence":"offline"}`)
				<-hold
				return true, nil
			}
			return false, nil
		})
		var read sync.WaitGroup
		read.Go(func() { p.Want(p.Get(bobNamed, alice), 200, `{"presence":"offline"}`, "") })
		synctest.Wait()
		p.Want(p.Put(aliceNamed, alice, `{"presence":"online"}`), 200, `{}`, "")
		close(hold)
		read.Wait()
		p.hs.AnswerBy(nil)
		p.Want(p.Get(bobNamed, alice), 200, `{"presence":"online","status_msg":""}`, "")
	})
}

// After its lifetime whose a token is need not be asked, on any homeserver: whoever it was the
// token of, it is if it is still good.
func TestAReadRenewsWhoseItsTokenIs(t *testing.T) {
	for _, homeserver := range []string{"synapse", "dendrite", "tuwunel"} {
		synctest.Test(t, func(t *testing.T) {
			p := newProxy(t, &options{Homeserver: homeserver})
			p.Want(p.Get("bob-token", alice), 200, "", "")
			p.wantAsked(1, 1)
			time.Sleep(2 * time.Minute)
			p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; fwd=miss; stored")
			p.wantAsked(0, 1)
			time.Sleep(2 * time.Minute)
			delete(p.hs.Tokens, "bob-token")
			p.Want(p.Get("bob-token", alice), 401, firstUnknown, "")
			p.Want(p.Get("bob-token", alice), 401, firstUnknown, "")
			p.wantAsked(0, 1)
		})
	}
}

// A sync, or a list of members, that the homeserver serves tells whose its token is, too.
func TestWhatTheHomeserverServesTellsWhoseANamedTokenIs(t *testing.T) {
	for name, path := range map[string]string{"a sync": "/_matrix/client/v3/sync?since=s1", "a list": listPath} {
		t.Run(name, func(t *testing.T) {
			p := newNamed(t, new(options))
			p.wantAsked(1, 1)
			p.Do(request("GET", path, bobNamed, ""))
			p.Want(p.Get(bobNamed, alice), 200, "", "")
			p.Do(request("GET", path, bobsOther, ""))
			p.Want(p.Get(bobsOther, carol), 401, firstUnknown, "")
			p.wantAsked(0, 2)
			p.wantMetrics(map[string]float64{"learned_total identity": 1})
		})
	}
}

// Where syncs are judged, one that is answered at once tells whose it is, and the homeserver isn't
// asked. One that waits for news is asked about meanwhile: what it does to a presence is seen.
func TestASyncOfANamedTokenIsAskedAboutOnlyIfItWaits(t *testing.T) {
	for name, tt := range map[string]struct {
		takes, seen time.Duration
		whoami      int
	}{"at once": {0, 2 * time.Millisecond, 0}, "soon": {time.Second, time.Second + 2*time.Millisecond, 0}, "waits": {30 * time.Second, tellsItself + 1, 1}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newNamed(t, &options{SyncPresence: "limit"})
				p.Get(aliceNamed, bob)
				p.wantAsked(1, 2)
				p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if strings.HasSuffix(r.URL.Path, "/sync") {
						p.hs.Mu.Lock()
						p.hs.Presence[bob] = `{"presence":"online"}`
						p.hs.Mu.Unlock()
						time.Sleep(tt.takes)
					}
					return false, nil
				})
				var sync sync.WaitGroup
				sync.Go(func() { p.Do(request("GET", "/_matrix/client/v3/sync?since=s1&set_presence=online", bobNamed, "")) })
				time.Sleep(tt.seen)
				p.Want(p.Get(aliceNamed, bob), 200, `{"presence":"online"}`, "matrix_presence; fwd=miss")
				sync.Wait()
				p.wantAsked(tt.whoami, 1)
			})
		})
	}
}
