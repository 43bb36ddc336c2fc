package survival_test

import (
	"fmt"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
)

// plan is how a soak is made.
type plan struct {
	duration time.Duration
	rate     int // requests a second
	clients  int // that send them, one at a time each

	people  int // who have a presence, and write it
	viewers int // of them, who read
	bridged int // users of the appservice
	busy    int // who write the same again, who write in haste, and viewers who sync

	reload  time.Duration // from one to the next
	restart time.Duration // of the homeserver, likewise
	sample  time.Duration

	// weights are how often each kind of request is made, if not as the kinds say.
	weights map[kind]int

	tables tableSizes
	// filling tells that there is not the time to fill all tables, so that they need
	// not be flat, only within their bounds.
	filling bool
}

// tableSizes are those of the sidecar's tables, so small that all of them are full nearly all of
// the time.
type tableSizes struct{ states, permissions, tokens int }

// whole is for ten minutes and more.
var whole = plan{
	rate: 1000, clients: 64,
	people: 3000, viewers: 300, bridged: 50, busy: 20,
	reload: 5 * time.Second, restart: 20 * time.Second, sample: time.Second,
	tables: tableSizes{states: 1500, permissions: 20_000, tokens: 1600},
}

// brief is for less: smaller tables, which fill sooner, and more reloads and restarts.
var brief = plan{
	rate: 500, clients: 32,
	people: 600, viewers: 60, bridged: 20, busy: 10,
	reload: 1500 * time.Millisecond, restart: 4 * time.Second, sample: 250 * time.Millisecond,
	filling: true,
	// With 480 tokens, of which another configuration has 320, a 64th part of a table of budgets had room for five users, and
	// now and then more than that came to have one.
	tables: tableSizes{states: 250, permissions: 2000, tokens: 960},
}

// busy are the options of a busy server, in both configurations.
const busy = `
		homeserver synapse
		sync_presence limit
		sync_limit 1/2s burst 5
		preflight local
		class repeating {
			match @repeating_*:example.com
			write_limit 100/1s
			repeat_writes absorb
		}
		class hasty {
			match @hasty_*:example.com
			write_limit 1/1s burst 2
			repeat_writes absorb
			over_limit coalesce
		}
		coalesce {
			max_age 20s
		}`

// caddyfile is one of two configurations. They differ in what a reload may change: limits,
// lifetimes, sizes, and whether stale answers are good enough.
func (p plan) caddyfile(second bool, hs *scripted.Homeserver, logAddress string) string {
	options := fmt.Sprintf(`
		write_limit 5/1s burst 8
		read_limit 20/1s burst 40
		cache {
			states %d
			permissions %d
			ttl 30s
			forbidden_ttl 2s
			stale_if_error 5m
			settle 200ms
		}
		identity {
			tokens %d
			ttl 20s
			rejected_ttl 5s
			rejected_limit 20/1m burst 30
		}`, p.tables.states, p.tables.permissions, p.tables.tokens)
	if second {
		options = fmt.Sprintf(`
		write_limit 4/1s burst 6
		read_limit 10/1s burst 30
		max_body 32KiB
		exempt @admin:example.com
		cache {
			states %d
			permissions %d
			ttl 20s
			forbidden_ttl 1s
			settle 100ms
		}
		identity {
			tokens %d
			ttl 30s
			rejected_ttl 3s
			rejected_limit 10/1m burst 20
		}`, p.tables.states*2/3, p.tables.permissions*2/3, p.tables.tokens*2/3)
	}
	return fmt.Sprintf(`{
	admin {$ADMIN}
	persist_config off
	metrics
	servers {
		trusted_proxies static 127.0.0.1/32
	}
}
http://{$LISTEN} {
	bind 127.0.0.1
	log {
		output net %s
		format filter {
			request delete
			resp_headers delete
		}
	}
	log_append kind {http.request.header.%s}
	log_append cache {http.vars.matrix_presence.cache}
	log_append decision {http.vars.matrix_presence.decision}
	log_append cache_status {http.response.header.Cache-Status}
	matrix_presence {%s%s
	}
	reverse_proxy 127.0.0.1:%s {
		transport http {
			keepalive_idle_conns_per_host 256
		}
	}
}
`, logAddress, idField, busy, options, hs.Port())
}

// mib is for figures.
func mib(bytes float64) string { return fmt.Sprintf("%.1f MiB", bytes/(1<<20)) }
