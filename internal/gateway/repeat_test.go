package gateway

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const (
	online      = `{"presence":"online"}`
	unavailable = `{"presence":"unavailable"}`
)

func absorbing() *options { return &options{RepeatWrites: "absorb"} }

func TestRepeatedWriteIsAbsorbedUntilRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, absorbing())
		p.Want(p.Put("alice-token", alice, online), 200, "{}", "matrix_presence; fwd=method")
		for range 19 {
			time.Sleep(time.Second)
			p.Want(p.Put("alice-token", alice, online), 200, "{}", "matrix_presence; detail=absorbed")
		}
		time.Sleep(time.Second)
		p.Want(p.Put("alice-token", alice, online), 200, "{}", "matrix_presence; fwd=method")
		p.WantCounts(map[string]int{"PUT": 2})
	})
}

// Absorbing is opt-in: a write that repeats is a write.
func TestRepeatedWritePassesByDefault(t *testing.T) {
	p := newProxy(t, new(options))
	for range 3 {
		p.Want(p.Put("alice-token", alice, online), 200, "{}", "matrix_presence; fwd=method")
	}
	p.WantCounts(map[string]int{"PUT": 3})
}

func TestChangeIsNeverAbsorbed(t *testing.T) {
	for name, between := range map[string]func(p *proxy){
		"another state":  func(p *proxy) { p.Put("alice-token", alice, unavailable) },
		"another device": func(p *proxy) { p.Put("alice-phone", alice, online) },
		"a message": func(p *proxy) {
			p.Do(request("PUT", "/_matrix/client/v3/rooms/!r:x/send/m.room.message/1", "alice-token", "{}"))
		},
		"a write that failed": func(p *proxy) { p.Put("alice-token", alice, `{"presence":"offline"}`) },
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
				p.Put("alice-token", alice, online)
				between(p)
				p.Want(p.Put("alice-token", alice, online), 200, "{}", "matrix_presence; fwd=method")
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
		p.WantError(p.Put("alice-token", alice, online), 400, "M_UNKNOWN")
	}
	p.WantCounts(map[string]int{"PUT": 2})
}

func TestRepeatCostsNoBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{RepeatWrites: "absorb", WriteLimit: &rate{Events: 1, Window: 10 * time.Second}})
		p.Put("alice-token", alice, online)
		for range 5 {
			p.Want(p.Put("alice-token", alice, online), 200, "{}", "matrix_presence; detail=absorbed")
		}
		p.WantError(p.Put("alice-token", alice, unavailable), 429, "M_LIMIT_EXCEEDED")
		// A body that nobody would take is no repeat.
		p.WantError(p.Put("alice-token", alice, `{"presence":"away"}`), 400, "M_BAD_JSON")
	})
}

func TestAbsorbedWriteLeavesWhatIsCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, absorbing())
		p.Put("alice-token", alice, online)
		time.Sleep(defaultSettle)
		p.Get("bob-token", alice)
		p.Put("alice-token", alice, online)
		p.Want(p.Get("bob-token", alice), 200, `{"presence":"online","status_msg":""}`, "matrix_presence; hit")
	})
}

// Ghosts of a bridge have one token and a user_id each.
func TestEachGhostOfABridgeHasItsOwnRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{Classes: []userClass{{Name: "bridges", Match: []string{"@bridge_*"}, RepeatWrites: "absorb", WriteLimit: &rate{Off: true}}}})
		p.hs.Tokens["as-token"] = "@bridge_bot:example.com"
		for range 10 {
			for n := range 20 {
				ghost := fmt.Sprintf("@bridge_%d:example.com", n)
				p.Want(p.Do(request("PUT", statusPath(ghost)+"?user_id="+ghost, "as-token", online)), 200, "{}", "")
			}
			time.Sleep(500 * time.Millisecond)
		}
		p.Put("alice-token", alice, online)
		p.Put("alice-token", alice, online) // nobody of the class
		p.WantCounts(map[string]int{"PUT": 22})
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
		"a read":        {func(p *proxy) { p.Get("bob-token", alice) }, false},
		"one's own":     {func(p *proxy) { p.Get("alice-phone", alice) }, false},
		"another's":     {func(p *proxy) { p.Get("alice-token", bob) }, true},
		"not permitted": {func(p *proxy) { p.Get("carol-token", alice) }, true},
		"a broken one": {func(p *proxy) {
			p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
				if r.Method == http.MethodGet {
					answer(w, 502, `{"presence":"offline"}`)
				}
				return r.Method == http.MethodGet, nil
			})
			p.Get("bob-token", alice)
			p.hs.AnswerBy(nil)
		}, true},
		"after the settle time": {func(p *proxy) {
			time.Sleep(2 * defaultSettle)
			p.Get("bob-token", alice)
		}, false},
	} {
		for _, cache := range []*caching{{}, {Off: true}, {PerViewer: true}} {
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
							p.hs.Presence[alice] = `{"presence":"offline"}`
							p.hs.Mu.Unlock()
							answer(w, 200, `{}`)
							return true, nil
						}
						return false, nil
					})
					p.Get("bob-token", alice)
					p.Put("alice-token", alice, online)
					tc.read(p)
					want := "matrix_presence; fwd=method"
					if tc.absorbed {
						want = "matrix_presence; detail=absorbed"
					}
					p.Want(p.Put("alice-token", alice, online), 200, "{}", want)
					if !tc.absorbed {
						p.Want(p.Get("bob-token", alice), 200, `{"presence":"online","status_msg":""}`, "")
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
			p.Get("bob-token", alice)
		}()
		synctest.Wait()
		p.Put("alice-token", alice, online)
		close(release)
		<-done
		p.Want(p.Put("alice-token", alice, online), 200, "{}", "matrix_presence; detail=absorbed")
	})
}
