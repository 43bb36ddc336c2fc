package gateway

import (
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// Two sites had one cache name, and one of them absorbed. Syncs, messages and observed writes
// through the other were not looked at, so that a repeat was answered 200 that the homeserver no
// longer had.
func TestWhatChangesAPresenceThroughAnotherSiteEndsARepeat(t *testing.T) {
	const message = "/_matrix/client/v3/rooms/!r:x/send/m.room.message/1"
	const sliding = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
	sync := func(p *proxy) { p.sync("alice-token", "set_presence=unavailable") }
	unknownSync := func(p *proxy) {
		p.hs.Tokens["alice-tablet"] = alice
		p.Do(request("GET", syncPath+"?set_presence=unavailable", "alice-tablet", ""))
		synctest.Wait() // the homeserver is asked whose it is meanwhile
	}
	write := func(bodies ...string) func(p *proxy) {
		return func(p *proxy) {
			for _, body := range bodies {
				p.Put("alice-token", alice, body)
				synctest.Wait()
			}
		}
	}
	for _, tc := range []struct {
		name       string
		homeserver string
		other      *options
		between    func(p *proxy)
		repeats    bool // it is none of those
	}{
		{name: "nothing", other: &options{}, between: func(*proxy) {}, repeats: true},
		{name: "a sync that sets nothing", homeserver: "synapse", other: &options{}, between: func(p *proxy) { p.sync("alice-token", "set_presence=offline") }, repeats: true},
		{name: "a sync", other: &options{}, between: sync},
		{name: "a sync of an unknown token", other: &options{}, between: unknownSync},
		{name: "a sync where the cache is off", other: &options{Cache: &caching{Off: true}}, between: sync},
		{name: "a sync before its homeserver is known", other: &options{SyncPresence: "limit"}, between: sync},
		{name: "one of an unknown token before its homeserver is known", other: &options{SyncPresence: "limit"}, between: unknownSync},
		{name: "a sync that tuwunel can't be kept from", homeserver: "tuwunel", other: &options{SyncPresence: "strip"}, between: sync},
		{name: "a sync that is kept from it", homeserver: "synapse", other: &options{SyncPresence: "strip"}, between: sync, repeats: true},
		{name: "an observed sync, stripped", homeserver: "synapse", other: &options{Mode: "observe", SyncPresence: "strip"}, between: sync},
		{name: "an observed sync", homeserver: "synapse", other: &options{Mode: "observe", SyncPresence: "limit"}, between: sync},
		{name: "a sliding sync", homeserver: "tuwunel", other: &options{}, between: func(p *proxy) {
			p.Do(request("POST", sliding, "alice-token", `{"set_presence":"unavailable"}`))
		}},
		{name: "a message", other: &options{}, between: func(p *proxy) { p.Do(request("PUT", message, "alice-token", "{}")) }},
		{name: "a message, observed", other: &options{Mode: "observe"}, between: func(p *proxy) { p.Do(request("PUT", message, "alice-token", "{}")) }},
		{name: "a write", other: &options{}, between: write(unavailable)},
		{name: "an observed write", other: &options{Mode: "observe"}, between: write(unavailable)},
		{name: "an observed write over the limit", other: &options{Mode: "observe", WriteLimit: &rate{Events: 1, Window: time.Hour}}, between: write(unavailable, `{"presence":"offline"}`)},
		{name: "an observed write that we would refuse", other: &options{Mode: "observe", PresenceValues: []string{"online"}}, between: write(unavailable)},
		{name: "an observed write that would be absorbed", other: &options{Mode: "observe", RepeatWrites: "absorb"}, between: write(unavailable, unavailable)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				handler := absorbing()
				handler.Homeserver = tc.homeserver
				p := newProxy(t, handler)
				other := p.beside(tc.other)
				if tc.homeserver != "" {
					other.gateway.cfg.Dialect = Dialects[tc.homeserver]
				}
				p.Put("alice-token", alice, online)
				tc.between(other)
				want := "matrix_presence; fwd=method"
				if tc.repeats {
					want = "matrix_presence; detail=absorbed"
				}
				p.Want(p.Put("alice-token", alice, online), 200, "{}", want)
			})
		})
	}
}

// What a device says through one site is what the next sync through another is judged by.
func TestSyncIsJudgedByWhatWasSaidThroughAnotherSite(t *testing.T) {
	const active, idle = "since=s&set_presence=online&timeout=0", "since=s&set_presence=unavailable&timeout=0"
	const silent = "since=s&set_presence=offline&timeout=0"
	once := &rate{Events: 1, Window: time.Hour}
	for _, tc := range []struct {
		name    string
		other   *options
		between func(p, other *proxy)
		last    string // the next sync
		passes  bool
	}{
		{"nothing", &options{}, func(_, _ *proxy) {}, idle, false},
		{"the same", &options{}, func(_, other *proxy) { other.wantSync("alice-token", idle, idle) }, idle, false},
		{"another state", &options{}, func(_, other *proxy) { other.wantSync("alice-token", active, active) }, idle, true},
		{"a write", &options{}, func(_, other *proxy) { other.Put("alice-token", alice, online) }, idle, true},
		{"an observed write", &options{Mode: "observe"}, func(_, other *proxy) { other.Put("alice-token", alice, online) }, idle, true},
		{"an observed write over the limit", &options{Mode: "observe", WriteLimit: once}, func(p, other *proxy) {
			other.Put("alice-token", alice, unavailable)
			p.wantSync("alice-token", idle, idle)
			p.wantSync("alice-token", idle, silent)
			other.Put("alice-token", alice, online)
			synctest.Wait()
		}, idle, true},
		{"an observed sync", &options{Mode: "observe", SyncPresence: "limit"}, func(_, other *proxy) { other.wantSync("alice-token", active, active) }, idle, true},
		{"an observed sync over the limit", &options{Mode: "observe", SyncPresence: "limit", SyncLimit: once}, func(_, other *proxy) {
			other.wantSync("alice-token", active, active)
			other.wantSync("alice-token", idle, idle)
		}, active, true},
		{"a message", &options{}, func(_, other *proxy) {
			other.Do(request("PUT", "/_matrix/client/v3/rooms/!r:x/send/m.room.message/1", "alice-token", "{}"))
		}, idle, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, &options{SyncPresence: "limit", Homeserver: "synapse", SyncLimit: &rate{Off: true}})
				other := p.beside(tc.other)
				other.gateway.cfg.Dialect = synapse
				p.wantSync("alice-token", idle, idle)
				tc.between(p, other)
				want := silent
				if tc.passes {
					want = tc.last
				}
				p.wantSync("alice-token", tc.last, want)
			})
		})
	}
}

// sync_presence limit and absorb were turned off for a while, by a reload, and on again. What had
// been said before was believed as if nothing could have changed meanwhile.
func TestWhatNobodyWatchedMayHaveChanged(t *testing.T) {
	const active, idle = "since=s&set_presence=online&timeout=0", "since=s&set_presence=unavailable&timeout=0"
	busy := func() *options {
		return &options{SyncPresence: "limit", RepeatWrites: "absorb", Homeserver: "synapse", Cache: new(caching)}
	}
	for _, off := range []*options{{}, {Mode: "observe"}, {SyncPresence: "strip", Homeserver: "synapse"}} {
		synctest.Test(t, func(t *testing.T) {
			p := newProxy(t, busy())
			p.wantSync("alice-token", active, active)
			p.Put("bob-token", bob, online)
			off.Cache = new(caching)
			p.reload(off)
			p.sync("alice-token", idle)
			p.Do(request("PUT", "/_matrix/client/v3/rooms/!r:x/typing/x", "bob-token", "{}"))
			p.reload(busy())
			p.wantSync("alice-token", active, active)
			p.Want(p.Put("bob-token", bob, online), 200, "{}", "matrix_presence; fwd=method")
		})
	}
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, busy())
		p.wantSync("alice-token", active, active)
		p.Put("bob-token", bob, online)
		p.reload(busy())
		p.wantSync("alice-token", active, "since=s&set_presence=offline&timeout=0")
		p.Want(p.Put("bob-token", bob, online), 200, "{}", "matrix_presence; detail=absorbed")
	})
}

// Readers of one site must not be shown what was true before a sync through another.
func TestReadersOfASiteSeeTheSyncsOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{SyncPresence: "limit", Homeserver: "synapse"})
		other := p.beside(&options{Homeserver: "synapse"})
		p.wantSync("alice-token", "since=s&timeout=0", "since=s&timeout=0")
		time.Sleep(2 * time.Second)
		p.Get("bob-token", alice)
		p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; hit")
		other.wantSync("alice-token", "set_presence=unavailable", "set_presence=unavailable")
		p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; fwd=miss")
	})
}

// Who needs to know nothing any more is no reason to look at requests, and neither is who
// never came to serve any.
func TestNeedsEndWithTheirHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{RepeatWrites: "absorb", Cache: &caching{Settle: ptr(time.Minute)}})
		other := p.beside(new(options))
		other.sync("alice-token", "timeout=0")
		other.wantMetrics(map[string]float64{"requests_total sync": 1})
		if got := other.gateway.settle(); got != time.Minute {
			t.Errorf("what one site's write leaves unsure for a minute settles after %v through another", got)
		}
		p.reload(&options{Cache: new(caching)})
		other.sync("alice-token", "timeout=0")
		other.wantMetrics(map[string]float64{"requests_total sync": 1})
		if got := other.gateway.settle(); got != defaultSettle {
			t.Errorf("it settles after %v", got)
		}

		failed := p.beside(absorbing())
		failed.end(failed.gateway)
		other.sync("alice-token", "timeout=0")
		other.wantMetrics(map[string]float64{"requests_total sync": 1})
	})
}

// A write that waits must not come after one that the homeserver took since, of the same
// device.
func TestObservedWriteIsNotOvertakenByOneThatWaits(t *testing.T) {
	for name, tc := range map[string]struct {
		dialect dialect
		token   string
		last    string
	}{
		"the same device":                   {synapse, "alice-token", message(2)},
		"another device, and they merge":    {synapse, "alice-phone", message(1)},
		"another device, and the last wins": {Dendrite, "alice-phone", message(2)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, coalescing())
				other := p.beside(&options{Mode: "observe"})
				other.gateway.cfg.Dialect = tc.dialect
				p.knows("alice-phone")
				sent := p.hs.bodies()
				p.Put("alice-token", alice, message(0))
				p.Put("alice-token", alice, message(1)) // waits
				if resp := other.Put(tc.token, alice, message(2)); resp.StatusCode != http.StatusOK {
					t.Errorf("status %d", resp.StatusCode)
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				if got := sent(); got[len(got)-1] != tc.last {
					t.Errorf("the homeserver got %v, want %s last", got, tc.last)
				}
			})
		})
	}
}

// In mode observe a write was believed before the homeserver had taken it, so that anybody could
// have a user's state forgotten, and their repeats, also where another site enforces.
func TestObservedWriteOfSomebodyElseChangesNothing(t *testing.T) {
	for _, token := range []string{"", "made-up", "bob-token"} {
		synctest.Test(t, func(t *testing.T) {
			p := newProxy(t, absorbing())
			other := p.beside(&options{Mode: "observe"})
			p.Put("alice-token", alice, online)
			time.Sleep(defaultSettle)
			p.Get("bob-token", alice)
			other.Put(token, alice, unavailable) // this homeserver takes bob's, as Dendrite does with presence off
			synctest.Wait()
			p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; hit")
			p.Want(p.Put("alice-token", alice, online), 200, "{}", "matrix_presence; detail=absorbed")
		})
	}
}

// Whose a write is need not be known for it to count, once the homeserver has taken it.
func TestObservedWriteOfAnUnknownTokenCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, absorbing())
		other := p.beside(&options{Mode: "observe"})
		p.Put("alice-token", alice, online)
		time.Sleep(defaultSettle)
		p.Get("bob-token", alice)
		if resp := other.Put("alice-phone", alice, unavailable); resp.StatusCode != http.StatusOK {
			t.Errorf("status %d", resp.StatusCode)
		}
		p.Want(p.Get("bob-token", alice), 200, `{"presence":"unavailable","status_msg":""}`, "matrix_presence; fwd=miss")
		p.Want(p.Put("alice-token", alice, online), 200, "{}", "matrix_presence; fwd=method")
	})
}

// A site whose cache is off passed a kick on without a look, and the other site of its memory showed the kicked
// viewer what was there. So it did after the cache was off for a while, by a reload.
func TestMembershipChangesThroughASiteWithoutACacheEndPermissions(t *testing.T) {
	for name, kick := range map[string]func(p *proxy, do func(p *proxy)){
		"another site": func(p *proxy, do func(p *proxy)) { do(p.beside(&options{Cache: &caching{Off: true}})) },
		"off for a while": func(p *proxy, do func(p *proxy)) {
			p.reload(&options{Cache: &caching{Off: true}})
			do(p)
			p.reload(&options{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, &options{})
				p.Get("bob-token", alice)
				p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; hit")
				p.hs.Mu.Lock()
				p.hs.Hidden[bob+" "+alice] = true
				p.hs.Mu.Unlock()
				kick(p, func(p *proxy) {
					p.Do(request("POST", "/_matrix/client/v3/rooms/!r:hs/kick", "alice-token", `{"user_id":"`+bob+`"}`))
				})
				p.WantError(p.Get("bob-token", alice), 403, "M_FORBIDDEN")
			})
		})
	}
}

// Synapse may answer a sync again as it did two minutes ago. Whether it may was noted only by sites that learn, and by
// the node that passed the sync on: elsewhere the old answer taught that a viewer may see who is gone.
func TestSyncThatMayBeAnsweredAgainTeachesNothingAnywhere(t *testing.T) {
	for name, where := range map[string]func(t *testing.T, p *room) (other *proxy, back func()){
		"another site": func(_ *testing.T, p *room) (*proxy, func()) {
			other := p.beside(&options{LearnOff: true, Homeserver: "synapse"})
			return other, func() {}
		},
		"learn off for a while": func(_ *testing.T, p *room) (*proxy, func()) {
			p.reload(&options{LearnOff: true, Homeserver: "synapse"})
			return p.proxy, func() { p.reload(&options{Homeserver: "synapse"}) }
		},
		"another node": func(t *testing.T, p *room) (*proxy, func()) {
			other := newProxy(t, &options{Homeserver: "synapse"})
			other.hs = p.hs
			other.Client = other.client()
			log := testkit.NewSharedLog()
			for _, m := range []*Store{p.memory, other.memory} {
				logger, _ := testkit.NewLogs(slog.LevelInfo)
				t.Cleanup(m.Join(log.Client(), ClusterRules{Timeout: 50 * time.Millisecond}, logger))
			}
			time.Sleep(3 * time.Second)
			return other, func() {}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newRoom(t, new(options))
				viewer, target := p.users[0], p.users[1]
				time.Sleep(batchUnknown)
				other, back := where(t, p)
				p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if !strings.HasSuffix(r.URL.Path, "/sync") {
						return false, nil
					}
					p.synced(w, target)
					return true, nil
				})
				other.Get(tokenOf(viewer), viewer) // it is known whose the token is
				other.Do(request("GET", syncPath+"?since=a", tokenOf(viewer), ""))
				back()
				p.hs.Mu.Lock()
				p.hs.Hidden[viewer+" "+target] = true // the viewer is kicked, at the homeserver itself
				p.hs.Mu.Unlock()
				time.Sleep(time.Minute)
				p.Get(tokenOf(target), target) // the state is there
				p.Get(tokenOf(viewer), viewer)
				p.Do(request("GET", syncPath+"?since=a", tokenOf(viewer), ""))
				p.WantError(p.Get(tokenOf(viewer), target), 403, "M_FORBIDDEN")
			})
		})
	}
}
