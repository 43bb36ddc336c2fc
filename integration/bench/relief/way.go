package main

import (
	_ "embed"
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/contender"
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
	// quiet says that syncs change no presence.
	quiet bool
}

// The ways. The last one is for shapes with syncs only.
var (
	direct    = way{name: "direct"}
	byDefault = way{name: "default", directive: "matrix_presence"}
	busyWay   = way{name: "busy", directive: busy}
	quiet     = way{name: "direct, presence unchanged", quiet: true}
)

// caddy is the sidecar of a way. It takes the client's address from the load generator,
// as from another proxy.
func (w way) caddy() contender.Spec {
	return contender.Caddy{
		Global: "servers {\n\t\ttrusted_proxies static 127.0.0.1/32\n\t\ttrusted_proxies_strict\n\t}",
		Site:   indent(w.directive) + "\n" + contender.ReverseProxy(contender.IdleConnections),
	}.Spec()
}

func indent(text string) string {
	return "\t" + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n\t")
}
