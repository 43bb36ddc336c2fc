package caddymodule

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// beside provisions another handler of the same memory before the same homeserver.
func (p *proxy) beside(handler *Handler) *proxy {
	p.t.Helper()
	if handler.Cache == nil {
		handler.Cache = new(Cache)
	}
	handler.Cache.Name = p.handler.Cache.Name
	provision(p.t, handler)
	return &proxy{t: p.t, handler: handler, hs: p.hs}
}

// Two sites had one cache name, and one of them absorbed. Syncs, messages and observed writes
// through the other were not looked at, so that a repeat was answered 200 that the homeserver no
// longer had.
func TestWhatChangesAPresenceThroughAnotherSiteEndsARepeat(t *testing.T) {
	const message = "/_matrix/client/v3/rooms/!r:x/send/m.room.message/1"
	const sliding = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
	sync := func(p *proxy) { p.sync("alice-token", "set_presence=unavailable") }
	unknownSync := func(p *proxy) {
		p.hs.Tokens["alice-tablet"] = Alice
		p.do(request("GET", syncPath+"?set_presence=unavailable", "alice-tablet", ""))
		synctest.Wait() // the homeserver is asked whose it is meanwhile
	}
	write := func(bodies ...string) func(p *proxy) {
		return func(p *proxy) {
			for _, body := range bodies {
				p.put("alice-token", Alice, body)
				synctest.Wait()
			}
		}
	}
	for _, tc := range []struct {
		name       string
		homeserver string
		other      *Handler
		between    func(p *proxy)
		repeats    bool // it is none of those
	}{
		{name: "nothing", other: &Handler{}, between: func(*proxy) {}, repeats: true},
		{name: "a sync that sets nothing", homeserver: "synapse", other: &Handler{}, between: func(p *proxy) { p.sync("alice-token", "set_presence=offline") }, repeats: true},
		{name: "a sync", other: &Handler{}, between: sync},
		{name: "a sync of an unknown token", other: &Handler{}, between: unknownSync},
		{name: "a sync where the cache is off", other: &Handler{Cache: &Cache{Off: true}}, between: sync},
		{name: "a sync before its homeserver is known", other: &Handler{Sync: "limit"}, between: sync},
		{name: "one of an unknown token before its homeserver is known", other: &Handler{Sync: "limit"}, between: unknownSync},
		{name: "a sync that tuwunel can't be kept from", homeserver: "tuwunel", other: &Handler{Sync: "off"}, between: sync},
		{name: "a sync that is kept from it", homeserver: "synapse", other: &Handler{Sync: "off"}, between: sync, repeats: true},
		{name: "an observed sync, off", homeserver: "synapse", other: &Handler{Mode: "observe", Sync: "off"}, between: sync},
		{name: "an observed sync", homeserver: "synapse", other: &Handler{Mode: "observe", Sync: "limit"}, between: sync},
		{name: "a sliding sync", homeserver: "tuwunel", other: &Handler{}, between: func(p *proxy) {
			p.do(request("POST", sliding, "alice-token", `{"set_presence":"unavailable"}`))
		}},
		{name: "a message", other: &Handler{}, between: func(p *proxy) { p.do(request("PUT", message, "alice-token", "{}")) }},
		{name: "a message, observed", other: &Handler{Mode: "observe"}, between: func(p *proxy) { p.do(request("PUT", message, "alice-token", "{}")) }},
		{name: "a write", other: &Handler{}, between: write(unavailable)},
		{name: "an observed write", other: &Handler{Mode: "observe"}, between: write(unavailable)},
		{name: "an observed write over the limit", other: &Handler{Mode: "observe", WriteLimit: &Limit{Events: 1, Window: caddy.Duration(time.Hour)}}, between: write(unavailable, `{"presence":"offline"}`)},
		{name: "an observed write that we would refuse", other: &Handler{Mode: "observe", PresenceValues: []string{"online"}}, between: write(unavailable)},
		{name: "an observed write that would be absorbed", other: &Handler{Mode: "observe", RepeatWrites: "absorb"}, between: write(unavailable, unavailable)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				handler := absorbing()
				handler.Homeserver = tc.homeserver
				p := newProxy(t, handler)
				other := p.beside(tc.other)
				if tc.homeserver != "" {
					tc.other.gateway.set.dialect = dialects[tc.homeserver]
				}
				p.put("alice-token", Alice, online)
				tc.between(other)
				want := "matrix_presence; fwd=method"
				if tc.repeats {
					want = "matrix_presence; detail=absorbed"
				}
				p.want(p.put("alice-token", Alice, online), 200, "{}", want)
			})
		})
	}
}

// What a device says through one site is what the next sync through another is judged by.
func TestSyncIsJudgedByWhatWasSaidThroughAnotherSite(t *testing.T) {
	const active, idle = "since=s&set_presence=online&timeout=0", "since=s&set_presence=unavailable&timeout=0"
	const silent = "since=s&set_presence=offline&timeout=0"
	once := &Limit{Events: 1, Window: caddy.Duration(time.Hour)}
	for _, tc := range []struct {
		name    string
		other   *Handler
		between func(p, other *proxy)
		last    string // the next sync
		passes  bool
	}{
		{"nothing", &Handler{}, func(_, _ *proxy) {}, idle, false},
		{"the same", &Handler{}, func(_, other *proxy) { other.wantSync("alice-token", idle, idle) }, idle, false},
		{"another state", &Handler{}, func(_, other *proxy) { other.wantSync("alice-token", active, active) }, idle, true},
		{"a write", &Handler{}, func(_, other *proxy) { other.put("alice-token", Alice, online) }, idle, true},
		{"an observed write", &Handler{Mode: "observe"}, func(_, other *proxy) { other.put("alice-token", Alice, online) }, idle, true},
		{"an observed write over the limit", &Handler{Mode: "observe", WriteLimit: once}, func(p, other *proxy) {
			other.put("alice-token", Alice, unavailable)
			p.wantSync("alice-token", idle, idle)
			p.wantSync("alice-token", idle, silent)
			other.put("alice-token", Alice, online)
			synctest.Wait()
		}, idle, true},
		{"an observed sync", &Handler{Mode: "observe", Sync: "limit"}, func(_, other *proxy) { other.wantSync("alice-token", active, active) }, idle, true},
		{"an observed sync over the limit", &Handler{Mode: "observe", Sync: "limit", SyncLimit: once}, func(_, other *proxy) {
			other.wantSync("alice-token", active, active)
			other.wantSync("alice-token", idle, idle)
		}, active, true},
		{"a message", &Handler{}, func(_, other *proxy) {
			other.do(request("PUT", "/_matrix/client/v3/rooms/!r:x/send/m.room.message/1", "alice-token", "{}"))
		}, idle, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, &Handler{Sync: "limit", Homeserver: "synapse", SyncLimit: &Limit{Off: true}})
				other := p.beside(tc.other)
				tc.other.gateway.set.dialect = synapse
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

// Readers of one site must not be shown what was true before a sync through another.
func TestReadersOfASiteSeeTheSyncsOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &Handler{Sync: "limit", Homeserver: "synapse"})
		other := p.beside(&Handler{Homeserver: "synapse"})
		p.wantSync("alice-token", "since=s&timeout=0", "since=s&timeout=0")
		time.Sleep(2 * time.Second)
		p.get("bob-token", Alice)
		p.want(p.get("bob-token", Alice), 200, "", "matrix_presence; hit")
		other.wantSync("alice-token", "set_presence=unavailable", "set_presence=unavailable")
		p.want(p.get("bob-token", Alice), 200, "", "matrix_presence; fwd=miss")
	})
}

// Who needs to know nothing any more is no reason to look at requests, and neither is who
// never came to serve any.
func TestNeedsEndWithTheirHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &Handler{RepeatWrites: "absorb", Cache: &Cache{Settle: ptr(time.Minute)}})
		other := p.beside(new(Handler))
		other.sync("alice-token", "timeout=0")
		other.wantMetrics(map[string]float64{"requests_total sync": 1})
		if got := other.handler.gateway.settle(); got != time.Minute {
			t.Errorf("what one site's write leaves unsure for a minute settles after %v through another", got)
		}
		p.reload(&Handler{Cache: new(Cache)})
		other.sync("alice-token", "timeout=0")
		other.wantMetrics(map[string]float64{"requests_total sync": 1})
		if got := other.handler.gateway.settle(); got != defaultSettle {
			t.Errorf("it settles after %v", got)
		}

		failed := p.beside(absorbing())
		if err := failed.handler.Cleanup(); err != nil {
			t.Fatal(err)
		}
		failed.handler.gateway = nil // its test's cleanup has nothing more to do
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
		"another device, and the last wins": {dendrite, "alice-phone", message(2)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, coalescing())
				other := p.beside(&Handler{Mode: "observe"})
				other.handler.gateway.set.dialect = tc.dialect
				p.knows("alice-phone")
				sent := p.hs.bodies()
				p.put("alice-token", Alice, message(0))
				p.put("alice-token", Alice, message(1)) // waits
				if resp := other.put(tc.token, Alice, message(2)); resp.StatusCode != http.StatusOK {
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
			other := p.beside(&Handler{Mode: "observe"})
			p.put("alice-token", Alice, online)
			time.Sleep(defaultSettle)
			p.get("bob-token", Alice)
			other.put(token, Alice, unavailable) // this homeserver takes bob's, as Dendrite does with presence off
			synctest.Wait()
			p.want(p.get("bob-token", Alice), 200, "", "matrix_presence; hit")
			p.want(p.put("alice-token", Alice, online), 200, "{}", "matrix_presence; detail=absorbed")
		})
	}
}

// Whose a write is need not be known for it to count, once the homeserver has taken it.
func TestObservedWriteOfAnUnknownTokenCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, absorbing())
		other := p.beside(&Handler{Mode: "observe"})
		p.put("alice-token", Alice, online)
		time.Sleep(defaultSettle)
		p.get("bob-token", Alice)
		if resp := other.put("alice-phone", Alice, unavailable); resp.StatusCode != http.StatusOK {
			t.Errorf("status %d", resp.StatusCode)
		}
		p.want(p.get("bob-token", Alice), 200, `{"presence":"unavailable","status_msg":""}`, "matrix_presence; fwd=miss")
		p.want(p.put("alice-token", Alice, online), 200, "{}", "matrix_presence; fwd=method")
	})
}
