package report

import (
	"fmt"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/stats"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/throughput"
)

// Throughput is the table of all contenders.
func Throughput(r *throughput.Results) Table {
	t := Table{
		Name:  "throughput",
		Title: "CPU time of the server for a request: median (smallest–largest), and what came with it",
		Columns: []string{"<contender", "<what", "CPU µs", "user + system", "of its floor", "requests/s",
			"p50 ms", "p99 ms", "p99.9 ms", "RSS MB", "peak", "allocs", "KB", "upstream of 1,000"},
	}
	for _, c := range r.Measured() {
		of := func(figure func(throughput.Measurement) float64) stats.Spread { return r.Of(c.Name, figure) }
		median := func(digits int, figure func(throughput.Measurement) float64) string {
			return fmt.Sprintf("%.*f", digits, of(figure).Median)
		}
		ratio := "–"
		if c.Floor != "" {
			ratio = r.Ratio(c.Name, c.Floor, throughput.Measurement.CPU).Format(2) + " × " + c.Floor
		}
		objects, bytes := "–", "–"
		if a, ok := r.Allocations[c.Name]; ok {
			objects, bytes = fmt.Sprintf("%.0f", a.Objects), fmt.Sprintf("%.1f", a.Bytes/1000)
		}
		t.Rows = append(t.Rows, []string{
			c.Name, c.What,
			of(throughput.Measurement.CPU).Format(1),
			median(1, func(m throughput.Measurement) float64 { return m.User }) + " + " +
				median(1, func(m throughput.Measurement) float64 { return m.System }),
			ratio,
			thousands(of(func(m throughput.Measurement) float64 { return m.Load.Rate() }).Median),
			median(2, func(m throughput.Measurement) float64 { return m.Load.P50 / 1000 }),
			median(1, func(m throughput.Measurement) float64 { return m.Load.P99 / 1000 }),
			median(1, func(m throughput.Measurement) float64 { return m.Load.P999 / 1000 }),
			median(0, func(m throughput.Measurement) float64 { return float64(m.Resident) / 1e6 }),
			median(0, func(m throughput.Measurement) float64 { return float64(m.Peak) / 1e6 }),
			objects, bytes,
			median(0, func(m throughput.Measurement) float64 { return m.Upstream }),
		})
	}
	return t
}

// Ratios is the table of comparisons.
func Ratios(r *throughput.Results) Table {
	t := Table{
		Name:    "ratios",
		Title:   "CPU time for a request, ratios of neighbours in a round: median (smallest–largest)",
		Columns: []string{"<ratio", "measured", "rounds", "<target"},
	}
	for _, c := range throughput.Comparisons {
		name, ratio := r.Compare(c)
		if ratio.N == 0 {
			continue
		}
		t.Rows = append(t.Rows, []string{name, ratio.Format(c.Digits()), fmt.Sprint(ratio.N), c.Target()})
	}
	return t
}

// Options is the table of what Caddy's own options cost.
func Options(r *throughput.Results) Table {
	t := Table{
		Name:    "options",
		Title:   "What Caddy's options cost: CPU time for a request against the same without",
		Columns: []string{"<option", "<against", "ratio", "RSS MB"},
	}
	for _, c := range r.Measured() {
		if c.Group != throughput.GroupOptions {
			continue
		}
		resident := r.Of(c.Name, func(m throughput.Measurement) float64 { return float64(m.Resident) / 1e6 })
		t.Rows = append(t.Rows, []string{
			c.What, c.Floor, r.Ratio(c.Name, c.Floor, throughput.Measurement.CPU).Format(2), fmt.Sprintf("%.0f", resident.Median),
		})
	}
	return t
}

// thousands writes a number as 12,345.
func thousands(f float64) string {
	text := fmt.Sprintf("%.0f", f)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
