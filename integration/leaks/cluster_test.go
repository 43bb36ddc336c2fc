package leaks_test

import (
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-matrix/caddy-matrix-presence/caddymodule"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/cluster"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

func init() { caddy.RegisterModule(inMemory{}) }

// inMemory is a cluster whose log is in memory, as nothing in a bubble may be a socket. All nodes have the
// same one, whatever their caches are called.
type inMemory struct{}

// shared is the log of the world that there is.
var shared *testkit.SharedLog

func (inMemory) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.matrix_presence.cluster.memory", New: func() caddy.Module { return new(inMemory) }}
}

func (inMemory) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

func (inMemory) Key() string { return "memory" }

func (inMemory) Rules() gateway.ClusterRules {
	return gateway.ClusterRules{Timeout: 50 * time.Millisecond, Recent: 2 * time.Second, Secret: [32]byte{1}}
}

func (inMemory) Open(string) cluster.Log { return shared.Client() }

// Interface guards
var (
	_ caddymodule.Cluster   = inMemory{}
	_ caddyfile.Unmarshaler = inMemory{}
)
