package status

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// shown returns a view of a cache in which everything has been counted.
func shown() (*View, Cache) {
	var h History
	c := full("a")
	h.Add(at(0, cache("a", 0, 0)))
	h.Add(at(10*time.Second, c))
	return h.View(map[string][]Limited{"a": {{"write", "@<b>:hs", 3, 5}, {"read", "@b:hs", 2, 2}}}), c
}

// metricName finds the names of metrics in an expression.
var metricName = regexp.MustCompile(`\b[a-z_]+(_total|_level|_max|_seconds|_bucket)\b|\bentries\b|\bpending\b|\bfeeds\b`)

// Each number names its metric, and one that there is. And each metric has a place.
func TestEachNumberNamesItsMetric(t *testing.T) {
	v, c := shown()
	named := make(map[string]bool)
	for _, table := range v.Caches[0].Tables {
		if table.Caption == "Users who were over a limit most often" {
			continue // that is no metric, for good reason
		}
		for _, r := range table.Rows {
			for i, cell := range r.Cells {
				metric := r.Metric + cell.Metric
				names := metricName.FindAllString(metric, -1)
				if len(names) == 0 && cell.Text != unknown {
					t.Errorf("%s, %s, %s: %q names no metric (%q)", table.Caption, r.Head, table.Columns[i+1], cell.Text, metric)
				}
				for _, name := range names {
					named[name] = true
					if !c.Metrics.Has(name) && !c.Metrics.Has(name+"_bucket") && name != "sync_writes_total" {
						t.Errorf("%s, %s names %s, which isn't there", table.Caption, r.Head, name)
					}
				}
			}
		}
	}
	for _, f := range v.Caches[0].Facts {
		named[strings.Split(f.Cell.Metric, "{")[0]] = true
	}
	for _, name := range c.Metrics.Names() {
		if !named[strings.TrimSuffix(name, "_bucket")] {
			t.Errorf("%s is shown nowhere", name)
		}
	}
}

// What nobody thought of when this was written has a place too, as soon as it counts.
func TestAMetricThatIsNewIsShown(t *testing.T) {
	v, _ := shown()
	for caption, want := range map[string][2]string{
		"Cluster": {"cluster_messages_total sent", "–"}, // it wasn't there before: no rate
		"More":    {"room_hits_total", "0.60/s"},
	} {
		row := v.table(caption).row(want[0])
		if len(row) != 1 {
			t.Errorf("%s has no %s", caption, want[0])
		}
	}
	if row := v.table("Requests to the homeserver").row("a_new_reason"); len(row) == 0 {
		t.Error("a new reason isn't shown")
	}
	var h History
	h.Add(at(0, cache("a", 1, 1).with(0, "cluster_messages_total", "sent")))
	if rows := h.View(nil).table("Cluster").Rows; len(rows) != 0 {
		t.Errorf("a cluster that has done nothing is shown: %v", rows)
	}
}

// What somebody should look at is marked, and not by a colour alone.
func TestWhatIsBadSaysSo(t *testing.T) {
	v, _ := shown()
	var bad []string
	v.eachCell(func(c *Cell) {
		if c.IsBad != strings.HasPrefix(c.Text, "⚠ ") {
			t.Errorf("%q is bad: %v", c.Text, c.IsBad)
		}
		if c.IsBad {
			bad = append(bad, c.Metric)
		}
	})
	for _, metric := range []string{"brown_out_level", `feeds{state="connecting"}`, `limiter_overflow_total{limit="read"}`} {
		if !slices.Contains(bad, metric) {
			t.Errorf("%s isn't marked: %q", metric, bad)
		}
	}
}

func TestLayoutIsWhatHasNoCell(t *testing.T) {
	layout := func(c ...Cache) string {
		var h History
		h.Add(at(0, c...))
		return h.View(nil).Layout
	}
	one := layout(cache("a", 1, 1))
	if other := layout(cache("a", 2, 1)); other != one {
		t.Error("another number changes the layout")
	}
	for name, other := range map[string]string{
		"another cache":  layout(cache("b", 1, 1)),
		"two of them":    layout(cache("a", 1, 1), cache("b", 1, 1)),
		"another column": layout(cache("a", 1, 1).with(1, "outcomes_total", "sync", "forwarded")),
		"another table":  layout(cache("a", 1, 1).with(1, "learned_total", "list")),
	} {
		if other == one {
			t.Errorf("%s doesn't change the layout", name)
		}
	}
}

// Each answer that there is has a row, in the order of the documentation, also those of a brown-out and those
// that nobody thought of when this was written.
func TestEachOutcomeIsShown(t *testing.T) {
	var h History
	h.Add(at(0, cache("a", 4, 1).with(1, "outcomes_total", "read", "older").with(2, "outcomes_total", "read", "shed").
		with(3, "outcomes_total", "write", "a_new_one")))
	var heads []string
	v := h.View(nil)
	for _, r := range v.table("Answers").Rows {
		heads = append(heads, r.Head)
	}
	if want := []string{"hit", "older", "miss", "limited", "shed", "failed", "a_new_one"}; !slices.Equal(heads, want) {
		t.Errorf("%q, want %q", heads, want)
	}
}

// A cluster whose log can't be reached has no number that counts, and is the first that should be seen.
func TestClusterThatIsDownIsShown(t *testing.T) {
	for up, want := range []string{"⚠ its log can't be reached", "up, nodes: 3"} {
		var h History
		h.Add(at(0, cache("a", 1, 1).with(float64(up), "cluster_up").with(3, "cluster_nodes")))
		found := false
		for _, f := range h.View(nil).Caches[0].Facts {
			found = found || f.Label == "Cluster" && f.Cell.Text == want && f.Cell.IsBad == (up == 0)
		}
		if !found {
			t.Errorf("no %q", want)
		}
	}
}

// A snapshot has an age once it was written. One that can't be written is marked.
func TestAgeOfASnapshotIsShownOnceItHasOne(t *testing.T) {
	shows := func(c Cache) (age string, failed []string) {
		var h History
		h.Add(at(0, c))
		v := h.View(nil)
		for _, f := range v.Caches[0].Facts {
			if f.Label == "Snapshot" {
				age = f.Cell.Text
			}
		}
		return age, v.table("Files of the snapshot").row("failed")
	}
	if age, failed := shows(cache("a", 1, 1).with(0, "snapshots_total", "failed")); age != "" || failed != nil {
		t.Errorf("without one: %q, %q", age, failed)
	}
	c := cache("a", 1, 1).with(1, "snapshots_total", "written").with(3, "snapshots_total", "failed").with(125, "snapshot_age_seconds")
	if age, failed := shows(c); age != "written 2 min 5 s ago" || len(failed) != 1 || !strings.HasPrefix(failed[0], "⚠") {
		t.Errorf("with one: %q, %q", age, failed)
	}
}

// The histogram says how many took so long and no less, now and ever.
func TestLatencyIsShownAsAHistogram(t *testing.T) {
	with := func(counts ...float64) Cache {
		c := cache("a", 0, 0)
		for i, le := range []string{"0.001", "0.01", "+Inf"} {
			c.Metrics.Set(counts[i], "upstream_seconds_bucket", "fetch", le)
			c.Metrics.Set(1, "upstream_seconds_bucket", "whoami", le) // of all reasons
		}
		return c
	}
	var h History
	h.Add(at(0, with(10, 20, 20)))
	h.Add(at(10*time.Second, with(10, 30, 40)))
	var got [][3]string
	for _, r := range h.View(nil).table("Until the homeserver began to answer").Rows {
		got = append(got, [3]string{r.Head, r.Cells[0].Sub, r.Cells[1].Sub})
	}
	want := [][3]string{{"≤ 1.00 ms", "0/s", "11"}, {"≤ 10.0 ms", "1.00/s", "20"}, {"more", "1.00/s", "10"}}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if rows := new(History).View(nil).Caches; len(rows) != 0 {
		t.Errorf("%v", rows)
	}
}
