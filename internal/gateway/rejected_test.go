package gateway

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// from returns a read of alice's presence from a client's address.
func from(address, token string) *http.Request {
	r := request("GET", statusPath(alice), token, "")
	r.RemoteAddr = net.JoinHostPort(address, "1")
	return r
}

func TestClientThatMakesUpTokensIsNotAskedAboutForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{Identity: &identifying{
			RejectedLimit: &rate{Events: 10, Window: time.Minute, Burst: 20},
		}})
		p.Want(p.Do(from("192.0.2.7", "alice-phone")), 200, "", "")
		for i := range 20 {
			p.WantError(p.Do(from("192.0.2.7", fmt.Sprint("made-up-", i))), 401, "M_UNKNOWN_TOKEN")
		}
		p.WantCounts(map[string]int{"whoami": 21})
		for i := range 100 {
			resp := p.Do(from("192.0.2.7", fmt.Sprint("another-", i)))
			p.WantError(resp, 429, "M_LIMIT_EXCEEDED")
			if got := resp.Header.Get("Retry-After"); got != "6" {
				t.Fatalf("Retry-After: %s, want 6", got)
			}
		}
		p.WantCounts(map[string]int{"whoami": 21, "GET": 1})

		// What is in memory is as good as ever, the good and the bad.
		p.Want(p.Do(from("192.0.2.7", "alice-phone")), 200, "", "matrix_presence; hit")
		p.WantError(p.Do(from("192.0.2.7", "made-up-0")), 401, "M_UNKNOWN_TOKEN")
		// Others have budgets of their own.
		p.Want(p.Do(from("192.0.2.8", "bob-token")), 200, "", "")
		// Six seconds make one more.
		time.Sleep(6 * time.Second)
		p.Want(p.Do(from("192.0.2.7", "alice-token")), 200, "", "")
		p.WantError(p.Do(from("192.0.2.7", "last")), 401, "M_UNKNOWN_TOKEN")
		p.WantError(p.Do(from("192.0.2.7", "one-too-many")), 429, "M_LIMIT_EXCEEDED")
	})
}

func TestClientThatRepeatsAnUnknownTokenIsChargedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{Identity: &identifying{
			RejectedLimit: &rate{Events: 1, Window: time.Hour, Burst: 2},
		}})
		repeat := func(times int) {
			t.Helper()
			for range times {
				p.WantError(p.Do(from("192.0.2.7", "logged-out")), 401, "M_UNKNOWN_TOKEN")
				time.Sleep(defaultRejectedTTL)
			}
		}
		repeat(1 + 2*retryFactor)
		p.WantCounts(map[string]int{"whoami": 1 + 2*retryFactor})
		// From then on the homeserver is asked at times.
		for range 100 {
			resp := p.Do(from("192.0.2.7", "logged-out"))
			if resp.StatusCode != 401 {
				p.WantError(resp, 429, "M_LIMIT_EXCEEDED")
			}
			time.Sleep(defaultRejectedTTL)
		}
		if more := p.hs.Count("whoami") - (1 + 2*retryFactor); more < 1 || more > 3 {
			t.Errorf("in another 1000 s it was asked about %d times", more)
		}
		p.WantError(p.Do(from("192.0.2.7", "another")), 401, "M_UNKNOWN_TOKEN")
		p.WantError(p.Do(from("192.0.2.7", "a-third")), 429, "M_LIMIT_EXCEEDED")
	})
}

// A bridge whose token has ended tries for each of its users.
func TestBridgeWithAnUnknownTokenCostsNoNewOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{Identity: &identifying{
			RejectedLimit: &rate{Events: 1, Window: time.Hour, Burst: 2},
		}})
		p.WantError(p.Do(from("192.0.2.7", "as-dead")), 401, "M_UNKNOWN_TOKEN")
		for i := range 100 {
			time.Sleep(defaultRejectedTTL)
			ghost := fmt.Sprintf("@ghost_%d:example.com", i)
			r := request("PUT", statusPath(ghost)+"?user_id="+ghost, "as-dead", `{"presence":"online"}`)
			r.RemoteAddr = "192.0.2.7:1"
			p.Do(r)
		}
		if got := p.hs.Count("whoami"); got < 2*retryFactor || got > 2*retryFactor+4 {
			t.Errorf("it was asked about %d times", got)
		}
		p.WantError(p.Do(from("192.0.2.7", "another")), 401, "M_UNKNOWN_TOKEN")
		p.WantError(p.Do(from("192.0.2.7", "a-third")), 429, "M_LIMIT_EXCEEDED")
	})
}

func TestIPv6ClientIsItsBlockAndPartOfItsNetwork(t *testing.T) {
	p := newProxy(t, &options{Identity: &identifying{
		RejectedLimit: &rate{Events: 1, Window: time.Hour},
	}})
	p.WantError(p.Do(from("2001:db8:1:1::1", "a")), 401, "M_UNKNOWN_TOKEN")
	p.WantError(p.Do(from("2001:db8:1:1::2", "b")), 429, "M_LIMIT_EXCEEDED")
	for i := 2; i <= networkShare; i++ {
		p.WantError(p.Do(from(fmt.Sprintf("2001:db8:1:%d::1", i), fmt.Sprint("c", i))), 401, "M_UNKNOWN_TOKEN")
	}
	p.WantError(p.Do(from("2001:db8:1:99::1", "d")), 429, "M_LIMIT_EXCEEDED")
	p.WantError(p.Do(from("2001:db8:2::1", "e")), 401, "M_UNKNOWN_TOKEN")
}

func TestManyUsersBehindOneAddressAreAllLookedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, new(options))
		for i := range 1000 {
			p.hs.Tokens[fmt.Sprint("user-", i)] = fmt.Sprintf("@user%d:example.com", i)
		}
		p.hs.Intercept = func(http.ResponseWriter, *http.Request) (bool, error) {
			time.Sleep(time.Millisecond)
			return false, nil
		}
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() { p.Want(p.Do(from("192.0.2.7", fmt.Sprint("user-", i))), 200, "", "") })
		}
		wg.Wait()
		p.WantCounts(map[string]int{"whoami": 1000})
	})
}

// Behind a socket of Unix all clients have one address, and streams of HTTP/2 that a proxy bundles
// have one, too. They stood in one line as if they were one client: of two hundred new tokens
// 112 got a 429 while a homeserver took a second for each lookup.
func TestClientsThatNothingTellsApartAreLookedUpAsMany(t *testing.T) {
	for name, address := range map[string]string{"a socket": "@", "a proxy": "10.0.0.1:1234", "nothing": ""} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, new(options))
				p.hs.AnswerBy(func(_ http.ResponseWriter, r *http.Request) (bool, error) {
					if strings.HasSuffix(r.URL.Path, "/whoami") {
						time.Sleep(time.Second)
					}
					return false, nil
				})
				for n := range 3 * maxWhoAmIs {
					p.hs.Tokens[fmt.Sprint("token-", n)] = bob
				}
				began := time.Now()
				var wg sync.WaitGroup
				for n := range 3 * maxWhoAmIs {
					wg.Go(func() {
						r := request("GET", statusPath(alice), fmt.Sprint("token-", n), "")
						r.RemoteAddr = address
						p.Want(p.Do(r), 200, "", "")
					})
				}
				// Somebody else gets in by turns all the same.
				wg.Go(func() {
					p.Want(p.Do(from("192.0.2.7", "carol-token")), 403, "", "")
					if took := time.Since(began); took > 2*time.Second {
						t.Errorf("somebody else waited %v", took)
					}
				})
				wg.Wait()
			})
		})
	}
}

func TestTokensThatWaitInLineAreNotAskedAboutWhenTheBudgetIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{Identity: &identifying{
			RejectedLimit: &rate{Events: 1, Window: time.Hour, Burst: 10},
		}})
		p.hs.Intercept = func(http.ResponseWriter, *http.Request) (bool, error) {
			time.Sleep(time.Millisecond)
			return false, nil
		}
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() { p.Do(from("192.0.2.7", fmt.Sprint("made-up-", i))) })
		}
		wg.Wait()
		if got := p.hs.Count("whoami"); got < 10 || got > 10+maxWhoAmIsEach {
			t.Errorf("%d lookups, want 10 and those that were under way, at most %d", got, maxWhoAmIsEach)
		}
	})
}

// While the homeserver doesn't tell whose token it is, reads go to it: they must be no
// way around the limit.
func TestUnknownTokensOfReadsThatPassAreCharged(t *testing.T) {
	p := newProxy(t, &options{Identity: &identifying{
		RejectedLimit: &rate{Events: 1, Window: time.Hour, Burst: 3},
	}})
	p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if r.URL.Path != "/_matrix/client/v3/account/whoami" {
			return false, nil
		}
		w.WriteHeader(500)
		return true, nil
	}
	for i := range 3 {
		p.WantError(p.Do(from("192.0.2.7", fmt.Sprint("made-up-", i))), 401, "M_UNKNOWN_TOKEN")
	}
	p.WantError(p.Do(from("192.0.2.7", "made-up-3")), 429, "M_LIMIT_EXCEEDED")
	p.WantCounts(map[string]int{"GET": 3})
	p.Want(p.Do(from("192.0.2.8", "bob-token")), 200, "", "")
}
