package attack_test

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/wire"
)

// rejected is how many unknown tokens a client may have looked up in so many seconds,
// with so many of its lookups at a time.
func rejected(burst int, seconds float64, atATime int) int {
	return burst + int(seconds/rejectedEvery) + 1 + atATime
}

// madeUp is a request with a token that nobody has, in one of the ways to show one.
func madeUp(i int, address string) []byte {
	token := fmt.Sprintf("made-up-%s-%d", strings.ReplaceAll(address, ":", "-"), i)
	switch target := presencePath(alice); i % 5 {
	case 0:
		return wire.Request("GET", target, bearer(token), from(address))
	case 1:
		return wire.Request("GET", target+"?access_token="+token, from(address))
	case 2:
		return wire.RequestWith(online("x"), "PUT", target, bearer(token), from(address))
	case 3: // a spelling that only some homeservers serve
		return wire.Request("GET", strings.Replace(target, "/v3/", "/unstable/", 1), bearer(token), from(address))
	default:
		return wire.Request("GET", target+"?user_id=@made-up:hs&device_id=D", bearer(token), from(address))
	}
}

// unknownOrLimited expects what somebody may hear about a token that nobody has.
func unknownOrLimited(_ int, r reply) error {
	var body struct {
		Errcode string `json:"errcode"`
		RetryMS int    `json:"retry_after_ms"`
	}
	_ = json.Unmarshal(r.Body, &body)
	switch r.Status {
	case http.StatusUnauthorized:
		if body.Errcode == "M_UNKNOWN_TOKEN" {
			return nil
		}
	case http.StatusTooManyRequests:
		seconds, err := strconv.Atoi(r.Header.Get("Retry-After"))
		if err == nil && seconds > 0 && body.RetryMS > 0 && body.Errcode == "M_LIMIT_EXCEEDED" {
			return nil
		}
	}
	return fmt.Errorf("a made-up token was answered with %s (Retry-After %q)", r, r.Header.Get("Retry-After"))
}

// TestRandomTokensFromOneAddress: somebody without an account tries tokens as fast as
// they are answered. The homeserver looks up what the address has a budget for.
func TestRandomTokensFromOneAddress(t *testing.T) {
	const attacker = "192.0.2.1"
	s := newSite(t, newHomeserver(t, false), options{})
	siege{
		name: "random tokens, one address",
		site: s,
		flood: flood{
			connections: 64, requests: scale.tokens, judge: unknownOrLimited,
			request: func(i int) []byte { return madeUp(i, attacker) },
		},
		work: func(seconds float64) limits {
			n := rejected(rejectedBurst, seconds, lookupsEach)
			// A read in an odd spelling is passed on when its token was looked up.
			return limits{count: [kinds]int{whoami: n, read: n}, each: lookupsEach}
		},
	}.run(t)

	w := mustDial(t, s.URL)
	spent := 0
	suite.Eventually(t, "the attacker has no budget", func() bool { // it may have got one since
		spent++
		r, err := w.Ask(wire.Request("GET", presencePath(bob), bearer(fmt.Sprint("one-more-", spent)), from(attacker)))
		if err != nil {
			t.Fatal(err)
		}
		return r.Status == http.StatusTooManyRequests
	})
	for _, tt := range []struct {
		name    string
		request []byte
		want    int
	}{
		{"a new token from the attacker's address",
			wire.Request("GET", presencePath(bob), bearer(tokenOf("alice", 2)), from(attacker)), http.StatusTooManyRequests},
		{"a new token from elsewhere", wire.Request("GET", presencePath(bob), bearer(tokenOf("alice", 1)), from("192.0.2.2")), http.StatusOK},
		{"the token that is known now, from the attacker's address",
			wire.Request("GET", presencePath(bob), bearer(tokenOf("alice", 1)), from(attacker)), http.StatusOK},
	} {
		r, err := w.Ask(tt.request)
		if err != nil {
			t.Fatal(err)
		}
		if r.Status != tt.want {
			t.Errorf("%s: %s, want %d", tt.name, r, tt.want)
		}
	}
}

// TestRandomTokensFromManyAddresses: the same by a botnet. Each address has a budget
// of its own, and an IPv6 client can't get another by moving within its block.
func TestRandomTokensFromManyAddresses(t *testing.T) {
	// Small, so that it shows with a few tokens each.
	const burst = 2
	hosts := func(format string) func(i int) string {
		return func(i int) string { return fmt.Sprintf(format, i>>8&0xff, i&0xff) }
	}
	for _, tt := range []struct {
		name    string
		address func(client int) string
		work    func(seconds float64) limits
	}{
		{
			"random tokens, many IPv4 addresses", hosts("203.0.%d.%d"),
			func(seconds float64) limits {
				return limits{count: [kinds]int{whoami: scale.clients * rejected(burst, seconds, 1)}}
			},
		},
		{
			"random tokens, one IPv6 /64", hosts("2001:db8:1:1::%x:%x"),
			func(seconds float64) limits {
				return limits{count: [kinds]int{whoami: rejected(burst, seconds, lookupsEach)}}
			},
		},
		{
			"random tokens, many IPv6 /64s of one /48", hosts("2001:db8:2:%x%02x::1"),
			func(seconds float64) limits {
				return limits{count: [kinds]int{whoami: networkHas*rejected(burst, seconds, 0) + lookupsAll}}
			},
		},
		{
			"random tokens, many IPv6 /48s", hosts("2001:db8:%x%02x::1"),
			func(seconds float64) limits {
				return limits{count: [kinds]int{whoami: scale.clients * rejected(burst, seconds, 1)}}
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			siege{
				name:    tt.name,
				options: options{identity: []string{fmt.Sprintf("rejected_limit 10/1m burst %d", burst)}},
				flood: flood{
					connections: 64, requests: scale.clients * scale.each, judge: unknownOrLimited,
					// One token of each client, then the next of each: hardly ever
					// are two of a client on their way.
					request: func(i int) []byte {
						return wire.Request("GET", presencePath(alice), bearer(fmt.Sprint("made-up-", i)), from(tt.address(i%scale.clients)))
					},
				},
				work: func(seconds float64) limits {
					l := tt.work(seconds)
					l.count[whoami] = min(l.count[whoami], scale.clients*scale.each)
					return l
				},
			}.run(t)
		})
	}
}

// TestUnknownTokensOverTime: an address that never stops gets a lookup whenever its
// budget has one again, and no more than one. A budget that is charged when a lookup
// is over lets all in who wait for it at that moment.
func TestUnknownTokensOverTime(t *testing.T) {
	const burst, aSecond = 5, 10
	for _, tt := range []struct {
		name    string
		address func(i int) string
		times   int // the budget of a client
		atATime int
	}{
		{"one address", func(int) string { return "192.0.2.1" }, 1, lookupsEach},
		{"one IPv6 /48", func(i int) string { return fmt.Sprintf("2001:db8:2:%x::1", i&0xffff) }, networkHas, lookupsAll},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hs := newHomeserver(t, false)
			// So that there are as many at a time as may be.
			hs.whoamiTakes.Store(int64(10 * time.Millisecond))
			s := newSite(t, hs, options{identity: []string{fmt.Sprintf("rejected_limit %d/1s burst %d", aSecond, burst)}})
			siege{
				name: "random tokens without a pause, " + tt.name + ", 10 a second allowed",
				site: s,
				flood: flood{
					connections: 96, requests: math.MaxInt, until: time.Now().Add(scale.lasting), judge: unknownOrLimited,
					request: func(i int) []byte {
						return wire.Request("GET", presencePath(alice), bearer(fmt.Sprint("made-up-", i)), from(tt.address(i)))
					},
				},
				work: func(seconds float64) limits {
					return limits{
						count:   [kinds]int{whoami: tt.times*(burst+int(aSecond*seconds)+1) + tt.atATime},
						atATime: [kinds]int{whoami: tt.atATime},
					}
				},
			}.run(t)
		})
	}
}

// TestSlowLookupsAreShared: a homeserver that takes its time for a token is not
// taken by whoever brings the most.
func TestSlowLookupsAreShared(t *testing.T) {
	hs := newHomeserver(t, false)
	hs.whoamiTakes.Store(int64(20 * time.Millisecond))
	// Without a budget, so that the line stays long.
	s := newSite(t, hs, options{identity: []string{"rejected_limit off"}})
	requests := scale.tokens / 10
	siege{
		name: "random tokens, one address, slow homeserver, no budget",
		site: s,
		flood: flood{
			connections: 200, requests: requests, judge: unknownOrLimited,
			request: func(i int) []byte {
				return wire.Request("GET", presencePath(alice), bearer(fmt.Sprint("made-up-", i)), from("192.0.2.1"))
			},
		},
		work: func(float64) limits {
			return limits{count: [kinds]int{whoami: requests}, each: lookupsEach, atATime: [kinds]int{whoami: lookupsEach}}
		},
	}.run(t)
}

// TestOneAddressCantFillTheLine: somebody opens more connections than lookups may wait,
// each with a made-up token, while the homeserver doesn't get on with them. Whoever
// comes home from another address must find room.
func TestOneAddressCantFillTheLine(t *testing.T) {
	const crowd = 4_500 // above the 4,096 lookups that may be under way
	hs := newHomeserver(t, false)
	hs.hold = make(chan struct{})
	s := newSite(t, hs, options{identity: []string{rejectedLimit, "timeout 1m"}})
	hs.take()

	wires := make([]*wire.Conn, crowd)
	var arriving sync.WaitGroup
	for first := range 64 {
		arriving.Go(func() {
			for i := first; i < crowd; i += 64 {
				w, err := wire.Dial(s.URL)
				if err == nil {
					wires[i] = w
					_, err = w.Write(wire.Request("GET", presencePath(alice), bearer(fmt.Sprint("made-up-", i)), from("192.0.2.1")))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	arriving.Wait()
	defer func() {
		close(hs.hold)
		for _, w := range wires {
			if w != nil {
				w.Close()
			}
		}
	}()
	// Each connection has a goroutine, and another one while it waits.
	before := 0
	suite.Eventually(t, "all of the crowd stands in line, or was sent away", func() bool {
		now := s.vitals(t).Goroutines
		settled := now >= crowd && now == before
		before = now
		return settled
	})
	w := mustDial(t, s.URL)
	for i := range 3 {
		r, err := w.Ask(wire.Request("GET", presencePath(bob), bearer(tokenOf(fmt.Sprint("newcomer", i), 0)), from("198.51.100.7")))
		if err != nil {
			t.Fatal(err)
		}
		if r.Status != http.StatusOK {
			t.Errorf("a new token from another address: %s, want 200", r)
		}
	}
	if busiest := hs.take().busiest; busiest > lookupsEach {
		t.Errorf("%d lookups at a time for one address, at most %d were allowed", busiest, lookupsEach)
	}
}

// TestManyLoginsBehindOneAddress: a conference hall comes home at once. All tokens
// are known to the homeserver, so nobody hears of a limit.
func TestManyLoginsBehindOneAddress(t *testing.T) {
	for _, address := range []string{"192.0.2.1", "2001:db8::1"} {
		siege{
			name: "logins of " + fmt.Sprint(scale.logins) + " people behind " + address,
			flood: flood{
				connections: scale.logins, requests: scale.logins,
				request: func(i int) []byte {
					return wire.Request("GET", presencePath(bob), bearer(tokenOf(fmt.Sprint("guest", i), 0)), from(address))
				},
				judge: func(i int, r reply) error {
					if r.Status != http.StatusOK || string(r.Body) != presenceOf(statusOf(bob)) {
						return fmt.Errorf("guest %d got %s", i, r)
					}
					return nil
				},
			},
			work: func(float64) limits {
				return limits{
					count: [kinds]int{whoami: scale.logins, read: scale.logins}, each: lookupsEach,
				}
			},
			inFlight: int64(scale.logins) * connectionTakes,
		}.run(t)
	}
}

// TestOneUnknownTokenAgainAndAgain: with other names of users, an unknown token is as
// many lookups as many of them, and no way around the budget.
func TestOneUnknownTokenAgainAndAgain(t *testing.T) {
	siege{
		name: "one unknown token again and again, with other user_ids",
		flood: flood{
			connections: 64, requests: scale.tokens, judge: unknownOrLimited,
			request: func(i int) []byte {
				return wire.Request("GET", presencePath(alice)+fmt.Sprintf("?user_id=@u%d:hs", i), bearer("logged-out"), from("192.0.2.1"))
			},
		},
		work: func(seconds float64) limits {
			// The homeserver's word on a user_id isn't kept, so each may be looked up.
			return limits{count: [kinds]int{whoami: rejected(rejectedBurst, seconds, lookupsEach)}, each: lookupsEach}
		},
	}.run(t)
}

// TestOneUnknownTokenThatIsNotKept: where unknown tokens aren't remembered, one of them
// is as many lookups as many of them, and no way around the budget.
func TestOneUnknownTokenThatIsNotKept(t *testing.T) {
	siege{
		name:    "one unknown token again and again, rejected_ttl 0",
		options: options{identity: []string{rejectedLimit, "rejected_ttl 0s"}},
		flood: flood{
			connections: 64, requests: scale.tokens, judge: unknownOrLimited,
			request: func(int) []byte {
				return wire.Request("GET", presencePath(alice), bearer("logged-out"), from("192.0.2.1"))
			},
		},
		work: func(seconds float64) limits {
			return limits{count: [kinds]int{whoami: rejected(rejectedBurst, seconds, lookupsEach)}, each: lookupsEach}
		},
	}.run(t)
}

// TestUnknownTokensOnRoutesThatRevoke: whose token a logout of everything shows is asked
// while that is passed on, within the budget of its address. The homeserver here says 200
// to all, which vouches for eight times as many.
func TestUnknownTokensOnRoutesThatRevoke(t *testing.T) {
	s := newSite(t, newHomeserver(t, false), options{})
	requests := scale.tokens / 3
	siege{
		name: "random tokens on logout, device and password routes",
		site: s,
		flood: flood{
			connections: 64, requests: requests,
			request: func(i int) []byte {
				fields := []string{bearer(fmt.Sprint("made-up-", i)), from("192.0.2.1")}
				switch i % 4 {
				case 0:
					return wire.RequestWith("{}", "POST", "/_matrix/client/v3/logout", fields...)
				case 1:
					return wire.RequestWith("{}", "POST", "/_matrix/client/v3/logout/all", fields...)
				case 2:
					return wire.RequestWith("{}", "DELETE", "/_matrix/client/v3/devices/D", fields...)
				default:
					return wire.RequestWith("{}", "POST", "/_matrix/client/v3/account/password", fields...)
				}
			},
		},
		work: func(seconds float64) limits {
			return limits{count: [kinds]int{whoami: 9 * rejected(rejectedBurst, seconds, lookupsEach), other: requests}, each: lookupsEach}
		},
	}.run(t)
}

// uncertain is a read whose credential homeservers read differently, with a token that
// nobody has.
func uncertain(i int, address string) []byte {
	target := presencePath(alice)
	token := fmt.Sprint("made-up-", i)
	switch i % 5 {
	case 0:
		return wire.Request("GET", target, "Authorization: bearer "+token, from(address))
	case 1:
		return wire.Request("GET", target, bearer(token), bearer(token+"x"), from(address))
	case 2:
		return wire.Request("GET", target+"?access_token="+token, bearer(token), from(address))
	case 3:
		return wire.Request("GET", target, "Authorization: Bearer  "+token, from(address))
	default:
		return wire.Request("GET", target, bearer(token+strings.Repeat("x", 5_000)), from(address))
	}
}

// TestUncertainCredentialsAtFullSpeed: what can't be judged is the homeserver's to
// judge, but only as much of it as made-up tokens that can.
func TestUncertainCredentialsAtFullSpeed(t *testing.T) {
	siege{
		name: "random tokens in doubtful spellings, one address",
		flood: flood{
			connections: 64, requests: scale.tokens, judge: unknownOrLimited,
			request: func(i int) []byte { return uncertain(i, "192.0.2.1") },
		},
		work: func(seconds float64) limits {
			// To charge their users, their tokens are looked up, if they may be tokens.
			return limits{count: [kinds]int{whoami: rejected(rejectedBurst, seconds, 64), read: rejected(rejectedBurst, seconds, 64)}}
		},
	}.run(t)
}

// TestMadeUpTokensDontCrowdTheLimits: a budget of reads is a user's. If made-up tokens
// took places in its table, whoever isn't in it would share one budget with all
// others, and hear of a limit at the first read.
func TestMadeUpTokensDontCrowdTheLimits(t *testing.T) {
	const places = 1_000
	s := newSite(t, newHomeserver(t, false), options{
		tables: sizesOfTables{states: 1_000, permissions: 5_000, tokens: places},
		module: []string{"read_limit 6/1m burst 20"}, // a read counts for 10 seconds
	})
	flood{
		connections: 16, requests: 3 * places,
		request: func(i int) []byte { return uncertain(i, fmt.Sprintf("192.0.2.%d", i%100)) },
	}.run(s.URL)
	if readers := s.vitals(t).Tables["readers"]; readers > places/2 {
		t.Errorf("%d of %d places for readers are taken, by users who don't exist", readers, places)
	}
	expectWelcome(t, s, func(int) string { return "198.51.100.7" })
}

// TestManyAddressesDontCrowdTheBudgets: somebody with more addresses than there are
// places for budgets has each of them show an unknown token. That must not be charged
// to whoever comes from an address that has no place yet.
func TestManyAddressesDontCrowdTheBudgets(t *testing.T) {
	const places = 1_000
	hs := newHomeserver(t, false)
	s := newSite(t, hs, options{tables: sizesOfTables{states: 1_000, permissions: 5_000, tokens: places}})
	const requests = 5 * places
	flood{
		connections: 64, requests: requests, judge: unknownOrLimited,
		request: func(i int) []byte {
			return wire.Request("GET", presencePath(alice), bearer(fmt.Sprint("made-up-", i)), from(fmt.Sprintf("2001:db8:%x::1", i)))
		},
	}.run(s.URL)
	work := hs.take()
	t.Logf("%d lookups for %d addresses with one token each, %d at a time", work.count[whoami], requests, work.most[whoami])
	expectWelcome(t, s, func(i int) string { return fmt.Sprintf("198.51.100.%d", i) })
}

// expectWelcome checks that users who come for the first time, with new tokens, get an
// answer.
func expectWelcome(t *testing.T, s *site, address func(i int) string) {
	t.Helper()
	const newcomers = 30
	refused := 0
	var last reply
	w := mustDial(t, s.URL)
	for i := range newcomers {
		r, err := w.Ask(wire.Request("GET", presencePath(bob), bearer(tokenOf(fmt.Sprint("newcomer", i), 0)), from(address(i))))
		if err != nil {
			t.Fatal(err)
		}
		if r.Status != http.StatusOK {
			refused++
			last = r
		}
	}
	if refused > 0 {
		t.Errorf("%d of %d newcomers were refused, the last one with %s", refused, newcomers, last)
	}
}
