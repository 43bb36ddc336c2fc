package main

import (
	"fmt"
	"slices"
)

// series is one thing that was sampled, over the whole time.
type series struct {
	name   string
	format func(float64) string
	values []float64
	// It may grow by this share and by so much in addition.
	share, more float64
}

// growth is how a series went.
type growth struct {
	series
	before, after, most float64 // medians of the second and the last third
	flat                bool
}

// judge compares the last third with the second. In the first the tables fill.
// Medians, because the homeserver goes away now and then, and all that waits for it piles
// up meanwhile.
func (s series) judge() growth {
	third := len(s.values) / 3
	g := growth{series: s}
	if third == 0 {
		return g // nothing can be told, so it isn't flat
	}
	g.before, g.after = median(s.values[third:2*third]), median(s.values[2*third:])
	g.most = slices.Max(s.values)
	g.flat = g.after <= g.before*(1+s.share)+s.more
	return g
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func count(v float64) string { return fmt.Sprintf("%.0f", v) }
