package history

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/protocol"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/redisserver"
)

// scenario is a kind of homeserver, and how the sidecar is set up for it.
type scenario struct {
	name     string
	settle   time.Duration
	lateness time.Duration // of the homeserver's writes
	reloads  bool          // in the middle of a round; there is always one before
	absorbs  bool          // repeated writes
	feeds    bool          // the homeserver tells of each change by itself
	past     bool          // some writes go past the sidecar, so that only the feed tells of them
	protocol protocol.Protocol

	// nodes is how many there are, in a cluster, and trouble what becomes of what they share, in the
	// middle of a round.
	nodes   int
	writes  string // options that say when writes wait; by default they are without a limit
	kind    redisserver.Kind
	trouble func(*shared)

	// givenUp is how many writes in a hundred the client or the sidecar gives up, and
	// other is how many have any fate but a good one.
	givenUp, other int
}

// fate returns what is to become of a write.
func (s *scenario) fate() fate {
	switch n := rand.IntN(100); {
	case n < s.givenUp:
		return []fate{abandoned, abandoned, hung}[rand.IntN(3)]
	case n < s.givenUp+s.other:
		return rand.N(fates)
	}
	return answered
}

// The homeserver can't tell which protocol clients speak, so each scenario has another
// one. It isn't HTTP/3 only because the race detector finds reverse_proxy's
// requestBodyWithTrailers there, when a GET that goes through takes 200 ms to say that it has no
// body. The settle times are long enough to be met by readers and short enough for some
// of them to come after.
var scenarios = []scenario{
	// The homeserver applies a write before it acknowledges it, or gives it up. There
	// is no settle time, so the fences have to do it all.
	{name: "at-once", protocol: protocol.HTTP1, other: 35},
	// Clients go away in the middle of a write, and the sidecar gives up others. The
	// homeserver may apply them even so, within the settle time.
	{name: "given-up", protocol: protocol.HTTP1, settle: 50 * time.Millisecond, reloads: true, givenUp: 60, other: 15},
	// The homeserver acknowledges first.
	{name: "late", protocol: protocol.HTTP2, settle: 50 * time.Millisecond, lateness: 50 * time.Millisecond, reloads: true, other: 30},
	// Devices say again what they have said, and the sidecar answers for the homeserver if
	// nothing can have changed since.
	{name: "absorbed", protocol: protocol.H2C, reloads: true, absorbs: true, other: 25},
	// The homeserver tells of each change by itself, before it answers or later.
	{name: "feed", protocol: protocol.HTTP1, settle: 50 * time.Millisecond, feeds: true, reloads: true, other: 25},
	{name: "feed-late", protocol: protocol.HTTP2, settle: 50 * time.Millisecond, lateness: 25 * time.Millisecond, feeds: true, other: 25},
	{name: "feed-past", protocol: protocol.HTTP1, settle: 50 * time.Millisecond, feeds: true, past: true},
	// Three nodes, and each request goes to any of them.
	{name: "nodes", protocol: protocol.HTTP1, nodes: 3, kind: redisserver.Redis, other: 25},
	{name: "nodes-late", protocol: protocol.H2C, nodes: 3, kind: redisserver.Redis, settle: 50 * time.Millisecond, lateness: 50 * time.Millisecond, reloads: true, other: 25},
	{name: "nodes-absorbed", protocol: protocol.H2C, nodes: 3, kind: redisserver.Redis, absorbs: true, other: 25},
	{name: "nodes-valkey", protocol: protocol.HTTP1, nodes: 3, kind: redisserver.Valkey, other: 25},
	{name: "nodes-slow", protocol: protocol.HTTP1, nodes: 3, kind: redisserver.Redis, other: 15, trouble: (*shared).slow},
	{name: "nodes-restart", protocol: protocol.HTTP1, nodes: 3, kind: redisserver.Redis, other: 15, trouble: (*shared).restart},
	{name: "nodes-failover", protocol: protocol.HTTP1, nodes: 3, kind: redisserver.Redis, other: 15, trouble: (*shared).failOver},
	{name: "nodes-demotion", protocol: protocol.HTTP1, nodes: 3, kind: redisserver.Redis, other: 15, trouble: (*shared).demote},
	{name: "nodes-cut", protocol: protocol.HTTP1, nodes: 3, kind: redisserver.Redis, other: 15, trouble: (*shared).cut},
	{name: "nodes-half-open", protocol: protocol.HTTP1, nodes: 3, kind: redisserver.Redis, other: 15, trouble: (*shared).halfOpen},
	{name: "nodes-paused", protocol: protocol.HTTP1, nodes: 3, kind: redisserver.Redis, other: 15, trouble: (*shared).pause},
	{name: "nodes-joining", protocol: protocol.HTTP1, nodes: 3, kind: redisserver.Valkey, reloads: true, other: 15, trouble: (*shared).trim},
}

// caches are options of the cache, one after the other: tables in which little has a
// place, a memory in which all has, a state for each viewer, and states that
// are soon too old. Each is a reload, and the memory outlives it.
var caches = []string{
	"states 4\npermissions 8",
	"states 1000\npermissions 10000",
	"per_viewer",
	"ttl 15ms\nforbidden_ttl 5ms",
}

func (s *scenario) directives(upstream string, n int) string {
	more := ""
	if s.feeds {
		more = "feed history"
	}
	return s.directivesOf(upstream, caches[n%len(caches)], more)
}

// directivesOf are those with such a cache, and with more options.
func (s *scenario) directivesOf(upstream, cache, more string) string {
	repeats := "pass"
	if s.absorbs {
		repeats = "absorb"
	}
	return fmt.Sprintf(`
matrix_presence {
	repeat_writes %s
	%s
	read_limit off
	cache {
		settle %v
		%s
	}
	%s
}
reverse_proxy %s {
	transport http {
		response_header_timeout %v
	}
}`, repeats, cmp.Or(s.writes, "write_limit off"), s.settle, cache, more, strings.TrimPrefix(upstream, "http://"), headerTimeout)
}
