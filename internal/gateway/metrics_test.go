package gateway

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/identity"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/scripted"
)

// The equations that the Help of each metric states, after all kinds of traffic:
// users and strangers, failures, slow answers, and clients who leave.
func TestCountersAgreeAfterRandomTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{
			Preflight:    "local",
			WriteLimit:   &rate{Events: 1, Window: time.Second},
			ReadLimit:    &rate{Events: 20, Window: time.Second},
			SyncPresence: "limit",
			SyncLimit:    &rate{Events: 1, Window: time.Second},
			Cache: &caching{
				States: 6, Permissions: 130, TTL: time.Second / 2, StaleIfError: time.Minute,
			},
			Identity: &identifying{
				Tokens: 16, TTL: 3 * time.Second, Timeout: time.Second,
				RejectedLimit: &rate{Events: 1, Window: time.Second, Burst: 10},
			},
			Classes: []userClass{{
				Name: "busy", Match: []string{alice}, RepeatWrites: "absorb", OverLimit: "coalesce",
				WriteLimit: &rate{Events: 2, Window: time.Second, Burst: 3},
			}},
			Coalesce: &waiting{MaxAge: 3 * time.Second},
		})
		var mu sync.Mutex
		random := rand.New(rand.NewPCG(1, 2))
		draw := func(n int) int {
			mu.Lock()
			defer mu.Unlock()
			return random.IntN(n)
		}
		users := []string{alice, bob, carol}
		for i := range 9 {
			userID := fmt.Sprintf("@user%d:example.com", i)
			users = append(users, userID)
			p.hs.Tokens["token-of-"+userID] = userID
		}
		p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
			time.Sleep(time.Duration(draw(20)) * time.Millisecond)
			if strings.HasSuffix(r.URL.Path, "/version") {
				says("", `{"server":{"name":"Dendrite"}}`)(w)
				return true, nil
			}
			switch draw(40) {
			case 0:
				time.Sleep(6 * time.Second)
			case 1:
				answer(w, 500, `{"errcode":"M_UNKNOWN","error":"broken"}`)
				return true, nil
			case 2:
				return true, failed(502, errors.New("no connection"))
			case 3:
				answer(w, 200, fmt.Sprintf(`{"presence":"online","status_msg":"%070000d"}`, 0))
				return true, nil
			}
			if r.Method == "OPTIONS" {
				w.Header().Set("Access-Control-Allow-Origin", "*")
				w.WriteHeader(204)
				return true, nil
			}
			return false, nil
		}
		tokens := []string{"alice-token", "alice-phone", "bob-token", "carol-token", "made-up", ""}
		for _, userID := range users[3:] {
			tokens = append(tokens, "token-of-"+userID)
		}
		var clients sync.WaitGroup
		for n := range 30 {
			clients.Go(func() {
				for i := range 300 {
					time.Sleep(time.Duration(draw(50)) * time.Millisecond)
					token := tokens[draw(len(tokens))]
					if token == "made-up" {
						token = fmt.Sprintf("made-up-%d-%d", n, i)
					}
					target := users[draw(len(users))]
					r := request("GET", statusPath(target), token, "")
					if draw(4) == 0 {
						if draw(4) > 0 {
							target = users[0] // whom two of the tokens may write
						}
						r = request("PUT", statusPath(target), token, []string{online, online, unavailable, `{"presence":1}`}[draw(4)])
					}
					if draw(8) == 0 {
						// Some kinds are asked for often, others once.
						r = scripted.Preflight("https://app.example.com", "GET", fmt.Sprintf("authorization,x-%d", draw(20)*draw(20)))
					}
					if draw(4) == 0 {
						r = request("GET", syncPath+[]string{"", "?set_presence=unavailable", "?since=s&timeout=0", "?set_presence=unchanged", "?x;set_presence=online"}[draw(5)], token, "")
					}
					r.RemoteAddr = fmt.Sprintf("192.0.2.%d:1", n%5)
					ctx, cancel := context.WithCancel(r.Context())
					if draw(5) == 0 {
						time.AfterFunc(time.Duration(draw(30))*time.Millisecond, cancel)
					}
					p.Do(r.WithContext(ctx))
					cancel()
				}
			})
		}
		clients.Wait()
		time.Sleep(time.Minute) // fetches may outlive their readers

		// More targets than there is room for, and a read of one while the homeserver is down.
		p.hs.AnswerBy(nil)
		for n := range 12 {
			p.Get("bob-token", users[n])
		}
		p.Get("bob-token", bob)
		time.Sleep(time.Second)
		p.hs.AnswerBy(func(http.ResponseWriter, *http.Request) (bool, error) {
			return true, failed(502, errors.New("no connection"))
		})
		p.Get("bob-token", bob)

		// One that waits and that the homeserver doesn't want, with nothing newer.
		p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
			answer(w, 403, `{"errcode":"M_FORBIDDEN","error":"no"}`)
			return true, nil
		})
		const last = 5 + 14
		under := p.memory.identities.Begin(matrix.Credential{Token: "alice-token"})
		under.Learn(identity.WhoAmI{UserID: alice}, p.memory.identities.Revision(), time.Now())
		under.End()
		for n := range 5 {
			p.Put("alice-token", alice, message(n))
		}
		time.Sleep(time.Minute)

		got := p.samples()
		sum := func(metric string, words ...string) (total float64) {
			for _, word := range words {
				value, ok := got[metric+" "+word]
				if !ok {
					t.Errorf("no metric %s %s", metric, word)
				}
				total += value
			}
			return total
		}
		all := func(metric, suffix string) (total float64) {
			for _, words := range outcomes {
				total += sum(metric, words.name+suffix)
			}
			return total
		}
		var verdicts []string
		for _, words := range syncVerdicts {
			verdicts = append(verdicts, words.name)
		}
		equal := func(what string, left, right float64) {
			if left != right {
				t.Errorf("%s: %v is not %v", what, left, right)
			}
		}
		equal("requests and the test's", sum("requests_total", "read", "write", "preflight", "sync"), 30*300+last)
		equal("reads and their outcomes", sum("requests_total", "read"), all("outcomes_total", " read"))
		equal("writes and their outcomes", sum("requests_total", "write"), all("outcomes_total", " write"))
		equal("preflights and their outcomes", sum("requests_total", "preflight"), all("outcomes_total", " preflight"))
		equal("forwarded preflights and requests", sum("upstream_requests_total", "preflight"), sum("outcomes_total", "forwarded preflight"))
		equal("syncs and their outcomes", sum("requests_total", "sync"), all("outcomes_total", " sync"))
		equal("syncs and requests", sum("upstream_requests_total", "sync"), sum("requests_total", "sync"))
		equal("syncs and what became of their presence", sum("requests_total", "sync"), sum("sync_writes_total", verdicts...))
		equal("forwarded syncs", sum("outcomes_total", "forwarded sync"), sum("sync_writes_total", "changed", "repeated", "unknown", "none"))
		equal("syncs stripped of what changes nothing", sum("outcomes_total", "stripped_unchanged sync"), sum("sync_writes_total", "unchanged", "stripped"))
		equal("syncs stripped over the limit", sum("outcomes_total", "stripped_limited sync"), sum("sync_writes_total", "limited", "outranked"))
		equal("bypassed reads and requests", sum("upstream_requests_total", "bypass"), sum("outcomes_total", "bypass read"))
		equal("forwarded writes and requests", sum("upstream_requests_total", "write"), sum("outcomes_total", "forwarded write"))
		equal("questions whose token it is", sum("upstream_requests_total", "whoami"), sum("lookups_total", "known", "rejected", "refused", "failed"))
		equal("what was saved", got["saved_total"], sum("outcomes_total",
			"hit read", "collapsed read", "limited read", "rejected read", "absorbed write", "limited write", "refused write", "rejected write", "invalid write", "hit preflight")+
			sum("deliveries_total", "superseded"))
		equal("writes that had to wait", sum("outcomes_total", "coalesced write"), sum("deliveries_total", "delivered", "superseded", "overtaken", "dropped", "lost"))
		equal("writes that wait", got["pending"], 0)
		if tried, delivered := sum("upstream_requests_total", "delivery"), sum("deliveries_total", "delivered"); tried < delivered {
			t.Errorf("%v requests for %v deliveries", tried, delivered)
		}
		if fetches, misses := sum("upstream_requests_total", "fetch", "first_read"), sum("outcomes_total", "miss read"); fetches < misses {
			t.Errorf("%v fetches for %v misses", fetches, misses)
		}
		for _, reason := range ReasonNames {
			if reason == "sync" {
				equal("answers to syncs", got["upstream_seconds sync"], 0)
				continue
			}
			equal("answers to "+reason, got["upstream_seconds "+reason], got["upstream_requests_total "+reason])
		}
		equal("the homeserver's count of presence requests", sum("upstream_requests_total", "fetch", "first_read", "bypass", "write", "delivery"), float64(p.hs.Count("GET")+p.hs.Count("PUT")))
		equal("the homeserver's count of whoami", sum("upstream_requests_total", "whoami"), float64(p.hs.Count("whoami")))

		// It was all kinds of traffic.
		for _, metric := range []string{
			"outcomes_total hit read", "outcomes_total stale read", "outcomes_total miss read", "outcomes_total collapsed read",
			"outcomes_total bypass read", "outcomes_total rejected read", "outcomes_total limited read", "outcomes_total canceled read",
			"outcomes_total failed read",
			"outcomes_total forwarded write", "outcomes_total refused write", "outcomes_total limited write", "outcomes_total invalid write",
			"outcomes_total absorbed write", "outcomes_total coalesced write", "deliveries_total delivered", "deliveries_total superseded", "deliveries_total lost",
			"outcomes_total rejected write", "outcomes_total failed write", "outcomes_total canceled write",
			"outcomes_total forwarded sync", "outcomes_total stripped_unchanged sync", "outcomes_total stripped_limited sync", "upstream_requests_total version",
			"sync_writes_total changed", "sync_writes_total repeated", "sync_writes_total unknown", "sync_writes_total none",
			"sync_writes_total unchanged", "sync_writes_total limited", "entries syncers", "evictions_total devices",
			"outcomes_total hit preflight", "outcomes_total forwarded preflight", "evictions_total preflights", "entries preflights",
			"lookups_total known", "lookups_total rejected", "lookups_total failed", "lookups_total by_read",
			"evictions_total states", "evictions_total permissions", "evictions_total identities",
		} {
			if got[metric] == 0 {
				t.Errorf("%s is 0", metric)
			}
		}
	})
}
