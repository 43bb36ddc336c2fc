package status

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// cacheView is a cache whose tables are being made.
type cacheView struct {
	between
	points []point
	at     time.Time
	m      Metrics // of now
	late   [figureCount]float32
	shown  map[string]bool // metrics that some table has
}

func viewCache(late between, points []point, at time.Time, limited []Limited) CacheView {
	v := &cacheView{between: late, points: points, at: at, m: late.now.Metrics, late: measure(late), shown: make(map[string]bool)}
	tables := []Table{v.keyFigures(), v.outcomes("Answers", "outcomes_total")}
	if v.now.Mode != "enforce" || v.m.Value("observed_total") > 0 {
		tables = append(tables, v.outcomes("What mode enforce would have answered", "observed_total"))
	}
	v.shown["observed_total"] = true
	tables = append(tables, v.upstream())
	tables = append(tables, v.latency()...)
	tables = append(tables, v.limits(), v.tables())
	tables = append(tables, v.counts("Whose an access token is", "lookups_total", true)...)
	tables = append(tables, v.counts("The set_presence of syncs", "sync_writes_total", false)...)
	tables = append(tables, v.counts("Writes that were answered 200 and had to wait", "deliveries_total", false, "lost")...)
	tables = append(tables, v.counts("Learned from what passes by", "learned_total", false)...)
	tables = append(tables, v.counts("Lines of the feed", "feed_lines_total", false)...)
	tables = append(tables, v.counts("What the feed lost", "feed_losses_total", false)...)
	tables = append(tables, v.counts("Presences that the feed told of", "feed_presence_total", false)...)
	tables = append(tables, v.counts("Files of the snapshot", "snapshots_total", false, "failed")...)
	facts := v.facts()
	tables = append(tables, v.others()...)
	if len(limited) > 0 {
		tables = append(tables, limitedUsers(limited))
	}
	return CacheView{Name: late.now.Name, Facts: facts, Tables: tables}
}

// series writes a metric as Prometheus does. Labels are names and values.
func series(name string, labels ...string) string {
	var b strings.Builder
	b.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		before := ","
		if i == 0 {
			before = "{"
		}
		fmt.Fprintf(&b, "%s%s=%q", before, labels[i], labels[i+1])
	}
	if len(labels) > 0 {
		b.WriteByte('}')
	}
	return b.String()
}

// facts are what is no number, or only one.
func (v *cacheView) facts() []Fact {
	homeserver := v.now.Homeserver
	if homeserver == "" {
		homeserver = "not known yet"
	}
	facts := []Fact{
		{"Mode", Cell{Text: v.now.Mode}},
		{"Homeserver", Cell{Text: homeserver}},
		{"Counting for", Cell{Text: span(v.at.Sub(v.now.Since))}},
	}
	v.shown["feeds"] = true
	if v.m.Value("feeds") > 0 {
		state := "live"
		for _, other := range []string{"waiting", "connecting"} {
			if v.m.Value("feeds", other) > 0 {
				state = other
			}
		}
		facts = append(facts, Fact{"Feed", Cell{Text: state, Metric: series("feeds", "state", state)}.bad(state == "connecting")})
	}
	if v.m.Has("cluster_up") {
		isUp := v.m.Value("cluster_up") > 0
		text := "its log can't be reached"
		if isUp {
			text = "up, nodes: " + count(v.m.Value("cluster_nodes"))
		}
		v.shown["cluster_up"] = true
		facts = append(facts, Fact{"Cluster", Cell{Text: text, Metric: "cluster_up"}.bad(!isUp)})
	}
	if v.m.Has("brown_out_level") {
		level := v.m.Value("brown_out_level")
		words := []string{"none", "1 of 3: spare", "2 of 3: hold", "3 of 3: off"}
		v.shown["brown_out_level"] = true
		facts = append(facts, Fact{"Brown-out", Cell{Text: words[min(3, max(0, int(level)))], Metric: "brown_out_level"}.bad(level > 0)})
	}
	if v.m.Has("snapshot_age_seconds") {
		age := time.Duration(v.m.Value("snapshot_age_seconds") * float64(time.Second))
		v.shown["snapshot_age_seconds"] = true
		facts = append(facts, Fact{"Snapshot", Cell{Text: "written " + span(age) + " ago", Metric: "snapshot_age_seconds"}})
	}
	return facts
}

// keyFigures are those that have curves.
func (v *cacheView) keyFigures() Table {
	t := Table{Caption: "Key figures", Columns: []string{"Figure", "Now", "Average", "Total", "Last 10 minutes"}}
	for _, name := range []string{"saved_total", "requests_total", "upstream_requests_total", secondsMetric + "_bucket", secondsMetric + "_sum", secondsMetric + "_count", "pending", oldestMetric} {
		v.shown[name] = true
	}
	counter := func(f figure, head, metric, name string, labels ...string) {
		total := v.m.Value(name, labels...)
		t.Rows = append(t.Rows, v.keyRow(f, head, metric, rate, rate(v.average(total)), count(total), total == 0))
	}
	counter(figureSaved, "Homeserver spared", "saved_total", "saved_total")
	answered := v.m.Value("outcomes_total", "read", "hit") + v.m.Value("outcomes_total", "read", "collapsed")
	reads := v.m.Value("requests_total", "read")
	t.Rows = append(t.Rows, v.keyRow(figureHitRatio, "Hit ratio of reads", `outcomes_total{route="read",outcome=~"hit|collapsed"} / requests_total{route="read"}`,
		percent, percent(answered/reads), count(answered), reads == 0))
	counter(figureReads, "Reads", `requests_total{route="read"}`, "requests_total", "read")
	counter(figureWrites, "Writes", `requests_total{route="write"}`, "requests_total", "write")
	if v.m.Value("requests_total", "sync") > 0 {
		counter(figureSyncs, "Syncs that are looked at", `requests_total{route="sync"}`, "requests_total", "sync")
	}
	counter(figureUpstream, "Requests to the homeserver", "upstream_requests_total", "upstream_requests_total")
	of := v.m.buckets(v.m.Labels(secondsMetric + "_bucket")...)
	for _, one := range []struct {
		f    figure
		name string
		part float64
	}{{figureP50, "Homeserver answers, median", .5}, {figureP99, "Homeserver answers, 99 %", .99}} {
		ever := quantile(of, one.part)
		t.Rows = append(t.Rows, v.keyRow(one.f, one.name, secondsMetric, seconds, seconds(ever), unknown, math.IsNaN(ever)))
	}
	isIdle := v.m.Value("pending") == 0
	t.Rows = append(t.Rows, v.keyRow(figurePending, "Waiting writes", "pending", count, unknown, unknown, isIdle),
		v.keyRow(figureOldest, "Oldest waiting write", oldestMetric, seconds, unknown, unknown, isIdle))
	return t
}

// keyRow is a row of the key figures. What is now is the last point of its curve.
func (v *cacheView) keyRow(f figure, head, metric string, write func(float64) string, average, total string, quiet bool) Row {
	d, most := draw(v.points, f, v.at)
	top := most
	if f == figureHitRatio {
		top = 1
	}
	curve := Cell{IsCurve: true, Path: d.path(top)}
	if most > 0 {
		curve.Sub = "≤ " + write(most)
	}
	return Row{Head: head, Metric: metric, Cells: []Cell{{Text: write(float64(v.late[f]))}, {Text: average}, {Text: total}, curve}, Quiet: quiet}
}

// average returns how many a second there were since the cache began.
func (v *cacheView) average(total float64) float64 {
	return total / v.at.Sub(v.now.Since).Seconds()
}

// outcomeOrder is that of docs/metrics.md. What it doesn't have comes after these.
var outcomeOrder = []string{
	"hit", "older", "stale", "collapsed", "miss", "bypass", "forwarded", "absorbed", "coalesced", "stripped_unchanged", "stripped_limited",
	"rejected", "refused", "limited", "shed", "invalid", "failed", "canceled",
}

// outcomes is a table of outcomes by route.
func (v *cacheView) outcomes(caption, metric string) Table {
	v.shown[metric] = true
	routes := []string{"read", "write"}
	for _, route := range []string{"sync", "preflight"} {
		if v.m.Value(metric, route) > 0 {
			routes = append(routes, route)
		}
	}
	t := Table{Caption: caption, Columns: append([]string{"Outcome"}, routes...)}
	order := slices.Clone(outcomeOrder)
	for _, route := range routes {
		order = withOthers(order, v.m.Labels(metric, route))
	}
	for _, outcome := range order {
		row := Row{Head: outcome, Quiet: true}
		for _, route := range routes {
			total := v.m.Value(metric, route, outcome)
			row.Quiet = row.Quiet && total == 0
			row.Cells = append(row.Cells, v.counted(metric, "route", route, "outcome", outcome).bad(outcome == "failed" && v.rate(metric, route, outcome) > 0))
		}
		if !row.Quiet || slices.Contains([]string{"hit", "miss", "limited", "failed"}, outcome) {
			t.Rows = append(t.Rows, row)
		}
	}
	return t
}

// withOthers adds to a list of words those that it doesn't have.
func withOthers(known, words []string) []string {
	for _, word := range words {
		if !slices.Contains(known, word) {
			known = append(known, word)
		}
	}
	return known
}

// counted is a cell of how many there are a second, and in all. Labels are names and values.
func (v *cacheView) counted(name string, labels ...string) Cell {
	var values []string
	for i := 1; i < len(labels); i += 2 {
		values = append(values, labels[i])
	}
	total := v.m.Value(name, values...)
	if total == 0 {
		return Cell{Text: "0", Metric: series(name, labels...)}
	}
	return Cell{Text: rate(v.rate(name, values...)), Sub: count(total), Metric: series(name, labels...)}
}

// upstream is what the homeserver is asked.
func (v *cacheView) upstream() Table {
	t := Table{Caption: "Requests to the homeserver", Columns: []string{"Reason", "Now, total", "Median now, ever", "99 % now, ever"}}
	reasons := []string{"fetch", "first_read", "bypass", "write", "delivery", "preflight", "sync", "whoami", "version", "retry"}
	for _, reason := range withOthers(reasons, v.m.Labels("upstream_requests_total")) {
		total := v.m.Value("upstream_requests_total", reason)
		if total == 0 && reason != "fetch" && reason != "whoami" && reason != "write" {
			continue
		}
		row := Row{Head: reason, Cells: []Cell{v.counted("upstream_requests_total", "reason", reason)}, Quiet: total == 0}
		of := v.m.buckets(reason)
		for _, part := range []float64{.5, .99} {
			row.Cells = append(row.Cells, Cell{
				Text: seconds(v.quantile(part, reason)), Sub: seconds(quantile(of, part)), Metric: series(secondsMetric, "reason", reason),
			})
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

// latency is the histogram of how long the homeserver takes, if anything was measured.
func (v *cacheView) latency() []Table {
	reasons := v.m.Labels(secondsMetric + "_bucket")
	ever, late := v.m.buckets(reasons...), v.buckets(reasons...)
	if len(ever) == 0 {
		return nil
	}
	t := Table{Caption: "Until the homeserver began to answer", Columns: []string{"Time", "Now", "Ever"}}
	for i, b := range ever {
		head, le := "≤ "+seconds(b.le), strconv.FormatFloat(b.le, 'g', -1, 64)
		if math.IsInf(b.le, 1) {
			head, le = "more", "+Inf"
		}
		of := func(all []bucket, write func(float64) string) Cell {
			cell := Cell{IsCurve: true, IsBar: true, Sub: unknown, Metric: series(secondsMetric+"_bucket", "le", le)}
			if all == nil {
				return cell
			}
			n := all[i].count
			if i > 0 {
				n -= all[i-1].count
			}
			cell.Sub = write(n)
			if n > 0 {
				cell.Path = bar(n / all[len(all)-1].count)
			}
			return cell
		}
		now := of(late, func(n float64) string { return rate(n / v.took.Seconds()) })
		total := of(ever, count)
		t.Rows = append(t.Rows, Row{Head: head, Cells: []Cell{now, total}, Quiet: total.Path == ""})
	}
	return []Table{t}
}

// limits is who is over a limit.
func (v *cacheView) limits() Table {
	t := Table{Caption: "Limits", Columns: []string{"Limit", "Over it", "Without a place in its table"}}
	v.shown["limiter_overflow_total"] = true
	for _, limit := range v.m.Labels("limiter_overflow_total") {
		over := v.counted("outcomes_total", "route", limit, "outcome", "limited")
		switch limit {
		case "rejected":
			over = v.counted("lookups_total", "result", "limited")
		case "sync":
			over = v.counted("sync_writes_total", "result", "limited")
		}
		overflow := v.m.Value("limiter_overflow_total", limit)
		t.Rows = append(t.Rows, Row{Head: limit, Quiet: over.Sub == "" && overflow == 0, Cells: []Cell{
			over, v.counted("limiter_overflow_total", "limit", limit).bad(overflow > 0),
		}})
	}
	return t
}

// tables is how full the tables are.
func (v *cacheView) tables() Table {
	t := Table{Caption: "Tables", Columns: []string{"Table", "Entries", "Full", "Dropped to make room"}}
	for _, name := range []string{"entries", "entries_max", "evictions_total"} {
		v.shown[name] = true
	}
	for _, table := range v.m.Labels("entries") {
		entries, most := v.m.Value("entries", table), v.m.Value("entries_max", table)
		dropped := Cell{Text: unknown}
		if v.m.Has("evictions_total", table) {
			dropped = v.counted("evictions_total", "table", table)
			dropped = dropped.bad(v.rate("evictions_total", table) > 1)
		}
		t.Rows = append(t.Rows, Row{Head: table, Quiet: entries == 0, Cells: []Cell{
			{Text: count(entries), Sub: "of " + count(most), Metric: series("entries", "table", table)},
			{IsCurve: true, IsBar: true, Path: bar(entries / most), Sub: percent(entries / most), Metric: series("entries_max", "table", table)},
			dropped,
		}})
	}
	return t
}

// counts is a table of a metric with one label, if it has counted anything, or always. What is
// bad should not be counted at all.
func (v *cacheView) counts(caption, metric string, always bool, bad ...string) []Table {
	v.shown[metric] = true
	if v.m.Value(metric) == 0 && !always {
		return nil
	}
	t := Table{Caption: caption, Columns: []string{"Result", "Now, total"}}
	for _, label := range v.m.Labels(metric) {
		total := v.m.Value(metric, label)
		cell := v.counted(metric, labelNames[metric], label).bad(total > 0 && slices.Contains(bad, label) || label == "failed" && v.rate(metric, label) > 0)
		t.Rows = append(t.Rows, Row{Head: label, Cells: []Cell{cell}, Quiet: total == 0})
	}
	return []Table{t}
}

// labelNames are the names of the label of metrics that have one.
var labelNames = map[string]string{
	"lookups_total": "result", "sync_writes_total": "result", "deliveries_total": "result", "learned_total": "what",
	"feed_lines_total": "kind", "feed_losses_total": "reason", "feed_presence_total": "result",
	"snapshots_total": "result",
}

// others are the metrics that no other table has, such as those of a cluster: each is shown as soon
// as there is one.
func (v *cacheView) others() []Table {
	captions := []struct{ prefix, caption string }{{"brown_out", "Brown-out"}, {"cluster", "Cluster"}, {"", "More"}}
	var tables []Table
	for _, c := range captions {
		t := Table{Caption: c.caption, Columns: []string{"Metric", "Now, total"}}
		for _, name := range v.m.Names() {
			if v.shown[name] || !strings.HasPrefix(name, c.prefix) {
				continue
			}
			v.shown[name] = true
			t.Rows = append(t.Rows, v.otherRows(name)...)
		}
		if slices.ContainsFunc(t.Rows, func(r Row) bool { return !r.Quiet }) {
			tables = append(tables, t)
		}
	}
	return tables
}

// otherRows are those of a metric, one for each value of its labels.
func (v *cacheView) otherRows(name string, labels ...string) (rows []Row) {
	if inner := v.m.Labels(name, labels...); len(inner) > 0 {
		for _, label := range inner {
			rows = append(rows, v.otherRows(name, append(slices.Clone(labels), label)...)...)
		}
		return rows
	}
	value := v.m.Value(name, labels...)
	cell := Cell{Text: count(value), Metric: name}
	if strings.HasSuffix(name, "_total") {
		cell = Cell{Text: rate(v.rate(name, labels...)), Sub: count(value), Metric: name}
	}
	return []Row{{Head: strings.Join(append([]string{name}, labels...), " "), Cells: []Cell{cell}, Quiet: value == 0}}
}

// limitedUsers is who was over a limit most often.
func limitedUsers(users []Limited) Table {
	t := Table{Caption: "Users who were over a limit most often", Columns: []string{"", "User", "Limit", "Times"}}
	for i, u := range users {
		times := count(float64(u.AtMost))
		if u.AtLeast != u.AtMost {
			times = count(float64(u.AtLeast)) + " to " + times
		}
		t.Rows = append(t.Rows, Row{Head: fmt.Sprint(i+1, "."), Cells: []Cell{{Text: u.UserID, IsWord: true}, {Text: u.Limit}, {Text: times}}})
	}
	return t
}
