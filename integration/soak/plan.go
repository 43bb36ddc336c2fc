package main

import (
	"fmt"
	"time"
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

	tables sizes
	// filling tells that there is not the time to fill all tables, so that they need
	// not be flat, only within their bounds.
	filling bool
}

// sizes are those of the sidecar's tables, so small that all of them are full nearly all of
// the time.
type sizes struct{ states, permissions, tokens int }

// whole is for ten minutes and more.
var whole = plan{
	clients: 64,
	people:  3000, viewers: 300, bridged: 50, busy: 20,
	reload: 5 * time.Second, restart: 20 * time.Second, sample: time.Second,
	tables: sizes{states: 1500, permissions: 20_000, tokens: 1600},
}

// brief is for less: smaller tables, which fill sooner, and more reloads and restarts.
func brief(duration time.Duration, rate int) plan {
	p := whole
	p.duration, p.rate = duration, rate
	p.clients, p.people, p.viewers, p.bridged, p.busy = 32, 600, 60, 20, 10
	p.reload, p.restart, p.sample = 1500*time.Millisecond, 4*time.Second, 250*time.Millisecond
	p.filling = true
	p.tables = sizes{states: 250, permissions: 2000, tokens: 480}
	return p
}

// busy are the options of a busy server, in both configurations.
const busy = `
		homeserver synapse
		sync limit
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
func (p plan) caddyfile(second bool, logAddress, homeserver string) string {
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
	reverse_proxy %s {
		transport http {
			keepalive_idle_conns_per_host 256
		}
	}
}
`, logAddress, kindField, busy, options, homeserver)
}

// mib is for figures.
func mib(bytes float64) string { return fmt.Sprintf("%.1f MiB", bytes/(1<<20)) }
