package attack_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/accounting"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/vitals"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/wire"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

// sizesOfTables are those of a site's configuration.
type sizesOfTables struct{ states, permissions, tokens int }

// options say how a site is configured.
type options struct {
	bare     bool          // without matrix_presence, to compare with
	tables   sizesOfTables // zero: those of the scale
	module   []string      // further lines of matrix_presence
	identity []string      // further lines of its identity block
	servers  []string      // further lines of Caddy's servers option
	redis    string        // the address of the one that it shares with other nodes, or empty
}

// rejectedBurst and rejectedEvery are the budget of unknown tokens of a client, which
// all sites here have unless they say otherwise: so many at once, and one more every
// so many seconds.
const (
	rejectedBurst = 20
	rejectedEvery = 6.0
	rejectedLimit = "rejected_limit 10/1m burst 20"

	lookupsEach = 8  // at a time, of one client
	lookupsAll  = 64 // at a time
	networkHas  = 8  // times the budget of a client
)

// clusterName is what the cache of each node is called.
const clusterName = "hs"

// site is a running binary in front of a homeserver. It believes from which address
// we say that a request comes.
type site struct {
	*sidecar.Sidecar
	hs     *homeserver
	tables sizesOfTables
}

func newSite(t *testing.T, hs *homeserver, o options) *site {
	t.Helper()
	if o.tables == (sizesOfTables{}) {
		o.tables = scale.tables
	}
	if o.identity == nil {
		o.identity = []string{rejectedLimit}
	}
	cluster := ""
	if o.redis != "" {
		o.module = append(slices.Clone(o.module), "cluster redis {\naddress "+o.redis+"\nsecret 0123456789abcdef0123456789abcdef\ntimeout 10s\n}")
		cluster = "name " + clusterName
	}
	module := fmt.Sprintf(`matrix_presence {
		%s
		cache {
			%s
			states %d
			permissions %d
		}
		identity {
			tokens %d
			%s
		}
	}`, strings.Join(o.module, "\n"), cluster, o.tables.states, o.tables.permissions, o.tables.tokens, strings.Join(o.identity, "\n"))
	if o.bare {
		module = ""
	}
	caddyfile := fmt.Sprintf(`{
	admin {$ADMIN}
	log {
		output discard
	}
	servers {
		trusted_proxies static 127.0.0.1
		%s
	}
}
http://{$LISTEN} {
	bind 127.0.0.1
	%s
	reverse_proxy %s {
		transport http {
			keepalive_idle_conns_per_host 256
		}
	}
}
`, strings.Join(o.servers, "\n"), module, hs.URL())
	s := &site{suite.Sidecar(t)(sidecar.StartCaddyfile(t.Context(), caddyfile)), hs, o.tables}
	s.warmUp(t)
	return s
}

// warmUp makes the site load and allocate what any traffic makes it.
func (s *site) warmUp(t *testing.T) {
	t.Helper()
	warm := flood{connections: 16, requests: 1000, request: func(i int) []byte {
		return wire.Request("GET", presencePath(bob), bearer(tokenOf(fmt.Sprint("warm", i%100), 0)), from("203.0.113.1"))
	}}.run(s.URL)
	if warm.status[http.StatusOK] != warm.sent {
		t.Fatalf("warming up: %+v", warm)
	}
	s.hs.take()
}

// memory is what a site's process takes, in bytes.
type memory struct {
	heap int64 // that is in use after a garbage collection
	peak int64 // of what was resident; 0: not known
}

func (s *site) memory(t *testing.T) memory {
	t.Helper()
	heap, err := vitals.LiveHeap(t.Context(), s.Admin)
	if err != nil {
		t.Fatal(err)
	}
	usage, err := accounting.Of(s.PID())
	if err != nil {
		t.Logf("the sidecar's resident memory can't be measured here: %v", err)
	}
	return memory{heap, usage.PeakResident}
}

// vitals is what the site holds now.
func (s *site) vitals(t *testing.T) vitals.Vitals {
	t.Helper()
	v, err := vitals.Read(t.Context(), s.Admin)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// newProxy runs the presence-proxy command, which serves any host. It believes nobody
// about addresses unless args say so.
func newProxy(t *testing.T, hs *homeserver, args ...string) *site {
	t.Helper()
	return &site{Sidecar: suite.Sidecar(t)(sidecar.StartProxy(t.Context(), hs.URL(), args...)), hs: hs}
}
