package report

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/freshness"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/load"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/throughput"
)

func TestTables(t *testing.T) {
	table := Table{Title: "Title", Columns: []string{"<name", "µs"}, Rows: [][]string{{"long name", "1"}, {"x", "10.5"}}}
	var text strings.Builder
	table.Text(&text)
	const wantText = "\nTitle\n\nname         µs\nlong name     1\nx          10.5\n"
	if text.String() != wantText {
		t.Errorf("got\n%q, want\n%q", text.String(), wantText)
	}
	const wantMarkdown = "| name | µs |\n| --- | --: |\n| long name | 1 |\n| x | 10.5 |\n"
	if got := table.Markdown(); got != wantMarkdown {
		t.Errorf("got\n%q, want\n%q", got, wantMarkdown)
	}
}

func TestThousands(t *testing.T) {
	for f, want := range map[float64]string{0: "0", 999.4: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := thousands(f); got != want {
			t.Errorf("%v: got %s", f, got)
		}
	}
}

func TestFilling(t *testing.T) {
	const document = "a\n<!-- bench:begin one -->\nold\n<!-- bench:end -->\nb <!-- bench:begin two --><!-- bench:end --> c"
	texts := map[string]string{"one": "1\n", "two": "2"}
	const want = "a\n<!-- bench:begin one -->\n\n1\n\n<!-- bench:end -->\nb <!-- bench:begin two -->\n\n2\n\n<!-- bench:end --> c"
	got, err := Fill(document, texts)
	if err != nil || got != want {
		t.Fatalf("got %q, %v", got, err)
	}
	// Nothing creeps in by filling again.
	if again, err := Fill(got, texts); err != nil || again != got {
		t.Errorf("got %q, %v", again, err)
	}
	for name, wrong := range map[string]string{
		"not ended":  "<!-- bench:begin one -->",
		"not closed": "<!-- bench:begin one\n<!-- bench:end",
		"not known":  "<!-- bench:begin three --><!-- bench:end -->",
	} {
		if got, err := Fill(wrong, texts); err == nil {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

// results are a run in small.
func results() (*throughput.Results, []freshness.Result) {
	r := &throughput.Results{Allocations: map[string]throughput.Allocations{"hit": {Objects: 80, Bytes: 7000}}}
	for i, name := range []string{"respond", "hit", "souin"} {
		for round := range 3 {
			r.Measurements = append(r.Measurements, throughput.Measurement{
				Contender: name, Round: round, Position: i, User: float64(20 * (1 + i*i*i*10)), System: 10, Load: load.Result{Requests: 1000, Seconds: 1},
			})
		}
	}
	f := []freshness.Result{
		{Homeserver: "scripted", Shape: "popular targets", What: "few", Contender: freshness.Baseline, Bound: "never", Reads: 1000, Seconds: 1, Upstream: 1000},
		{Homeserver: "scripted", Shape: "popular targets", What: "few", Contender: "nginx", Bound: "30 s", Reads: 1000, Seconds: 1, Upstream: 10, Leaks: 3},
	}
	return r, f
}

func TestChartsAreDrawn(t *testing.T) {
	r, f := results()
	dir := t.TempDir()
	for name, draw := range map[string]func(string) error{
		"cpu.svg":      func(path string) error { return CPUChart(r, path) },
		"upstream.svg": func(path string) error { return UpstreamChart(f, path) },
	} {
		path := filepath.Join(dir, name)
		if err := draw(path); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), "<svg") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTablesOfARun(t *testing.T) {
	r, f := results()
	for _, c := range []struct {
		table Table
		want  []string
	}{
		{Throughput(r), []string{"| hit |", "| 80 | 7.0 |"}},
		{Ratios(r), []string{"| hit / respond |"}},
		{Freshness(f), []string{"popular targets: few", "| 10.0 | 3 | 0 | 0 | 0 |"}},
	} {
		text := c.table.Markdown()
		for _, want := range c.want {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q in\n%s", c.table.Name, want, text)
			}
		}
	}
	text, err := JSON(Environment{}, r, f, nil, nil)
	if err != nil || !strings.Contains(string(text), `"over": "hit"`) {
		t.Errorf("%v in\n%s", err, text)
	}
}

// One contender that is a hundred times as slow must not make all others a line.
func TestLongBarsAreCut(t *testing.T) {
	bars := []Bar{{Figure: "a", Value: 10}, {Figure: "b", Value: 20}, {Figure: "c", Value: 40}, {Figure: "d", Value: 4000}}
	if got := cut(bars); got < 40 || got > 80 {
		t.Errorf("cut at %v", got)
	}
	if got := cut(bars[:3]); got != 40 {
		t.Errorf("cut at %v where nothing sticks out", got)
	}
}
