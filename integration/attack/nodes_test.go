package attack_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/redisserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/wire"
)

// TestNodesOfACluster: attackers come through two nodes at a time, and get no more than from one: budgets are one, what made-up
// tokens cost is each node's, and what is kept in Redis is bounded.
func TestNodesOfACluster(t *testing.T) {
	redis := redisserver.Start(t, redisserver.Redis)
	hs := newHomeserver(t, false)
	var nodes []*site
	for range 2 {
		nodes = append(nodes, newSite(t, hs, options{redis: redis.Address}))
	}
	both := func(f flood) func() tally {
		return func() tally {
			var all sync.WaitGroup
			got := make([]tally, len(nodes))
			for i, node := range nodes {
				all.Go(func() { got[i] = f.run(node.URL) })
			}
			all.Wait()
			got[0].add(got[1])
			return got[0]
		}
	}
	entries := func() int {
		n, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(redis.Do("XLEN", "{mp:"+clusterName+"}:log"), ":")))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}

	before := entries()
	siege{
		name: "random tokens, one address, two nodes", site: nodes[0],
		attack: both(flood{
			connections: 32, requests: scale.tokens / 2, judge: unknownOrLimited,
			request: func(i int) []byte { return madeUp(i, "192.0.2.1") },
		}),
		work: func(seconds float64) limits {
			n := 2 * rejected(rejectedBurst, seconds, lookupsEach)
			return limits{count: [kinds]int{whoami: n, read: n}, each: 2 * lookupsEach}
		},
	}.run(t)
	// Victims write. What has no account behind it is told to nobody.
	if told, most := entries()-before, scale.tokens/4; told > most {
		t.Errorf("%d entries in the log, at most %d were allowed", told, most)
	}

	siege{
		name: "distinct targets of one viewer, two nodes", site: nodes[1],
		attack: both(flood{
			connections: 32, requests: scale.targets / 2, judge: only(http.StatusOK, http.StatusTooManyRequests),
			request: func(i int) []byte {
				return wire.Request("GET", presencePath(fmt.Sprintf("@user%d:hs", i)), viewer, from("192.0.2.3"))
			},
		}),
		work: func(seconds float64) limits {
			return limits{count: [kinds]int{whoami: again(2, seconds), read: 5_000 + int(100*seconds) + 1}}
		},
	}.run(t)

	siege{
		name: "writes of one user, two nodes", site: nodes[0],
		attack: both(flood{
			connections: 32, requests: scale.tokens / 2, judge: only(http.StatusOK, http.StatusTooManyRequests),
			request: func(i int) []byte {
				return wire.RequestWith(online(fmt.Sprint(i)), "PUT", presencePath("@mallory:hs"), viewer, from("192.0.2.3"))
			},
		}),
		work: func(seconds float64) limits {
			return limits{count: [kinds]int{whoami: again(2, seconds), write: 5 + int(seconds/10) + 1}}
		},
	}.run(t)

	info := redis.Do("INFO", "memory")
	_, rest, _ := strings.Cut(info, "used_memory:")
	used, err := strconv.Atoi(strings.TrimSpace(strings.SplitN(rest, "\r", 2)[0]))
	if most := suite.BySize(16<<20, 64<<20); err != nil || used > most {
		t.Errorf("Redis has %s in memory, %v, at most %s were allowed", inMB(int64(used)), err, inMB(int64(most)))
	}
	figures.note("two nodes: Redis has %s in memory after it, with %d entries in its log", inMB(int64(used)), entries())
}
