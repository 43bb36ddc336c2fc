package report

import (
	"fmt"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/freshness"
)

// Freshness is the table of contenders that are equally fresh.
func Freshness(results []freshness.Result) Table {
	t := Table{
		Name:  "freshness",
		Title: "Equal freshness: what reaches the homeserver, what is wrong, and what it costs",
		Columns: []string{"<homeserver", "<shape", "<contender", "<stale at most", "reads", "reads/s", "writes", "upstream of 1,000",
			"leaks", "stale", "ago off", "other wrong", "proxy µs", "homeserver µs", "both", "p50 ms", "p99 ms"},
	}
	for _, r := range results {
		t.Rows = append(t.Rows, []string{
			r.Homeserver, title(r), r.Contender, r.Bound,
			thousands(float64(r.Reads)), thousands(float64(r.Reads) / r.Seconds), fmt.Sprint(r.Writes),
			fmt.Sprintf("%.1f", r.UpstreamPer1000()),
			fmt.Sprint(r.Leaks), fmt.Sprint(r.Stale), fmt.Sprint(r.AgoOff), fmt.Sprint(r.WronglyRefused + r.Failed),
			fmt.Sprintf("%.0f", r.ProxyCPU), fmt.Sprintf("%.0f", r.HomeserverCPU), fmt.Sprintf("%.0f", r.ProxyCPU+r.HomeserverCPU),
			fmt.Sprintf("%.2f", r.P50/1000), fmt.Sprintf("%.1f", r.P99/1000),
		})
	}
	return t
}

// title names what was read.
func title(r freshness.Result) string {
	text := r.Shape + ": " + r.What
	if r.Phase != "" {
		text += ", " + r.Phase
	}
	return text
}
