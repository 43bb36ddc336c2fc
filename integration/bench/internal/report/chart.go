package report

import (
	"cmp"
	"fmt"
	"image/color"
	"slices"

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
	slices.SortStableFunc(bars, func(a, b Bar) int { return cmp.Compare(a.Value, b.Value) })
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
