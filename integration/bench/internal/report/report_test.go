package report

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

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
func results() *throughput.Results {
	r := &throughput.Results{Allocations: map[string]throughput.Allocations{"hit": {Objects: 80, Bytes: 7000}}}
	for i, name := range []string{"respond", "hit", "souin"} {
		for round := range 3 {
			r.Measurements = append(r.Measurements, throughput.Measurement{
				Contender: name, Round: round, Position: i, User: float64(20 * (1 + i*i*i*10)), System: 10, Load: load.Result{Requests: 1000, Seconds: 1},
			})
		}
	}
	return r
}

func TestChartIsDrawn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cpu.svg")
	if err := CPUChart(results(), path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), "<svg") {
		t.Error(err)
	}
}

// A table or marker that nobody fills would go on showing an old run.
func TestTheDocumentationIsFilledFromARun(t *testing.T) {
	const page = "performance.md"
	dir := t.TempDir()
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "docs", page))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, page), text, 0o600); err != nil {
		t.Fatal(err)
	}
	r := results()
	run := Run{Tables: []Table{Throughput(r), Ratios(r), Options(r)}, Problems: []string{"a figure"}, Missed: []string{"a target"}}
	if err := run.Document(dir, page); err != nil {
		t.Fatal(err)
	}
	if text, err = os.ReadFile(filepath.Join(dir, page)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| hit |", "| 80 | 7.0 |", "| hit / respond |", "Not measured in this run.", "Nothing was left out.", "- a figure\n- a target"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in the page", want)
		}
	}
	var out strings.Builder
	run.Print(&out)
	for _, want := range []string{"hit / respond", "problem: a figure", "target missed: a target"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in what is printed:\n%s", want, out.String())
		}
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
