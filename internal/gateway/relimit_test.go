package gateway

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// spender spends an event of some limit, and reports for how long it is told to wait, in
// seconds: 0 if it was let through, and -1 if it wasn't but nobody says for how long.
type spender func(p *proxy, n int) (wait int)

// told returns what a client is told.
func told(resp *http.Response) (wait int) {
	if resp.StatusCode != http.StatusTooManyRequests {
		return 0
	}
	wait, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || wait < 1 {
		return -2
	}
	return wait
}

// A limit that a reload changed was applied to what was noted under the old one. After
// 1/1h burst 5 was used up, 10/1s burst 10 was 429 with Retry-After: 1 for five hours. So it
// was for all limits, and for a user who moved to another class.
func TestReloadToAnotherLimitAppliesAtOnce(t *testing.T) {
	hourly := &rate{Events: 1, Window: time.Hour, Burst: 5}
	fast := &rate{Events: 10, Window: time.Second, Burst: 10}
	write := func(p *proxy, n int) int { return told(p.Put("alice-token", alice, message(n))) }
	observed := func(send func(p *proxy)) spender {
		return func(p *proxy, _ int) int {
			limited := func() (n float64) {
				synctest.Wait()
				for outcome, count := range p.observed() {
					if strings.Contains(outcome, "limited") {
						n += count
					}
				}
				return n
			}
			before := limited()
			if send(p); limited() > before {
				return -1
			}
			return 0
		}
	}
	aliceAs := func(class string, limit *rate) []userClass {
		return []userClass{{Name: class, Match: []string{alice}, WriteLimit: limit}}
	}
	for name, tt := range map[string]struct {
		configure func(limit *rate) *options
		spend     spender
	}{
		"writes": {func(limit *rate) *options { return &options{WriteLimit: limit} }, write},
		"reads": {
			func(limit *rate) *options { return &options{ReadLimit: limit} },
			func(p *proxy, _ int) int { return told(p.Get("bob-token", alice)) },
		},
		"reads that are not cached": {
			func(limit *rate) *options { return &options{ReadLimit: limit, Cache: &caching{Off: true}} },
			func(p *proxy, _ int) int { return told(p.Get("bob-token", alice)) },
		},
		"reads of an uncertain credential": {
			func(limit *rate) *options { return &options{ReadLimit: limit} },
			func(p *proxy, _ int) int {
				return told(p.Do(request("GET", statusPath(alice)+"?access_token=bob-token", "bob-token", "")))
			},
		},
		"the limit of a class": {func(limit *rate) *options { return &options{Classes: aliceAs("a", limit)} }, write},
		"another class": {func(limit *rate) *options {
			return &options{WriteLimit: hourly, Classes: aliceAs(fmt.Sprint("class ", limit.Burst), limit)}
		}, write},
		"into a class and out": {func(limit *rate) *options {
			if limit == hourly {
				return &options{WriteLimit: limit}
			}
			return &options{WriteLimit: hourly, Classes: aliceAs("a", limit)}
		}, write},
		"observed writes": {
			func(limit *rate) *options { return &options{Mode: "observe", WriteLimit: limit} },
			observed(func(p *proxy) { p.Put("alice-token", alice, online) }),
		},
		"observed reads": {
			func(limit *rate) *options { return &options{Mode: "observe", ReadLimit: limit} },
			observed(func(p *proxy) { p.Get("bob-token", alice) }),
		},
		"from observing to enforcing and back": {func(limit *rate) *options {
			if limit == fast {
				return &options{WriteLimit: limit}
			}
			return &options{Mode: "observe", WriteLimit: limit}
		}, func(p *proxy, n int) int {
			if !p.gateway.cfg.Observe {
				return write(p, n)
			}
			return observed(func(p *proxy) { p.Put("alice-token", alice, online) })(p, n)
		}},
		"unknown tokens": {
			func(limit *rate) *options { return &options{Identity: &identifying{RejectedLimit: limit}} },
			func(p *proxy, n int) int { return told(p.Do(from("192.0.2.7", fmt.Sprint("made-up-", n)))) },
		},
		"syncs": {
			func(limit *rate) *options {
				return &options{SyncPresence: "limit", Homeserver: "synapse", SyncLimit: limit}
			},
			changeBySync(),
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, n := newProxy(t, tt.configure(hourly)), 0
				reload := func(limit *rate) {
					handler := tt.configure(limit)
					if handler.Cache == nil {
						handler.Cache = new(caching)
					}
					p.reload(handler)
				}
				spend := func(step string, passes, wait int) {
					t.Helper()
					for i := range passes + 1 {
						got, want := tt.spend(p, n), 0
						if n++; i == passes {
							want = wait
						}
						if got != want && (got != -1 || want == 0) {
							t.Fatalf("%s: event %d is told to wait for %d s, want %d", step, i, got, want)
						}
					}
				}
				if name == "syncs" {
					tt.spend(p, 0) // the first of a device costs nothing
				}
				spend("at first", 5, 3600)
				reload(fast)
				spend("raised", 5, 1)
				time.Sleep(time.Second)
				spend("after a second", 10, 1)
				reload(hourly)
				spend("lowered", 0, 1)
				time.Sleep(time.Second)
				spend("after what was announced", 1, 3600)
				reload(fast)
				spend("raised again, with as much used", 0, 1)
				time.Sleep(time.Second)
				spend("a second later", 10, 1)
			})
		})
	}
}

// changeBySync changes a device's presence by a sync.
func changeBySync() spender {
	state := "online"
	return func(p *proxy, _ int) int {
		other := map[string]string{"online": "unavailable", "unavailable": "online"}[state]
		query := "since=s&timeout=0&set_presence=" + other
		if p.sync("alice-token", query) != query {
			return -1
		}
		state = other
		return 0
	}
}

// Writes that wait are delivered when a configuration ends, and charged for as events: not
// as hours, or the user would be refused for hours under the next one.
func TestWritesThatWaitedAreChargedForAsEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := coalescing()
		h.WriteLimit = &rate{Events: 1, Window: time.Minute}
		p := newProxy(t, h)
		p.Want(p.Put("alice-token", alice, message(0)), 200, "{}", "matrix_presence; fwd=method")
		p.Want(p.Put("alice-token", alice, message(1)), 200, "{}", "matrix_presence; detail=coalesced")
		p.Want(p.Put("alice-phone", alice, message(2)), 200, "{}", "matrix_presence; detail=coalesced")
		p.reload(&options{WriteLimit: &rate{Events: 10, Window: time.Second, Burst: 5}, Cache: new(caching)})
		p.WantCounts(map[string]int{"PUT": 3})
		for n := range 2 {
			p.Want(p.Put("alice-token", alice, message(3+n)), 200, "{}", "matrix_presence; fwd=method")
		}
		resp := p.Put("alice-token", alice, message(5))
		p.WantError(resp, 429, "M_LIMIT_EXCEEDED")
		if got := bodyOf(resp); !strings.Contains(got, `"retry_after_ms":100`) {
			t.Errorf("got %s, want 100 ms", got)
		}
	})
}

// Behind writes that wait, a handler that lets none wait said to try again after a second,
// and that again and again, for a minute.
func TestWhatIsAnnouncedBehindWritesThatWaitHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, coalescing())
		other := p.beside(&options{WriteLimit: &rate{Events: 1, Window: 10 * time.Second}})
		p.Put("alice-token", alice, message(0))
		p.Want(p.Put("alice-token", alice, message(1)), 200, "{}", "matrix_presence; detail=coalesced")
		p.Want(p.Put("alice-phone", alice, message(2)), 200, "{}", "matrix_presence; detail=coalesced")
		time.Sleep(time.Second)
		wait := told(other.Put("alice-token", alice, message(3)))
		if wait != 29 {
			t.Errorf("told to wait for %d s, want 29: both that wait go first", wait)
		}
		time.Sleep(time.Duration(wait) * time.Second)
		other.Want(other.Put("alice-token", alice, message(3)), 200, "{}", "matrix_presence; fwd=method")
		p.WantCounts(map[string]int{"PUT": 4})
	})
}

// Another handler's deliveries may lead to a debt that takes longer than a write may wait.
// It is lost at its max_age then, and not when the debt is paid.
func TestAWriteThatWaitsForADebtIsLostInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, coalescing())
		p.Put("alice-token", alice, message(0))
		p.Want(p.Put("alice-token", alice, message(1)), 200, "{}", "matrix_presence; detail=coalesced")
		for range 20 {
			p.memory.writes.Charge(alice, *p.gateway.cfg.Everybody.WriteLimit, time.Now())
		}
		time.Sleep(59 * time.Second)
		synctest.Wait()
		p.wantDeliveries(map[string]float64{"pending": 1})
		time.Sleep(time.Second)
		synctest.Wait()
		p.wantDeliveries(map[string]float64{"lost": 1})
	})
}

// What was announced holds, whatever becomes of the limit meanwhile: raised, lowered, off and on,
// of a class, an exemption that comes and goes, a mode that only observes.
func TestWhatIsAnnouncedHoldsThroughRandomReloads(t *testing.T) {
	for name, kind := range map[string]struct {
		set   func(h *options, limit *rate)
		spend spender
	}{
		"writes": {
			func(h *options, limit *rate) { h.WriteLimit = limit },
			func(p *proxy, n int) int { return told(p.Put("alice-token", alice, message(n))) },
		},
		"writes of a class": {
			func(h *options, limit *rate) {
				h.Classes = []userClass{{Name: "a", Match: []string{alice}, WriteLimit: limit}}
			},
			func(p *proxy, n int) int { return told(p.Put("alice-token", alice, message(n))) },
		},
		"reads": {
			func(h *options, limit *rate) { h.ReadLimit = limit },
			func(p *proxy, _ int) int { return told(p.Get("alice-token", bob)) },
		},
		"unknown tokens": {
			func(h *options, limit *rate) { h.Identity = &identifying{RejectedLimit: limit} },
			func(p *proxy, n int) int { return told(p.Do(from("192.0.2.7", fmt.Sprint("made-up-", n)))) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := testkit.Rand(t)
				configure := func() *options {
					h := &options{Cache: new(caching), Mode: testkit.Pick(r, "enforce", "enforce", "enforce", "observe")}
					kind.set(h, randomLimit(r))
					if r.IntN(5) == 0 {
						h.Exempt = []string{alice}
					}
					return h
				}
				p := newProxy(t, configure())
				var due time.Time // as it was announced first
				for n := range 1500 {
					switch r.IntN(5) {
					case 0:
						p.reload(configure())
					case 1:
						time.Sleep(time.Until(due))
					case 2:
						time.Sleep(time.Duration(r.Int64N(int64(time.Minute))))
					}
					wait := kind.spend(p, n)
					synctest.Wait() // who is only observed is charged afterwards
					again := time.Now().Add(time.Duration(wait) * time.Second)
					switch {
					case wait == 0:
						due = time.Time{}
					case wait < 0:
						t.Fatalf("request %d: refused, and not told for how long", n)
					case due.IsZero() || again.Before(due):
						due = again
					case !due.After(time.Now()), again.After(due.Add(time.Second)): // they are whole seconds
						t.Fatalf("request %d: told to wait until %v, after until %v", n, again, due)
					}
				}
			})
		})
	}
}

// randomLimit returns one from nothing at all to one event in a year.
func randomLimit(r *rand.Rand) *rate {
	if r.IntN(6) == 0 {
		return &rate{Off: true}
	}
	window := testkit.Pick(r, time.Nanosecond, time.Millisecond, time.Second, time.Minute, time.Hour, 8760*time.Hour)
	return &rate{Events: 1 + r.IntN(5), Window: time.Duration(window), Burst: r.IntN(4)}
}
