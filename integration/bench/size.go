package main

import (
	"fmt"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/freshness"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/throughput"
)

// size is how much is measured.
type size struct {
	name       string
	full       bool
	throughput throughput.Options
	freshness  freshness.Options
}

// connections are as many as keep two cores busy without much of a queue.
const connections = 64

// members is how many the largest rooms have whose members clients ask for at once.
const members = 2600

// sizeOf returns the size of a name.
func sizeOf(name string) (size, error) {
	switch name {
	case "small":
		return size{
			name:       name,
			throughput: throughput.Options{Rounds: 3, Slice: time.Second, Connections: connections},
			freshness: freshness.Options{
				Limit: 5 * time.Second,
				Shapes: []freshness.Shape{
					freshness.Popular(100, 50, 20), freshness.RoomOpen(members), freshness.LongTail(1000, 100_000, 10_000),
				},
			},
		}, nil
	case "full":
		return size{
			name: name, full: true,
			throughput: throughput.Options{Rounds: 5, Slice: 1500 * time.Millisecond, Restart: 2, FreshFloors: true, Connections: connections},
			freshness: freshness.Options{
				Full: true, Limit: 15 * time.Second,
				Shapes: []freshness.Shape{
					freshness.Popular(1000, 50, 40), freshness.RoomOpen(members), freshness.LongTail(1000, 100_000, 100_000),
				},
				SynapseShapes: []freshness.Shape{freshness.Popular(20, 50, 60), freshness.RoomOpen(300)},
			},
		}, nil
	}
	return size{}, fmt.Errorf("there is no size %q: small or full", name)
}
