package caddymodule

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
)

const (
	online      = `{"presence":"online"}`
	unavailable = `{"presence":"unavailable"}`
)

func absorbing() *Handler { return &Handler{RepeatWrites: "absorb"} }

func TestRepeatedWriteIsAbsorbedUntilRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, absorbing())
		p.want(p.put("alice-token", Alice, online), 200, "{}", "matrix_presence; fwd=method")
		for range 19 {
			time.Sleep(time.Second)
			p.want(p.put("alice-token", Alice, online), 200, "{}", "matrix_presence; detail=absorbed")
		}
		time.Sleep(time.Second)
		p.want(p.put("alice-token", Alice, online), 200, "{}", "matrix_presence; fwd=method")
		p.wantCounts(map[string]int{"PUT": 2})
	})
}

// Absorbing is opt-in: a write that repeats is a write.
func TestRepeatedWritePassesByDefault(t *testing.T) {
	p := newProxy(t, new(Handler))
	for range 3 {
		p.want(p.put("alice-token", Alice, online), 200, "{}", "matrix_presence; fwd=method")
	}
	p.wantCounts(map[string]int{"PUT": 3})
}

func TestChangeIsNeverAbsorbed(t *testing.T) {
	for name, between := range map[string]func(p *proxy){
		"another state":  func(p *proxy) { p.put("alice-token", Alice, unavailable) },
		"another device": func(p *proxy) { p.put("alice-phone", Alice, online) },
		"a message": func(p *proxy) {
			p.do(request("PUT", "/_matrix/client/v3/rooms/!r:x/send/m.room.message/1", "alice-token", "{}"))
		},
		"a write that failed": func(p *proxy) { p.put("alice-token", Alice, `{"presence":"offline"}`) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, absorbing())
				p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if r.Method == "PUT" && r.ContentLength == int64(len(`{"presence":"offline"}`)) {
						answer(w, 502, `{}`)
						return true, nil
					}
					return false, nil
				}
				p.put("alice-token", Alice, online)
				between(p)
				p.want(p.put("alice-token", Alice, online), 200, "{}", "matrix_presence; fwd=method")
			})
		})
	}
}

// What the homeserver did not take was not written.
func TestRefusedWriteIsNotAbsorbed(t *testing.T) {
	p := newProxy(t, absorbing())
	p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if r.Method == "PUT" {
			answer(w, 400, `{"errcode":"M_UNKNOWN","error":"Invalid presence state"}`)
		}
		return r.Method == "PUT", nil
	}
	for range 2 {
		p.wantError(p.put("alice-token", Alice, online), 400, "M_UNKNOWN")
	}
	p.wantCounts(map[string]int{"PUT": 2})
}

func TestRepeatCostsNoBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &Handler{RepeatWrites: "absorb", WriteLimit: &Limit{Events: 1, Window: caddy.Duration(10 * time.Second)}})
		p.put("alice-token", Alice, online)
		for range 5 {
			p.want(p.put("alice-token", Alice, online), 200, "{}", "matrix_presence; detail=absorbed")
		}
		p.wantError(p.put("alice-token", Alice, unavailable), 429, "M_LIMIT_EXCEEDED")
		// A body that nobody would take is no repeat.
		p.wantError(p.put("alice-token", Alice, `{"presence":"away"}`), 400, "M_BAD_JSON")
	})
}

func TestAbsorbedWriteLeavesWhatIsCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, absorbing())
		p.put("alice-token", Alice, online)
		time.Sleep(defaultSettle)
		p.get("bob-token", Alice)
		p.put("alice-token", Alice, online)
		p.want(p.get("bob-token", Alice), 200, `{"presence":"online","status_msg":""}`, "matrix_presence; hit")
	})
}

// Ghosts of a bridge have one token and a user_id each.
func TestEachGhostOfABridgeHasItsOwnRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &Handler{Classes: []Class{{Name: "bridges", Match: []string{"@bridge_*"}, RepeatWrites: "absorb", WriteLimit: &Limit{Off: true}}}})
		p.hs.Tokens["as-token"] = "@bridge_bot:example.com"
		for range 10 {
			for n := range 20 {
				ghost := fmt.Sprintf("@bridge_%d:example.com", n)
				p.want(p.do(request("PUT", statusPath(ghost)+"?user_id="+ghost, "as-token", online)), 200, "{}", "")
			}
			time.Sleep(500 * time.Millisecond)
		}
		p.put("alice-token", Alice, online)
		p.put("alice-token", Alice, online) // nobody of the class
		p.wantCounts(map[string]int{"PUT": 22})
	})
}

// Synapse lost an acknowledged write, as it does when it comes with a first read. The repeats
// that would have mended it were absorbed, while every read showed that the write had
// never been.
func TestAReadThatContradictsTheLastWriteEndsItsRepeats(t *testing.T) {
	for name, tc := range map[string]struct {
		read     func(p *proxy)
		absorbed bool
	}{
		"no read":       {func(*proxy) {}, true},
		"a read":        {func(p *proxy) { p.get("bob-token", Alice) }, false},
		"one's own":     {func(p *proxy) { p.get("alice-phone", Alice) }, false},
		"another's":     {func(p *proxy) { p.get("alice-token", bob) }, true},
		"not permitted": {func(p *proxy) { p.get("carol-token", Alice) }, true},
		"a broken one": {func(p *proxy) {
			p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
				if r.Method == http.MethodGet {
					answer(w, 502, `{"presence":"offline"}`)
				}
				return r.Method == http.MethodGet, nil
			})
			p.get("bob-token", Alice)
			p.hs.AnswerBy(nil)
		}, true},
		"after the settle time": {func(p *proxy) {
			time.Sleep(2 * defaultSettle)
			p.get("bob-token", Alice)
		}, false},
	} {
		for _, cache := range []*Cache{{}, {Off: true}, {PerViewer: true}} {
			t.Run(fmt.Sprint(name, cache.Off, cache.PerViewer), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := absorbing()
					h.Homeserver, h.Cache = "synapse", cache
					p := newProxy(t, h)
					lose := true
					p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
						if r.Method == http.MethodPut && lose {
							lose = false
							p.hs.Mu.Lock()
							p.hs.Presence[Alice] = `{"presence":"offline"}`
							p.hs.Mu.Unlock()
							answer(w, 200, `{}`)
							return true, nil
						}
						return false, nil
					})
					p.get("bob-token", Alice)
					p.put("alice-token", Alice, online)
					tc.read(p)
					want := "matrix_presence; fwd=method"
					if tc.absorbed {
						want = "matrix_presence; detail=absorbed"
					}
					p.want(p.put("alice-token", Alice, online), 200, "{}", want)
					if !tc.absorbed {
						p.want(p.get("bob-token", Alice), 200, `{"presence":"online","status_msg":""}`, "")
					}
				})
			})
		}
	}
}

// A read that was on its way when the write was acknowledged may show either state.
func TestAReadFromBeforeTheWriteDoesNotEndItsRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, absorbing())
		release := make(chan struct{})
		p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
			if r.Method != http.MethodGet || strings.HasSuffix(r.URL.Path, "/whoami") {
				return false, nil
			}
			<-release
			answer(w, 200, `{"presence":"offline"}`)
			return true, nil
		})
		done := make(chan struct{})
		go func() {
			defer close(done)
			p.get("bob-token", Alice)
		}()
		synctest.Wait()
		p.put("alice-token", Alice, online)
		close(release)
		<-done
		p.want(p.put("alice-token", Alice, online), 200, "{}", "matrix_presence; detail=absorbed")
	})
}
