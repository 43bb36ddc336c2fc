package gateway

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// The bounds of what waits, see package pending.
const (
	deliveryTimeout   = 30 * time.Second
	maxPendingDevices = 8
	maxPendingBytes   = 16 << 10
	flushTimeout      = 8 * time.Second
	maxDeliveries     = 64
)

// coalescing lets one write through in ten seconds.
func coalescing() *options {
	return &options{
		OverLimit: "coalesce", WriteLimit: &rate{Events: 1, Window: 10 * time.Second},
		Coalesce: &waiting{Pending: 10, MaxAge: time.Minute}, Cache: new(caching),
	}
}

// bodies returns the bodies of the writes that the homeserver gets from now on.
func (hs *homeserver) bodies() func() []string {
	var mu sync.Mutex
	var list []string
	hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if r.Method == http.MethodPut {
			body, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(strings.NewReader(string(body)))
			mu.Lock()
			list = append(list, string(body))
			mu.Unlock()
		}
		return false, nil
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return list
	}
}

func message(n int) string { return fmt.Sprintf(`{"presence":"online","status_msg":"%d"}`, n) }

func (p *proxy) wantDeliveries(want map[string]float64) {
	p.t.Helper()
	got := p.samples()
	for _, result := range deliveryNames {
		if got["deliveries_total "+result] != want[result] {
			p.t.Errorf("%v %s, want %v", got["deliveries_total "+result], result, want[result])
		}
	}
	if got["pending"] != want["pending"] {
		p.t.Errorf("%v pending, want %v", got["pending"], want["pending"])
	}
}

func TestOfWritesOverTheLimitTheNewestIsDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, coalescing())
		sent := p.hs.bodies()
		p.Want(p.Put("alice-token", alice, message(0)), 200, "{}", "matrix_presence; fwd=method")
		for n := range 8 {
			time.Sleep(time.Second)
			p.Want(p.Put("alice-token", alice, message(n+1)), 200, "{}", "matrix_presence; detail=coalesced")
		}
		p.wantDeliveries(map[string]float64{"superseded": 7, "pending": 1})
		time.Sleep(3 * time.Second)
		if got := sent(); len(got) != 2 || got[1] != message(8) {
			t.Errorf("the homeserver got %q", got)
		}
		p.wantDeliveries(map[string]float64{"superseded": 7, "delivered": 1})
		p.Want(p.Get("bob-token", alice), 200, message(8), "")
	})
}

// It goes as the client sent it, but for what no homeserver looks at.
func TestDeliveryIsTheClientsOwnRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, coalescing())
		p.Put("alice-token", alice, online)
		r := request("PUT", "/_matrix/client/r0/presence/%40alice:example.com/status", "alice-token", unavailable)
		r.Header.Set("User-Agent", "a client")
		r.Header.Set("Content-Type", "application/json; charset=utf-8")
		p.Want(p.Do(r), 200, "{}", "matrix_presence; detail=coalesced")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		got := p.hs.Last()
		if got.Method != "PUT" || got.URL.String() != r.URL.String() || got.ContentLength != int64(len(unavailable)) || got.RemoteAddr != r.RemoteAddr ||
			got.Header.Get("Authorization") != "Bearer alice-token" || got.Header.Get("User-Agent") != "a client" ||
			got.Header.Get("Content-Type") != "application/json; charset=utf-8" {
			t.Errorf("the homeserver got %s %s with %v", got.Method, got.URL, got.Header)
		}
	})
}

func TestNothingOlderIsStoredOrServedWhileAWriteWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := coalescing()
		h.Cache = &caching{TTL: time.Hour, StaleIfError: time.Hour, Settle: ptr(0)}
		p := newProxy(t, h)
		p.Put("alice-token", alice, message(0))
		p.Get("bob-token", alice)
		p.Want(p.Get("bob-token", alice), 200, message(0), "matrix_presence; hit")
		p.Put("alice-token", alice, message(1))
		for range 2 {
			p.Want(p.Get("bob-token", alice), 200, message(0), "matrix_presence; fwd=miss") // what the homeserver says
		}
		p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
			return true, failed(502, errors.New("no connection"))
		})
		p.Want(p.Get("bob-token", alice), 502, "", "")
		p.hs.AnswerBy(nil)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		p.Want(p.Get("bob-token", alice), 200, message(1), "matrix_presence; fwd=miss; stored")
		p.Want(p.Get("bob-token", alice), 200, message(1), "matrix_presence; hit")
	})
}

// What was delivered has to settle, also when the rest of what waits is dropped.
func TestDeliveriesSettleWhateverEndsTheWait(t *testing.T) {
	const settle = 5 * time.Second
	for name, end := range map[string]func(p *proxy){
		"logout": func(p *proxy) {
			p.Want(p.Do(request("POST", "/_matrix/client/v3/logout", "alice-token", "{}")), 200, "", "")
		},
		"max_age": func(*proxy) { time.Sleep(3 * time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := coalescing()
				h.Cache = &caching{TTL: time.Hour, Settle: ptr(settle)}
				h.Coalesce.MaxAge = 13 * time.Second
				p := newProxy(t, h)
				p.Put("alice-token", alice, message(0))
				p.Want(p.Get("bob-token", alice), 200, message(0), "")
				writes := 0
				p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if r.Method != http.MethodPut {
						return false, nil
					}
					if writes++; writes == 1 {
						answer(w, 200, `{}`) // and applies it later
						return true, nil
					}
					return true, failed(502, errors.New("no connection"))
				})
				p.Put("alice-phone", alice, message(1))
				p.Put("alice-token", alice, message(2))
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if writes < 2 || p.memory.pendings.Len() != 1 {
					t.Fatalf("%d writes were sent, and %d wait", writes, p.memory.pendings.Len())
				}
				end(p)
				synctest.Wait()
				if n := p.memory.pendings.Len(); n != 0 {
					t.Fatalf("%d writes wait", n)
				}
				p.Want(p.Get("bob-token", alice), 200, message(0), "matrix_presence; fwd=miss")
				if got := p.Get("bob-token", alice).Header.Get("Cache-Status"); got != "matrix_presence; fwd=miss" {
					t.Errorf("while it settles: Cache-Status is %q", got)
				}
				time.Sleep(settle)
				p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; fwd=miss; stored")
			})
		})
	}
}

func TestDevicesAreDeliveredInTheOrderOfTheirLastWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, coalescing())
		p.Put("alice-token", alice, message(0))
		sent := p.hs.bodies()
		p.Put("alice-token", alice, message(1))
		p.Put("alice-phone", alice, message(2))
		p.Put("alice-token", alice, message(3))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := fmt.Sprint(sent()); got != fmt.Sprint([]string{message(2), message(3)}) {
			t.Errorf("the homeserver got %v", got)
		}
		// Two went for the price of two.
		time.Sleep(11 * time.Second)
		p.Want(p.Put("alice-token", alice, message(4)), 200, "{}", "matrix_presence; detail=coalesced")
	})
}

func TestNoWriteOvertakesOneThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, coalescing())
		p.Put("alice-token", alice, message(0))
		p.Put("alice-token", alice, message(1))
		sent := p.hs.bodies()
		slow := p.hs.Intercept
		p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
			handled, err := slow(w, r)
			if r.Method == http.MethodPut && len(sent()) == 1 {
				time.Sleep(25 * time.Second) // so long that there is budget again
			}
			return handled, err
		})
		time.Sleep(31 * time.Second)
		p.Want(p.Put("alice-token", alice, message(2)), 200, "{}", "matrix_presence; detail=coalesced")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := fmt.Sprint(sent()); got != fmt.Sprint([]string{message(1), message(2)}) {
			t.Errorf("the homeserver got %v", got)
		}
		p.Want(p.Get("bob-token", alice), 200, message(2), "")
	})
}

func TestDeliveryIsTriedAgainAndThenGivenUp(t *testing.T) {
	for name, tc := range map[string]struct {
		down  time.Duration
		fail  func(w http.ResponseWriter) error
		want  map[string]float64
		tries int
	}{
		"an outage":             {30 * time.Second, unreachable, map[string]float64{"delivered": 1}, 7},
		"a long outage":         {2 * time.Minute, unreachable, map[string]float64{"lost": 1}, 8},
		"an error":              {5 * time.Second, status(500, `{}`), map[string]float64{"delivered": 1}, 4},
		"the homeserver's 429":  {5 * time.Second, status(429, `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":7000}`), map[string]float64{"delivered": 1}, 2},
		"a 429 until a time":    {5 * time.Second, limitedUntil(0, 7*time.Second), map[string]float64{"delivered": 1}, 2},
		"by another clock":      {5 * time.Second, limitedUntil(-time.Hour, 7*time.Second), map[string]float64{"delivered": 1}, 2},
		"a 429 for centuries":   {time.Hour, limitedFor("9223372036", `{}`), map[string]float64{"lost": 1}, 1},
		"one in the body":       {time.Hour, limitedFor("", `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":9223372036854}`), map[string]float64{"lost": 1}, 1},
		"a proxy's 425":         {5 * time.Second, status(425, ``), map[string]float64{"delivered": 1}, 4},
		"not allowed":           {time.Hour, status(403, `{"errcode":"M_FORBIDDEN"}`), map[string]float64{"lost": 1}, 1},
		"a token that is over":  {time.Hour, status(401, `{"errcode":"M_UNKNOWN_TOKEN"}`), map[string]float64{"dropped": 1}, 1},
		"an answer that is bad": {time.Hour, status(302, ``), map[string]float64{"lost": 1}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, coalescing())
				p.Put("alice-token", alice, message(0))
				p.Put("alice-token", alice, message(1))
				up := time.Now().Add(10*time.Second + tc.down)
				p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if r.Method == http.MethodPut && time.Now().Before(up) {
						return true, tc.fail(w)
					}
					return false, nil
				})
				time.Sleep(3 * time.Minute)
				p.wantDeliveries(tc.want)
				p.WantCounts(map[string]int{"PUT": 1 + tc.tries})
				if _, waits := p.memory.pendings.Waits(alice); waits {
					t.Error("something still waits")
				}
			})
		})
	}
}

// Whoever is called because writes are lost needs to know whether the homeserver is down, or refuses them.
func TestLogSaysHowTheHomeserverAnsweredWhatWasLost(t *testing.T) {
	for want, fail := range map[string]func(w http.ResponseWriter) error{
		"403": status(403, `{"errcode":"M_FORBIDDEN"}`), "502": unreachable, "0": nil, // its token ends before it is sent
	} {
		synctest.Test(t, func(t *testing.T) {
			p := newProxy(t, coalescing())
			logs := p.logged()
			p.Put("alice-token", alice, message(0))
			p.Put("alice-token", alice, message(1))
			if fail == nil {
				p.Do(request("POST", "/_matrix/client/v3/logout", "alice-token", ""))
			}
			p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
				if r.Method != http.MethodPut {
					return false, nil
				}
				return true, fail(w)
			})
			time.Sleep(3 * time.Minute)
			entries := logs.All()
			if len(entries) != 1 || entries[0].Fields["lost_since_last_message"] != "1" || entries[0].Fields["last_answer"] != want {
				t.Errorf("logged %v, want one line with the answer %s", entries, want)
			}
		})
	}
}

func unreachable(http.ResponseWriter) error {
	return failed(502, errors.New("no connection"))
}

func status(code int, body string) func(w http.ResponseWriter) error {
	return func(w http.ResponseWriter) error {
		answer(w, code, body)
		return nil
	}
}

func limitedFor(retryAfter, body string) func(w http.ResponseWriter) error {
	return func(w http.ResponseWriter) error {
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		return status(429, body)(w)
	}
}

// limitedUntil names a time by a clock that is fast by so much.
func limitedUntil(fast, wait time.Duration) func(w http.ResponseWriter) error {
	return func(w http.ResponseWriter) error {
		now := time.Now().UTC().Add(fast)
		w.Header().Set("Date", now.Format(http.TimeFormat))
		return limitedFor(now.Add(wait).Format(http.TimeFormat), `{}`)(w)
	}
}

// A bot on Dendrite wrote online and synced with set_presence=offline, as it always does. Its write,
// which waited, went to the homeserver as offline, because a sync had said so since. What a sync says
// is relative there, and what a write says is not.
func TestAWriteThatWaitsIsDeliveredAsItWasWritten(t *testing.T) {
	const syncOnline, syncAway, syncOffline = "since=s&timeout=0", "since=s&timeout=0&set_presence=unavailable", "since=s&timeout=0&set_presence=offline"
	for name, tt := range map[string]struct {
		homeserver, waits string
		syncs             []string
	}{
		"Dendrite, offline":  {"dendrite", online, []string{syncOffline, syncOffline}},
		"Dendrite, online":   {"dendrite", `{"presence":"unavailable","status_msg":"x"}`, []string{syncOnline, syncAway, syncOnline}},
		"Synapse":            {"synapse", ` { "presence" : "unavailable" } `, []string{syncOnline}},
		"tuwunel":            {"tuwunel", `{"presence":"busy"}`, []string{syncOnline, syncAway}},
		"tuwunel, no member": {"tuwunel", `{"presence":"dnd"}`, []string{syncOnline}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				handler := coalescing()
				handler.SyncPresence, handler.Homeserver = "limit", tt.homeserver
				p := newProxy(t, handler)
				p.Put("alice-token", alice, online)
				p.sync("alice-token", syncOnline)
				p.Want(p.Put("alice-token", alice, tt.waits), 200, "{}", "matrix_presence; detail=coalesced")
				for _, query := range tt.syncs {
					time.Sleep(time.Second)
					p.sync("alice-token", query)
				}
				// Also when the first delivery fails.
				var sent []string
				p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if r.Method != http.MethodPut {
						return false, nil
					}
					body, _ := io.ReadAll(r.Body)
					sent = append(sent, string(body))
					if r.ContentLength != int64(len(body)) {
						t.Errorf("the length of %s is %d", body, r.ContentLength)
					}
					if len(sent) == 1 {
						answer(w, 502, "{}")
					} else {
						answer(w, 200, "{}")
					}
					return true, nil
				})
				time.Sleep(9 * time.Second)
				p.sync("alice-token", tt.syncs[0])
				time.Sleep(15 * time.Second)
				synctest.Wait()
				if len(sent) != 2 || sent[0] != tt.waits || sent[1] != tt.waits {
					t.Errorf("the homeserver got %q", sent)
				}
			})
		})
	}
}

func TestLogoutDropsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, coalescing())
		for _, user := range []string{alice, bob} {
			token := strings.TrimSuffix(user[1:], ":example.com") + "-token"
			p.Put(token, user, message(0))
			p.Put(token, user, message(1))
		}
		p.Do(request("POST", "/_matrix/client/v3/logout", "alice-token", ""))
		p.wantDeliveries(map[string]float64{"dropped": 1, "pending": 1})
		time.Sleep(time.Minute)
		p.wantDeliveries(map[string]float64{"dropped": 1, "delivered": 1})
		p.WantCounts(map[string]int{"PUT": 3})
	})
}

// Which tokens end by another revocation the homeserver knows: it says so when it gets
// the write. And nobody can have another's writes dropped by asking for it.
func TestOtherRevocationsLeaveItToTheHomeserver(t *testing.T) {
	for name, tc := range map[string]struct {
		request *http.Request
		want    map[string]float64
	}{
		"logout of all devices":   {request("POST", "/_matrix/client/v3/logout/all", "alice-token", ""), map[string]float64{"dropped": 1}},
		"deletion of others":      {request("POST", "/_matrix/client/v3/delete_devices", "alice-token", `{"devices":["OTHER"]}`), map[string]float64{"delivered": 1}},
		"deactivation by nobody":  {request("POST", "/_synapse/admin/v1/deactivate/"+alice, "", ""), map[string]float64{"delivered": 1}},
		"logout without a answer": {request("POST", "/_matrix/client/v3/logout", "alice-token", ""), map[string]float64{"delivered": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, coalescing())
				p.Put("alice-token", alice, message(0))
				p.Put("alice-token", alice, message(1))
				p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					return strings.Contains(r.URL.Path, "/deactivate/") || name == "logout without a answer" && strings.HasSuffix(r.URL.Path, "/logout"), nil
				})
				p.Do(tc.request)
				time.Sleep(time.Minute)
				p.wantDeliveries(tc.want)
			})
		})
	}
}

// What waits is what the user wants next, so to say what was there before is a change.
func TestNothingIsAbsorbedPastAWriteThatWaits(t *testing.T) {
	for name, second := range map[string]string{"one device": "alice-token", "two devices": "alice-phone"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := coalescing()
				h.RepeatWrites, h.WriteLimit.Burst, h.Refresh = "absorb", 2, 0
				p := newProxy(t, h)
				sent := p.hs.bodies()
				p.Put("alice-token", alice, message(9))
				p.Put("alice-token", alice, online)
				p.Want(p.Put(second, alice, unavailable), 200, "{}", "matrix_presence; detail=coalesced")
				p.Want(p.Put("alice-token", alice, online), 200, "{}", "matrix_presence; detail=coalesced")
				time.Sleep(time.Minute)
				if got := sent(); got[len(got)-1] != online {
					t.Errorf("the homeserver got %v", got)
				}
			})
		})
	}
}

// The configuration may change, or another site of the same memory differ, while a
// write waits.
func TestNobodyOvertakesAWriteOfAnotherConfiguration(t *testing.T) {
	for name, other := range map[string]*options{
		"exempt":   {Exempt: []string{alice}},
		"no limit": {WriteLimit: &rate{Off: true}},
		"reject":   {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, coalescing())
				sent := p.hs.bodies()
				p.Put("alice-token", alice, message(0))
				p.Put("alice-token", alice, message(1))
				another := p.beside(other)
				p.WantError(another.Put("alice-token", alice, message(2)), 429, "M_LIMIT_EXCEEDED")
				time.Sleep(10 * time.Second)
				synctest.Wait()
				another.Put("alice-token", alice, message(3))
				if got := sent(); got[1] != message(1) || other.WriteLimit != nil && got[2] != message(3) {
					t.Errorf("the homeserver got %v", got)
				}
			})
		})
	}
}

// A write through a site that absorbs nothing is a change for one that does.
func TestNothingIsAbsorbedPastAnotherSitesWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, absorbing())
		p.Put("alice-token", alice, online)
		p.beside(new(options)).Put("alice-token", alice, unavailable)
		p.Want(p.Put("alice-token", alice, online), 200, "{}", "matrix_presence; fwd=method")
	})
}

// Two devices that take turns go together, but not past the limit.
func TestManyDevicesKeepToTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, coalescing())
		p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
			time.Sleep(20 * time.Millisecond)
			return false, nil
		})
		for n := range 60_000 / 5 {
			p.Put([]string{"alice-token", "alice-phone"}[n%2], alice, message(n))
			time.Sleep(5 * time.Millisecond)
		}
		if got := p.hs.Count("PUT"); got > 10 {
			t.Errorf("%d writes in a minute of one each ten seconds", got)
		}
	})
}

func TestNothingWaitsForLongerThanMaxAge(t *testing.T) {
	t.Run("for a budget", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := coalescing()
			h.Coalesce.MaxAge = 30 * time.Second
			p := newProxy(t, h)
			sent := make(map[string]time.Time)
			var mu sync.Mutex
			p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
				if r.Method == "PUT" {
					mu.Lock()
					defer mu.Unlock()
					body, _ := io.ReadAll(r.Body)
					sent[string(body)] = time.Now()
					answer(w, 200, `{}`)
					return true, nil
				}
				return false, nil
			})
			accepted := make(map[string]time.Time)
			for n := range 60 {
				token := fmt.Sprintf("device-%d", n%8)
				p.hs.Mu.Lock()
				p.hs.Tokens[token] = alice
				p.hs.Mu.Unlock()
				if resp := p.Put(token, alice, message(n)); resp.StatusCode == 200 {
					accepted[message(n)] = time.Now()
				}
				time.Sleep(3 * time.Second)
			}
			time.Sleep(time.Minute)
			mu.Lock()
			defer mu.Unlock()
			for body, at := range sent {
				if took := at.Sub(accepted[body]); took > 30*time.Second {
					t.Errorf("%s was delivered %v after its 200", body, took)
				}
			}
		})
	})
	t.Run("for a place", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := coalescing()
			h.Coalesce.Pending = 1000
			p := newProxy(t, h)
			for n := range 300 {
				userID, token := fmt.Sprintf("@user%d:example.com", n), fmt.Sprintf("token-%d", n)
				p.hs.Tokens[token] = userID
				p.Put(token, userID, message(0))
				p.Put(token, userID, message(1))
			}
			p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
				<-r.Context().Done()
				return true, failed(502, r.Context().Err())
			})
			time.Sleep(time.Minute + deliveryTimeout)
			synctest.Wait()
			p.wantDeliveries(map[string]float64{"lost": 300})
		})
	})
}

func TestWaitingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := coalescing()
		h.Coalesce.MaxAge = 15 * time.Second
		p := newProxy(t, h)
		accepted := 0
		for n := range 20 {
			userID, token := fmt.Sprintf("@user%d:example.com", n), fmt.Sprintf("token-%d", n)
			p.hs.Tokens[token] = userID
			p.Put(token, userID, message(0))
			if resp := p.Put(token, userID, message(1)); resp.StatusCode == 200 {
				accepted++
			} else {
				p.WantError(resp, 429, "M_LIMIT_EXCEEDED")
			}
		}
		if accepted != 10 {
			t.Errorf("%d writes wait, want 10", accepted)
		}
		time.Sleep(time.Minute)
		p.wantDeliveries(map[string]float64{"delivered": 10})
	})
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, coalescing())
		accepted := 0
		for n := range 20 {
			token := fmt.Sprintf("device-%d", n)
			p.hs.Tokens[token] = alice
			if resp := p.Put(token, alice, message(n)); resp.Header.Get("Cache-Status") == "matrix_presence; detail=coalesced" {
				accepted++
			}
		}
		if accepted != maxPendingDevices {
			t.Errorf("%d devices wait, want %d", accepted, maxPendingDevices)
		}
	})
}

func TestReloadDeliversWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, coalescing())
		p.Put("alice-token", alice, message(0))
		p.Put("alice-token", alice, message(1))
		p.Put("alice-phone", alice, message(2))
		sent := p.hs.bodies()
		start := time.Now()
		p.reload(coalescing())
		if took := time.Since(start); took != 0 {
			t.Errorf("it took %v", took)
		}
		if got := fmt.Sprint(sent()); got != fmt.Sprint([]string{message(1), message(2)}) {
			t.Errorf("the homeserver got %v", got)
		}
		p.wantDeliveries(map[string]float64{"delivered": 2})
	})
}

func TestReloadDoesNotWaitForAHomeserverThatHangs(t *testing.T) {
	for name, tokens := range map[string][]string{
		"many users":   {"alice-token", "bob-token", "carol-token"},
		"many devices": {"device-0", "device-1", "device-2", "device-3", "device-4"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, coalescing())
				for _, token := range tokens {
					if _, ok := p.hs.Tokens[token]; !ok {
						p.hs.Tokens[token] = alice
					}
				}
				coalesced := 0
				for n := range 2 {
					for _, token := range tokens {
						if resp := p.Put(token, p.hs.Tokens[token], message(n)); strings.Contains(resp.Header.Get("Cache-Status"), "coalesced") {
							coalesced++
						}
					}
				}
				p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if r.Method == http.MethodPut {
						<-r.Context().Done()
						return true, failed(502, r.Context().Err())
					}
					return false, nil
				})
				superseded := p.samples()["deliveries_total superseded"]
				start := time.Now()
				p.reload(coalescing())
				if took := time.Since(start); took != flushTimeout {
					t.Errorf("it took %v, want %v", took, flushTimeout)
				}
				p.wantDeliveries(map[string]float64{"lost": float64(coalesced) - superseded, "superseded": superseded})
			})
		})
	}
}

// A site that ends delivers what is its own, and waits for no budget of another's.
func TestEndOfOneSiteOfTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, coalescing())
		p.Put("alice-token", alice, message(0))
		p.Put("alice-token", alice, message(1)) // of the site that stays
		other := p.beside(coalescing())
		p.Want(other.Put("alice-phone", alice, message(2)), 200, "{}", "matrix_presence; detail=coalesced")
		sent := p.hs.bodies()
		start := time.Now()
		other.gateway.Flush()
		if took := time.Since(start); took != 0 {
			t.Errorf("it took %v", took)
		}
		if got := fmt.Sprint(sent()); got != fmt.Sprint([]string{message(1), message(2)}) {
			t.Errorf("the homeserver got %v", got)
		}
		p.wantDeliveries(map[string]float64{"delivered": 2})
	})
}

// What a client chose may not take more memory than its wait is worth.
func TestLargeRequestDoesNotWait(t *testing.T) {
	p := newProxy(t, coalescing())
	p.Put("alice-token", alice, message(0))
	large := fmt.Sprintf(`{"presence":"online","status_msg":%q}`, strings.Repeat("x", maxPendingBytes))
	p.WantError(p.Put("alice-token", alice, large), 429, "M_LIMIT_EXCEEDED")
	path := "/_matrix/client/v3/presence/" + alice + "/status" + strings.Repeat("x", maxLine)
	p.WantError(p.Do(request("PUT", path, "alice-token", message(1))), 429, "M_LIMIT_EXCEEDED")
	// What is sent of it has none of that, but the placeholders of the site keep all of it: once a
	// write took up to a megabyte as long as it waited, whatever max_header_size lets through.
	path = statusPath(alice) + "?x=" + strings.Repeat("x", maxPendingBytes)
	p.WantError(p.Do(request("PUT", path, "alice-token", message(1))), 429, "M_LIMIT_EXCEEDED")
	for _, values := range [][]string{{strings.Repeat("x", maxPendingBytes)}, slices.Repeat([]string{"many"}, maxPendingBytes/4)} {
		r := request("PUT", statusPath(alice), "alice-token", message(1))
		r.Header["X-Junk"] = values
		p.WantError(p.Do(r), 429, "M_LIMIT_EXCEEDED")
	}
	p.Want(p.Put("alice-token", alice, message(1)), 200, "{}", "matrix_presence; detail=coalesced")
}

// A homeserver that hangs gets no more writes at a time than it would answer.
func TestDeliveriesAtATimeAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := coalescing()
		h.Coalesce.Pending, h.Coalesce.MaxAge = 1000, time.Hour
		p := newProxy(t, h)
		for n := range 300 {
			userID, token := fmt.Sprintf("@user%d:example.com", n), fmt.Sprintf("token-%d", n)
			p.hs.Tokens[token] = userID
			p.Put(token, userID, message(0))
			p.Put(token, userID, message(1))
		}
		var mu sync.Mutex
		now, most := 0, 0
		p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(20 * time.Second)
			mu.Lock()
			now--
			mu.Unlock()
			return false, nil
		})
		time.Sleep(time.Hour)
		mu.Lock()
		defer mu.Unlock()
		if most != maxDeliveries {
			t.Errorf("%d at a time, want %d", most, maxDeliveries)
		}
		p.wantDeliveries(map[string]float64{"delivered": 300})
	})
}

// BenchmarkMemoryPending measures a write that waits. It is one for -benchtime 1x.
func BenchmarkMemoryPending(b *testing.B) {
	const writes = 10_000
	testkit.ReportHeap(b, writes, func() any {
		h := coalescing()
		h.Coalesce.Pending, h.Coalesce.MaxAge, h.WriteLimit.Window = writes, time.Duration(2*time.Hour), time.Hour
		p := newProxy(b, h)
		for n := range writes {
			userID, token := fmt.Sprintf("@user%07d:example.com", n), fmt.Sprintf("syt_dGVzdA_abcdefghijklmnopqrst_%07d", n)
			p.hs.Tokens[token] = userID
			p.Put(token, userID, message(0))
			p.hs.Seen = nil
		}
		before := len(p.hs.Tokens)
		for n := range before - 4 {
			r := request("PUT", statusPath(fmt.Sprintf("@user%07d:example.com", n)), fmt.Sprintf("syt_dGVzdA_abcdefghijklmnopqrst_%07d", n), message(1))
			for name, value := range map[string]string{
				"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Accept": "application/json",
				"Accept-Language": "en-US,en;q=0.5", "Origin": "https://app.element.io", "Referer": "https://app.element.io/",
				"Content-Type": "application/json", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "cross-site", "X-Forwarded-For": "192.0.2.1",
			} {
				r.Header.Set(name, value)
			}
			p.Do(r)
		}
		return p
	})
}

// wantPut fails unless a write is answered so.
func (p *proxy) wantPut(token, body string, status int, cacheStatus string) {
	p.t.Helper()
	p.Want(p.Put(token, alice, body), status, "", cacheStatus)
}

const waits = "matrix_presence; detail=coalesced"

// alice's "lunch" waited and had its 200. Then her client wrote something that the homeserver
// refused, which took the place of the first: both were lost.
func TestOfTwoWritesTheOlderIsSentIfTheNewerIsRefused(t *testing.T) {
	const lunch, later, last = `{"presence":"unavailable","status_msg":"lunch"}`, `{"presence":"unavailable","status_msg":"later"}`, `{"presence":"online","status_msg":"last"}`
	refusal := status(400, `{"errcode":"M_UNKNOWN","error":"Invalid presence state"}`)
	for name, tc := range map[string]struct {
		writes  []string
		refuses []string
		refusal func(w http.ResponseWriter) error
		sent    []string
		want    map[string]float64
	}{
		"the newer":    {[]string{lunch, later}, []string{later}, refusal, []string{later, lunch}, map[string]float64{"superseded": 1, "lost": 1}},
		"not at all":   {[]string{lunch, later}, nil, nil, []string{later}, map[string]float64{"superseded": 1, "delivered": 1}},
		"two of three": {[]string{lunch, later, last}, []string{later, last}, refusal, []string{last, later, lunch}, map[string]float64{"superseded": 2, "lost": 1}},
		"all":          {[]string{lunch, later}, []string{lunch, later}, refusal, []string{later, lunch}, map[string]float64{"superseded": 1, "lost": 1}},
		"by another":   {[]string{lunch, later}, []string{later}, status(403, `{"errcode":"M_FORBIDDEN"}`), []string{later, lunch}, map[string]float64{"superseded": 1, "lost": 1}},
		"the token":    {[]string{lunch, later}, []string{later}, status(401, `{"errcode":"M_UNKNOWN_TOKEN"}`), []string{later}, map[string]float64{"superseded": 1, "dropped": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, coalescing())
				p.Put("alice-token", alice, message(0))
				var sent []string
				p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if r.Method != http.MethodPut {
						return false, nil
					}
					body, _ := io.ReadAll(r.Body)
					r.Body = io.NopCloser(strings.NewReader(string(body)))
					sent = append(sent, string(body))
					if r.ContentLength != int64(len(body)) {
						t.Errorf("the length of %s is %d", body, r.ContentLength)
					}
					if slices.Contains(tc.refuses, string(body)) {
						return true, tc.refusal(w)
					}
					return false, nil
				})
				for _, body := range tc.writes {
					p.wantPut("alice-token", body, 200, waits)
				}
				time.Sleep(15 * time.Second)
				synctest.Wait()
				if fmt.Sprint(sent) != fmt.Sprint(tc.sent) {
					t.Errorf("the homeserver got %q, want %q", sent, tc.sent)
				}
				p.wantDeliveries(tc.want)
				// What was sent in the place of a refused one is charged for as well.
				due := p.memory.writes.Wait(alice, *p.gateway.cfg.ClassOf(alice).WriteLimit, time.Now())
				if want := time.Duration(10*len(tc.sent)-5) * time.Second; due != want {
					t.Errorf("the next write in %v, want %v", due, want)
				}
			})
		})
	}
}

// On Dendrite a write without a status_msg keeps the message. "In a meeting" waited, and a write
// without a text took its place: the text was the one before both.
func TestWhatTheNewerLeavesOutIsWhatTheHomeserverWouldMakeOfIt(t *testing.T) {
	const meeting, bare, null = `{"presence":"unavailable","status_msg":"in a \"meeting\""}`, `{"presence":"online"}`, `{"presence":"online","status_msg":null}`
	type write struct{ token, body string }
	phone := func(body string) write { return write{"alice-token", body} }
	desktop := func(body string) write { return write{"alice-phone", body} }
	for name, tc := range map[string]struct {
		homeserver string
		writes     []write
		sent       []string
	}{
		"Dendrite":            {"dendrite", []write{phone(meeting), phone(bare)}, []string{`{"presence":"online","status_msg":"in a \"meeting\""}`}},
		"Dendrite, null":      {"dendrite", []write{phone(meeting), phone(null)}, []string{`{"presence":"online","status_msg":null,"status_msg":"in a \"meeting\""}`}},
		"Dendrite, three":     {"dendrite", []write{phone(meeting), phone(bare), phone(bare)}, []string{`{"presence":"online","status_msg":"in a \"meeting\""}`}},
		"Dendrite, its own":   {"dendrite", []write{phone(meeting), phone(message(1))}, []string{message(1)}},
		"Dendrite, empty":     {"dendrite", []write{phone(meeting), phone(`{"presence":"online","status_msg":""}`)}, []string{`{"presence":"online","status_msg":""}`}},
		"Dendrite, two":       {"dendrite", []write{phone(meeting), desktop(unavailable), phone(bare)}, []string{unavailable, `{"presence":"online","status_msg":"in a \"meeting\""}`}},
		"Dendrite, another's": {"dendrite", []write{phone(meeting), desktop(message(1)), phone(bare)}, []string{message(1), bare}},
		"Synapse":             {"synapse", []write{phone(meeting), phone(bare)}, []string{bare}},
		"tuwunel":             {"tuwunel", []write{phone(meeting), phone(null)}, []string{null}},
		// Both, in order.
		"not recognised":            {"", []write{phone(meeting), phone(bare)}, []string{meeting, bare}},
		"not recognised, three":     {"", []write{phone(meeting), phone(bare), phone(unavailable)}, []string{meeting, unavailable}},
		"not recognised, its own":   {"", []write{phone(meeting), phone(bare), phone(message(1))}, []string{message(1)}},
		"not recognised, another's": {"", []write{phone(meeting), desktop(message(1)), phone(bare)}, []string{message(1), bare}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				handler := coalescing()
				handler.Homeserver = tc.homeserver
				p := newProxy(t, handler)
				p.Put("alice-token", alice, message(0))
				sent := p.hs.bodies()
				for _, w := range tc.writes {
					p.wantPut(w.token, w.body, 200, waits)
				}
				time.Sleep(15 * time.Second)
				synctest.Wait()
				if fmt.Sprint(sent()) != fmt.Sprint(tc.sent) {
					t.Errorf("the homeserver got %q, want %q", sent(), tc.sent)
				}
				p.wantDeliveries(map[string]float64{
					"superseded": float64(len(tc.writes) - len(tc.sent)), "delivered": float64(len(tc.sent)),
				})
			})
		})
	}
}

// The older one is under way when the newer comes, and fails. What the newer leaves out it
// takes from it all the same.
func TestAWriteThatFailsIsNotLostToANewerOne(t *testing.T) {
	for homeserver, want := range map[string][]string{
		"dendrite": {message(1), `{"presence":"unavailable","status_msg":"1"}`},
		"synapse":  {message(1), unavailable},
		"":         {message(1), message(1), unavailable},
	} {
		t.Run(homeserver, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				handler := coalescing()
				handler.Homeserver = homeserver
				p := newProxy(t, handler)
				p.Put("alice-token", alice, message(0))
				p.wantPut("alice-token", message(1), 200, waits)
				var sent []string
				p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if r.Method != http.MethodPut {
						return false, nil
					}
					body, _ := io.ReadAll(r.Body)
					sent = append(sent, string(body))
					if len(sent) == 1 {
						time.Sleep(2 * time.Second)
						return true, unreachable(w)
					}
					answer(w, 200, `{}`)
					return true, nil
				})
				time.Sleep(11 * time.Second)
				p.wantPut("alice-token", unavailable, 200, waits)
				time.Sleep(30 * time.Second)
				synctest.Wait()
				if fmt.Sprint(sent) != fmt.Sprint(want) {
					t.Errorf("the homeserver got %q, want %q", sent, want)
				}
			})
		})
	}
}

// Over the budget a body got 200 that the homeserver answers with 400.
func TestOnlyWhatTheHomeserverTakesWaits(t *testing.T) {
	const extra, number, null, upper = `{"presence":"online","x":1}`, `{"presence":"online","status_msg":1}`, `{"presence":"online","status_msg":null}`, `{"presence":"ONLINE"}`
	const busy, msc3026, away = `{"presence":"busy"}`, `{"presence":"org.matrix.msc3026.busy"}`, `{"presence":"away"}`
	bodies := []string{online, extra, number, null, upper, busy, msc3026, away}
	for homeserver, want := range map[string]map[string]int{ // over the budget
		"":         {online: 200, extra: 429, number: 429, null: 429, upper: 429, busy: 429, msc3026: 429, away: 400},
		"synapse":  {online: 200, extra: 429, number: 429, null: 429, upper: 400, busy: 400, msc3026: 429, away: 400},
		"dendrite": {online: 200, extra: 200, number: 429, null: 200, upper: 200, busy: 400, msc3026: 400, away: 400},
		"tuwunel":  {online: 200, extra: 429, number: 429, null: 200, upper: 200, busy: 200, msc3026: 200, away: 200},
	} {
		for _, mode := range []string{"enforce", "observe"} {
			t.Run(homeserver+" "+mode, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					handler := coalescing()
					handler.Homeserver, handler.Mode = homeserver, mode
					p := newProxy(t, handler)
					p.Put("alice-token", alice, message(0))
					wanted := make(map[string]float64)
					for _, body := range bodies {
						synctest.Wait() // an observation may take longer than its request
						resp := p.Put("alice-token", alice, body)
						wanted[map[int]string{200: "coalesced", 400: "invalid", 429: "limited"}[want[body]]]++
						if mode == "enforce" && resp.StatusCode != want[body] {
							t.Errorf("%s: %d, want %d", body, resp.StatusCode, want[body])
						}
					}
					synctest.Wait()
					if mode == "enforce" {
						return
					}
					got := p.observed()
					for _, outcome := range []string{"coalesced", "invalid", "limited"} {
						if n := got[outcome+" write"]; n != wanted[outcome] {
							t.Errorf("%v would be %s, want %v", n, outcome, wanted[outcome])
						}
					}
				})
			})
		}
	}
}

// Within the budget the homeserver says itself what it thinks of a body.
func TestWithinTheBudgetTheHomeserverJudgesBodies(t *testing.T) {
	p := newProxy(t, &options{OverLimit: "coalesce", Homeserver: "synapse"})
	p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if r.Method == http.MethodPut {
			answer(w, 400, `{"errcode":"M_UNKNOWN","error":"Unable to parse state"}`)
		}
		return r.Method == http.MethodPut, nil
	})
	for _, body := range []string{`{"presence":"online","x":1}`, `{"presence":"online","status_msg":null}`, `{"Presence":"online"}`} {
		p.Want(p.Put("alice-token", alice, body), 400, `{"errcode":"M_UNKNOWN","error":"Unable to parse state"}`, "matrix_presence; fwd=method")
	}
	p.WantCounts(map[string]int{"PUT": 3})
}
