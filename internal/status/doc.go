// Package status is what an admin sees of a running module: on the page, at Caddy's admin endpoint
// and in presence-top.
//
//   - document.go: [Document], all counters at a time, by the names of the metrics; it is the JSON;
//   - history.go: [History], what was counted in the last ten minutes; latency.go: p50 and p99 of a
//     histogram;
//   - view.go: [View], the document as tables of texts, each number with its metric; rows.go: what is
//     in these tables; format.go: how numbers are written; curve.go: curves and bars;
//   - page.go: a view as HTML, and as the JSON by which a page refreshes itself; text.go: as text for
//     a terminal.
//
// It knows neither Caddy nor HTTP servers. Time is a parameter, and a history has a bound.
package status
