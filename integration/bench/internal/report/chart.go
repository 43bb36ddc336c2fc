package report

import (
	"fmt"
	"image/color"
	"slices"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/freshness"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/throughput"
)

// The kinds. Their colours differ in lightness too.
var (
	ours   = Kind{"matrix_presence", color.RGBA{0x1f, 0x6f, 0xb4, 0xff}}
	others = Kind{"others", color.RGBA{0xe8, 0x99, 0x3c, 0xff}}
	bare   = Kind{"bare Caddy", color.RGBA{0xb4, 0xbc, 0xc4, 0xff}}
)

// CPUChart shows what a request costs, by contender, the cheapest first. Options of
// Caddy's have their own table.
func CPUChart(r *throughput.Results, path string) error {
	var bars []Bar
	for _, c := range r.Measured() {
		// What goes on beside a contender can't be told from its own.
		if c.Group == throughput.GroupOptions || c.Writes > 0 {
			continue
		}
		cpu := r.Of(c.Name, throughput.Measurement.CPU)
		bars = append(bars, Bar{
			Label: c.Name, Value: cpu.Median, Kind: kindOf(c.Group),
			Figure: fmt.Sprintf("%s (%s–%s)", thousands(cpu.Median), thousands(cpu.Min), thousands(cpu.Max)),
		})
	}
	slices.SortStableFunc(bars, func(a, b Bar) int { return compare(a.Value, b.Value) })
	return SaveBars(bars, "CPU time of the server for a request", "microseconds, median of all rounds (smallest–largest)", path)
}

func kindOf(group string) Kind {
	switch group {
	case throughput.GroupOurs:
		return ours
	case throughput.GroupPeers:
		return others
	}
	return bare
}

// UpstreamChart shows what reaches the homeserver, by shape, and which answers were
// wrong.
func UpstreamChart(results []freshness.Result, path string) error {
	var bars []Bar
	var shapes []string
	for _, r := range results {
		if shape := r.Homeserver + ", " + title(r); !slices.Contains(shapes, shape) {
			shapes = append(shapes, shape)
		}
	}
	for _, shape := range shapes {
		bars = append(bars, Bar{Label: shape})
		var rows []Bar
		for _, r := range results {
			if r.Homeserver+", "+title(r) != shape {
				continue
			}
			row := Bar{Label: r.Contender, Value: r.UpstreamPer1000(), Kind: others, Figure: thousands(r.UpstreamPer1000())}
			switch {
			case r.Contender == freshness.Baseline:
				row.Kind = bare
			case r.Bound == "never":
				row.Kind = ours
			}
			if wrong := r.Wrong(); wrong > 0 {
				row.Figure += fmt.Sprintf("   %s of %s answers wrong", thousands(float64(wrong)), thousands(float64(r.Reads)))
			}
			rows = append(rows, row)
		}
		slices.SortStableFunc(rows, func(a, b Bar) int { return compare(a.Value, b.Value) })
		bars = append(bars, rows...)
	}
	return SaveBars(bars, "Requests that reach the homeserver for 1,000 reads, at equal freshness", "requests", path)
}

func compare(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
