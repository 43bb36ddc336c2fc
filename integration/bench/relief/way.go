package main

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/contender"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
)

// busy is the profile for busy servers, as the documentation shows it.
//
//go:embed busy.caddyfile
var busy string

// way is how requests get to the homeserver.
type way struct {
	name string
	// directive is what stands before reverse_proxy, or empty for no sidecar.
	directive string
	// peer is another's cache in the sidecar's place. It doesn't know of writes, so what it
	// shows may be wrong, which is counted.
	peer *contender.Spec
	// quiet says that syncs change no presence.
	quiet bool
	// nodes is how many sidecars there are, as one cluster, if more than one. A request goes to any of them.
	nodes int
}

// The ways. Quiet is for shapes with syncs only.
var (
	direct    = way{name: "direct"}
	byDefault = way{name: "default", directive: "matrix_presence"}
	busyWay   = way{name: "busy", directive: busy}
	twoNodes  = way{name: "two nodes", directive: "matrix_presence", nodes: 2}
	quiet     = way{name: "direct, presence unchanged", quiet: true}
)

// The ways of an overload, with a ttl that leaves little to memory: it is about what happens when that is
// no relief.
var (
	brownWay = way{name: "brown-out", directive: "matrix_presence {\n\tbrown_out on\n\tcache {\n\t\tttl 2s\n\t}\n}"}
	// beside is without presence for the homeserver, while clients ask for it all the same: it isn't to be the
	// machine's second core that tells the ways apart, on which they and the sidecar run.
	beside     = way{name: "presence refused by Caddy", directive: "respond /_matrix/client/v3/presence/* 429"}
	unrelieved = way{name: "no brown-out", directive: "matrix_presence {\n\tcache {\n\t\tttl 2s\n\t}\n}"}
)

// The ways of what a homeserver tells by itself.
var (
	unfed  = way{name: "no feed", directive: "matrix_presence {\n\thomeserver synapse\n}"}
	fedWay = way{name: "feed", directive: fmt.Sprintf(`matrix_presence {
	homeserver synapse
	feed redis {
		address {$FEED}
		username %s
		password %s
		server_name %s
	}
}`, homeserver.FeedUser, homeserver.FeedPassword, homeserver.ServerName)}
)

// peers are caches that others have, in front of the homeserver. To be as fresh as the sidecar
// they would have to keep nothing: with a time to live of a second they come near. The last
// one shows what a cache that ignores viewers would save, and what it leaks.
var peers = []way{
	peer("nginx by token, 1 s", contender.NginxCache(contender.ByTokenAndPath, "1s")),
	peer("Varnish by token, 1 s", contender.VarnishCache("1s")),
	peer("Souin by token, 1 s", contender.Souin("1s").Spec()),
	peer("nginx by path, 30 s", contender.NginxCache(contender.ByPath, "30s")),
}

func peer(name string, spec contender.Spec) way { return way{name: name, peer: &spec} }

// isPeer tells of the name of a way that it is another's cache.
func isPeer(name string) bool {
	return slices.ContainsFunc(peers, func(w way) bool { return w.name == name })
}

// server is what stands between the clients and the homeserver, if anything does. The sidecar
// takes the client's address from the load generator, as from another proxy. Redis is the address of the homeserver's,
// if it has one.
func (w way) server(redis string) (spec contender.Spec, ok bool) {
	switch {
	case w.peer != nil:
		return *w.peer, true
	case w.directive == "":
		return spec, false
	}
	site := indent(w.directive) + "\n" + contender.ReverseProxy(contender.IdleConnections)
	if w.nodes > 1 {
		site = contender.Spread(w.nodes, "")
	}
	return contender.Caddy{
		Global: "servers {\n\t\ttrusted_proxies static 127.0.0.1/32\n\t\ttrusted_proxies_strict\n\t}",
		Site:   site, Redis: w.nodes > 1, Env: []string{"FEED=" + redis},
	}.Spec(), true
}

func indent(text string) string {
	return "\t" + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n\t")
}
