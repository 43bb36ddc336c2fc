package freshness

import (
	"fmt"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/traffic"
)

// Shape is a pattern of reads.
type Shape struct {
	// Name and What are for tables.
	Name, What string
	// Targets is how many there are, Zipf whether a few are read most: writes go by
	// the same.
	Targets int
	Zipf    bool
	// Viewers is how many read.
	Viewers int
	// Phases are measured each for itself, one after the other.
	Phases []Phase
}

// Phase is a part of a shape.
type Phase struct {
	// Name is added to the shape's, if there are several.
	Name  string
	Reads []traffic.Request
}

// Popular is that viewers look at a few users again and again: each at each once,
// and then so many times more.
func Popular(viewers, targets, more int) Shape {
	w := traffic.Workload{Targets: targets, Viewers: viewers}
	var again []traffic.Request
	for pass := range more {
		again = append(again, w.Each(uint64(pass+1))...)
	}
	return Shape{
		Name: "popular targets", Targets: targets, Viewers: viewers,
		What:   fmt.Sprintf("%d viewers × %d targets", viewers, targets),
		Phases: []Phase{{"cold", w.Each(0)}, {fmt.Sprintf("again, %d times", more), again}},
	}
}

// RoomOpen is that one client asks for all members of a room, as some do, and
// later for all of them again.
func RoomOpen(targets int) Shape {
	w := traffic.Workload{Targets: targets, Viewers: 1}
	return Shape{
		Name: "room open", What: fmt.Sprintf("1 viewer × %d targets", targets), Targets: targets, Viewers: 1,
		Phases: []Phase{{"cold", w.Each(1)}, {"again", w.Each(2)}},
	}
}

// LongTail is that many viewers look at many targets, most of them rarely.
func LongTail(viewers, targets, reads int) Shape {
	return Shape{
		Name: "long tail", Targets: targets, Viewers: viewers, Zipf: true,
		What:   fmt.Sprintf("%d viewers, Zipf over %d targets", viewers, targets),
		Phases: []Phase{{Reads: traffic.Workload{Targets: targets, Viewers: viewers, Zipf: true}.Draw(reads, 1)}},
	}
}
