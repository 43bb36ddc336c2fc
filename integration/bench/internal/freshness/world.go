package freshness

import (
	"context"
	"sync/atomic"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/accounting"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/scripted"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/traffic"
)

// World is a homeserver, its people, and what has happened in it.
type World struct {
	// Name is that of the homeserver.
	Name string
	// Address is where contenders send requests.
	Address string
	People  traffic.People
	// Counts tells what the homeserver was asked, Usage what that cost it.
	Counts func(context.Context) (scripted.Counts, error)
	Usage  func() (accounting.Usage, error)
	// Close ends it.
	Close func()

	// acknowledged is the last version of each target whose write was answered.
	// One writer at a time makes it grow.
	acknowledged []atomic.Int64
	// version is the last one that was given to a write of anybody's.
	version atomic.Int64
}

// scriptedWorld is the scripted homeserver with Synapse's cost.
func scriptedWorld(ctx context.Context, targets int) (*World, error) {
	server, err := scripted.Start(ctx, scripted.Options{Cost: true, Hidden: true})
	if err != nil {
		return nil, err
	}
	return &World{
		Name: "scripted", Address: server.Address, People: traffic.Scripted{},
		Counts:       server.Counts,
		Usage:        func() (accounting.Usage, error) { return accounting.Of(server.PID) },
		Close:        server.Stop,
		acknowledged: make([]atomic.Int64, targets),
	}, nil
}
