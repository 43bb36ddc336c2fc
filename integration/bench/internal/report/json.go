package report

import (
	"encoding/json"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/freshness"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/stats"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/throughput"
)

// document is the JSON form of a run: what the tables show, for programs.
type document struct {
	Environment Environment        `json:"environment"`
	Throughput  []contenderFigures `json:"throughput"`
	Ratios      []ratio            `json:"ratios"`
	Freshness   []freshness.Result `json:"freshness"`
	Problems    []string           `json:"problems,omitempty"`
	Skipped     []string           `json:"skipped,omitempty"`
}

type contenderFigures struct {
	Contender   string                  `json:"contender"`
	What        string                  `json:"what"`
	Floor       string                  `json:"floor,omitempty"`
	CPU         stats.Spread            `json:"cpu_us"`
	User        stats.Spread            `json:"user_us"`
	System      stats.Spread            `json:"system_us"`
	Rate        stats.Spread            `json:"requests_per_second"`
	P50         stats.Spread            `json:"p50_us"`
	P99         stats.Spread            `json:"p99_us"`
	P999        stats.Spread            `json:"p999_us"`
	Resident    stats.Spread            `json:"resident_bytes"`
	Peak        stats.Spread            `json:"peak_bytes"`
	Upstream    stats.Spread            `json:"upstream_per_1000"`
	Allocations *throughput.Allocations `json:"allocations,omitempty"`
}

type ratio struct {
	Over   string       `json:"over"`
	Under  string       `json:"under"`
	Figure string       `json:"figure"`
	Ratio  stats.Spread `json:"ratio"`
	Target string       `json:"target,omitempty"`
}

// JSON returns a run as JSON.
func JSON(e Environment, r *throughput.Results, f []freshness.Result, problems, skipped []string) ([]byte, error) {
	d := document{Environment: e, Freshness: f, Problems: problems, Skipped: skipped}
	for _, c := range r.Measured() {
		of := func(figure func(throughput.Measurement) float64) stats.Spread { return r.Of(c.Name, figure) }
		figures := contenderFigures{
			Contender: c.Name, What: c.What, Floor: c.Floor,
			CPU:      of(throughput.Measurement.CPU),
			User:     of(func(m throughput.Measurement) float64 { return m.User }),
			System:   of(func(m throughput.Measurement) float64 { return m.System }),
			Rate:     of(func(m throughput.Measurement) float64 { return m.Load.Rate() }),
			P50:      of(func(m throughput.Measurement) float64 { return m.Load.P50 }),
			P99:      of(throughput.Measurement.P99),
			P999:     of(func(m throughput.Measurement) float64 { return m.Load.P999 }),
			Resident: of(func(m throughput.Measurement) float64 { return float64(m.Resident) }),
			Peak:     of(func(m throughput.Measurement) float64 { return float64(m.Peak) }),
			Upstream: of(func(m throughput.Measurement) float64 { return m.Upstream }),
		}
		if a, ok := r.Allocations[c.Name]; ok {
			figures.Allocations = &a
		}
		d.Throughput = append(d.Throughput, figures)
	}
	for _, c := range throughput.Comparisons {
		figure, name := throughput.Measurement.CPU, "cpu"
		if c.P99 {
			figure, name = throughput.Measurement.P99, "p99"
		}
		if measured := r.Ratio(c.Over, c.Under, figure); measured.N > 0 {
			d.Ratios = append(d.Ratios, ratio{c.Over, c.Under, name, measured, c.Target})
		}
	}
	text, err := json.MarshalIndent(d, "", "\t")
	return append(text, '\n'), err
}
