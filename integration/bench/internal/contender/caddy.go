package contender

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/protocol"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
)

// Caddy is a server of Caddy's with one site.
type Caddy struct {
	// Program is CaddyPresence unless given.
	Program Program
	// Global goes into the global options, Site into the site.
	Global, Site string
	// Metrics turns the admin endpoint and the metrics of requests on, Admin only
	// the endpoint, where the Go runtime's metrics are.
	Metrics, Admin bool
	// Log writes an access log to a file.
	Log bool
	// Env is added to the environment.
	Env []string
	// Protocol is what clients speak, HTTP/1.1 unless given.
	Protocol protocol.Protocol
	// Redis says that it needs one.
	Redis bool
}

// Spec makes the Caddyfile. The site has no host, so that no matcher adds to what
// is compared.
func (c Caddy) Spec() Spec {
	admin, metrics, log := "off", "", ""
	if c.Admin || c.Metrics {
		admin = "{{.Admin}}"
	}
	if c.Metrics {
		metrics = "metrics"
	}
	if c.Log {
		log = "log {\n\t\toutput file {{.Dir}}/access.log\n\t}"
	}
	program := c.Program
	if program == "" {
		program = CaddyPresence
	}
	spoken, tls := c.Protocol, ""
	if spoken == "" {
		spoken = protocol.HTTP1
	}
	if spoken.TLS() {
		tls = "tls {{.Certificate}} {{.Key}}"
	}
	return Spec{Program: program, Env: c.Env, Protocol: spoken, Redis: c.Redis, Config: fmt.Sprintf(`{
	admin %s
	persist_config off
	auto_https off
	%s
	%s
}
%s {
	bind 127.0.0.1
	%s
	%s
%s
}
`, admin, metrics, c.Global, spoken.Site(":{{.Port}}"), tls, log, c.Site)}
}

// typicalBody is as long as the scripted homeserver's.
const typicalBody = `{"presence":"unavailable","last_active_ago":123456,"status_msg":"v0 t1700000000000"}`

// Respond is Caddy answering by itself, with the body and the fields of a hit.
func Respond() string {
	var site strings.Builder
	site.WriteString("\theader {\n")
	for _, field := range scripted.Fields {
		if field.Name != "Server" { // a hit has Caddy's
			fmt.Fprintf(&site, "\t\t%s %q\n", field.Name, field.Value)
		}
	}
	fmt.Fprintf(&site, "\t\tCache-Status %q\n\t}\n", "matrix_presence; hit; ttl=3599")
	fmt.Fprintf(&site, "\trespond `%s`", typicalBody)
	return site.String()
}

// RespondToReads is Respond for reads, and passes writes on.
func RespondToReads() string {
	return "\t@reads method GET\n\thandle @reads {\n" + Respond() + "\n\t}\n" + ReverseProxy(IdleConnections)
}

// ReverseProxy is Caddy passing everything on. Idle is how many connections to the
// homeserver it keeps, or 0 for Caddy's default of 32.
func ReverseProxy(idle int) string {
	if idle == 0 {
		return "\treverse_proxy {{.Upstream}}"
	}
	return fmt.Sprintf(`	reverse_proxy {{.Upstream}} {
		transport http {
			keepalive_idle_conns_per_host %d
		}
	}`, idle)
}

// IdleConnections is what reverse_proxy needs so as not to dial under this load.
const IdleConnections = 256

// Presence is our module in front of the homeserver, with options of its block.
func Presence(options ...string) string {
	return "\tmatrix_presence {\n\t\t" + strings.Join(options, "\n\t\t") + "\n\t}\n" + ReverseProxy(IdleConnections)
}

// ClusterOf is a node's option by which it is of one cluster with the others. In one process each has a cache of another
// name: the prefix of the keys makes up for what that lacks of a common one.
func ClusterOf(keyPrefix string) string {
	return "cluster redis {\n\t\t\taddress {{.Redis}}\n\t\t\tsecret 0123456789abcdef0123456789abcdef\n\t\t\ttimeout 500ms\n\t\t\tkey_prefix mp:" + keyPrefix + "\n\t\t}"
}

// Spread is a site of one node, or of several with one cluster, to any of which a request may go. Each has these options
// of the cache.
func Spread(nodes int, cache string) string {
	const name = "abc"
	site := strings.Builder{}
	site.WriteString("\tmap {http.request.uuid} {node} {\n\t\t~^[0-4] a\n\t\t~^[5-9] b\n\t\tdefault c\n\t}\n")
	for i := range len(name) {
		node := min(i, nodes-1)
		options := slices.Concat(Unlimited, []string{
			fmt.Sprintf("cache {\n\t\t\tname %s\n\t\t\t%s\n\t\t}", name[node:], cache), "identity {\n\t\t\tttl 12h\n\t\t}", ClusterOf(name[:node]),
		})
		fmt.Fprintf(&site, "\t@%c vars {node} %c\n\thandle @%c {\n%s\n\t}\n", name[i], name[i], name[i], Presence(options...))
	}
	return site.String()
}

// Unlimited are options for our module that no load of ours reaches: the limits are
// counted, and not met.
var Unlimited = []string{"write_limit 100000000/1s", "read_limit 100000000/1s"}

// RateLimit is caddy-ratelimit in front of the homeserver, by token, refusing all but
// the first request.
func RateLimit() string {
	return `	rate_limit {
		zone presence {
			key {http.request.header.Authorization}
			events 1
			window 1h
		}
	}
` + ReverseProxy(IdleConnections)
}

// Souin is cache-handler, with answers kept for ttl. It needs three things to cache
// presence at all: to ignore the homeserver's no-store (mode bypass), a key with
// the token, which lifts its ban on requests with credentials, and that key
// hidden, or each Cache-Status field shows the token. Its index of surrogate keys
// is off: with it, filling takes time with the square of what is in it.
func Souin(ttl string) Caddy {
	return Caddy{
		Program: CaddyPeers,
		Global: fmt.Sprintf(`cache {
		ttl %s
		mode bypass
		disable_surrogate_key
		log_level error
		key {
			headers Authorization
			hide
		}
	}`, ttl),
		Site: "\tcache\n" + ReverseProxy(IdleConnections),
	}
}
