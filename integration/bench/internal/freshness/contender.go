package freshness

import (
	"slices"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/contender"
)

// Contender is a server that is configured to be fresh.
type Contender struct {
	// Name is what tables call it, Bound how stale it may get after a write.
	Name, Bound string
	Spec        contender.Spec
	// Full contenders take part at the full size only.
	Full bool
}

// Baseline is the contender that does not cache.
const Baseline = "Caddy, no cache"

// Contenders are all that there are. Ours have their defaults, except for limits
// that no client here reaches. nginx counts in whole seconds, so that one of its
// may last nearly two.
var Contenders = []Contender{
	{Name: Baseline, Bound: "never", Spec: contender.Caddy{Site: contender.ReverseProxy(contender.IdleConnections)}.Spec()},
	{Name: "matrix_presence", Bound: "never", Spec: presence()},
	{Name: "matrix_presence, settle 0s", Bound: "never", Spec: presence("cache {\n\t\t\tsettle 0s\n\t\t}")},
	{Name: "nginx by token, 1 s", Bound: "2 s", Spec: contender.NginxCache(contender.ByTokenAndPath, "1s")},
	{Name: "Varnish by token, 1 s", Bound: "1 s", Spec: contender.VarnishCache("1s"), Full: true},
	{Name: "Souin by token, 1 s", Bound: "1 s", Spec: contender.Souin("1s").Spec(), Full: true},
	{Name: "nginx by path, 30 s", Bound: "30 s", Spec: contender.NginxCache(contender.ByPath, "30s"), Full: true},
}

func presence(options ...string) contender.Spec {
	return contender.Caddy{Site: contender.Presence(slices.Concat(contender.Unlimited, options)...)}.Spec()
}
