package survival_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/vitals"
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

func TestFlatness(t *testing.T) {
	// made is a series of 300 values.
	made := func(value func(i int) float64) series {
		s := series{share: 0.1, more: 2}
		for i := range 300 {
			s.values = append(s.values, value(i))
		}
		return s
	}
	for name, c := range map[string]struct {
		series
		want bool
	}{
		"constant":                  {made(func(int) float64 { return 100 }), true},
		"filling at first":          {made(func(i int) float64 { return float64(min(i, 90)) }), true},
		"growing all the time":      {made(func(i int) float64 { return 100 + float64(i) }), false},
		"growing in the last third": {made(func(i int) float64 { return 100 + float64(max(0, i-200)) }), false},
		"with spikes":               {made(func(i int) float64 { return 100 + float64(i%10/9*1000) }), true},
		"falling":                   {made(func(i int) float64 { return 1000 - float64(i) }), true},
		"too short to tell":         {series{values: []float64{1, 2}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if g := c.judge(); g.flat != c.want {
				t.Errorf("flat is %t: %v in the second third, %v in the last", g.flat, g.before, g.after)
			}
		})
	}
}

func TestTablesAboveTheirBound(t *testing.T) {
	bounds := tableSizes{states: 100, permissions: 800, tokens: 160}
	at := func(tables map[string]int) sample { return sample{Vitals: vitals.Vitals{Tables: tables}} }
	samples := []sample{
		at(map[string]int{"states": 100, "permissions": 800, "refusals": 100, "identities": 160, "rejections": 20, "writers": 160}),
		at(map[string]int{"states": 101, "rejections": 21}),
		at(map[string]int{"states": 105}),
	}
	want := []string{"the table of rejections had 21 entries", "the table of states had 105 entries"}
	if got := full(samples, bounds); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
