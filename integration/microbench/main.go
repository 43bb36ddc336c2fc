// Command microbench runs the micro-benchmarks of the plugin's packages and reports
// what each takes as a ratio to Caddy's StaticResponse, which is measured in the same
// round. Machines differ and are noisy; a ratio can be kept and compared:
//
//	go run ./microbench                 # compare with the committed baseline
//	go run ./microbench -update         # write the baseline anew
//	go run ./microbench -raw new.txt    # keep the output for benchstat
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/perf/benchfmt"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/checkout"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/progress"
)

// reference is the benchmark that all are compared with: the same JSON and header
// fields as a hit.
const reference = "StaticResponse"

// row is what one benchmark takes. Times are ratios to the reference's in the same
// run, with as many processors.
type row struct {
	Name    string  `json:"name"` // with the number of processors, as "Hit-2"
	Ratio   float64 `json:"ratio,omitempty"`
	Speedup float64 `json:"speedup,omitempty"` // throughput on two processors to that on one
	Allocs  float64 `json:"allocs_per_op"`
	BEntry  float64 `json:"bytes_per_entry,omitempty"`
	seconds []float64
}

func main() {
	update := flag.Bool("update", false, "write the baseline anew")
	raw := flag.String("raw", "", "also write what the benchmarks print to this `file`, for benchstat")
	rounds := flag.Int("rounds", 7, "how often all are run; the median of the rounds' ratios counts")
	benchtime := flag.String("benchtime", "0.2s", "how long each is run in a round")
	flag.Parse()
	if err := run(*update, *raw, *rounds, *benchtime); err != nil {
		fmt.Fprintln(os.Stderr, "microbench:", err)
		os.Exit(1)
	}
}

func run(update bool, raw string, rounds int, benchtime string) error {
	root, err := checkout.Root()
	if err != nil {
		return err
	}
	// A round takes a minute or so, in which a shared machine keeps its speed better
	// than over all of them.
	type step struct {
		name string
		args []string
	}
	var steps []step
	for i := range rounds {
		steps = append(steps, step{
			fmt.Sprintf("round %d of %d", i+1, rounds),
			[]string{"-bench=.", "-skip=Memory", "-benchmem", "-cpu=1,2", "-benchtime=" + benchtime},
		})
	}
	steps = append(steps, step{"memory", []string{"-bench=Memory", "-benchtime=1x"}})
	var output bytes.Buffer
	for _, s := range steps {
		cmd := exec.Command("go", append([]string{"test", "-run=^$", "-p=1", "./caddymodule", "./cache", "./policy"}, s.args...)...)
		cmd.Dir, cmd.Env = root, checkout.GoEnv()
		err := progress.While(os.Stderr, "running the benchmarks: "+s.name, func() error {
			out, err := checkout.Output(cmd)
			output.WriteString(out + "\n")
			return err
		})
		if err != nil {
			return fmt.Errorf("running the benchmarks: %w", err)
		}
	}
	if raw != "" {
		if err := os.WriteFile(raw, output.Bytes(), 0o644); err != nil {
			return err
		}
	}
	rows, err := read(&output)
	if err != nil {
		return err
	}

	file := filepath.Join(root, "docs", "microbenchmarks.json")
	if update {
		data, err := json.MarshalIndent(rows, "", "\t")
		if err != nil {
			return err
		}
		if err := os.WriteFile(file, append(data, '\n'), 0o644); err != nil {
			return err
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("reading the baseline (-update writes it): %w", err)
	}
	var baseline []row
	if err := json.Unmarshal(data, &baseline); err != nil {
		return fmt.Errorf("reading the baseline %s: %w", file, err)
	}
	return show(os.Stdout, rows, baseline)
}

// read takes the benchmarks out of what go test prints.
func read(output io.Reader) ([]row, error) {
	byName := make(map[string]*row)
	var names []string
	reader := benchfmt.NewReader(output, "go test")
	for reader.Scan() {
		result, ok := reader.Result().(*benchfmt.Result)
		if !ok {
			continue // a line of something else
		}
		name := result.Name.String()
		r := byName[name]
		if r == nil {
			r = &row{Name: name}
			byName[name] = r
			names = append(names, name)
		}
		if seconds, ok := result.Value("sec/op"); ok {
			r.seconds = append(r.seconds, seconds)
		}
		if allocs, ok := result.Value("allocs/op"); ok {
			r.Allocs = allocs
		}
		if entry, ok := result.Value("B/entry"); ok {
			r.BEntry = entry
		}
	}
	if err := reader.Err(); err != nil {
		return nil, fmt.Errorf("reading the benchmarks: %w", err)
	}
	slices.Sort(names)
	rows := make([]row, 0, len(names))
	for _, name := range names {
		r := byName[name]
		if r.BEntry == 0 {
			base := byName[reference+processors(name)]
			if base == nil {
				return nil, fmt.Errorf("%s has no %s to be compared with", name, reference)
			}
			r.Ratio = medianRatio(r.seconds, base.seconds)
		}
		if one := byName[strings.TrimSuffix(name, "-2")]; one != nil && one != r && r.BEntry == 0 {
			r.Speedup = medianRatio(one.seconds, r.seconds)
		}
		rows = append(rows, *r)
	}
	return rows, nil
}

// processors returns the end of a benchmark's name that tells their number: "-2", or
// nothing for one.
func processors(name string) string {
	if len(name) > 2 && name[len(name)-2] == '-' {
		return name[len(name)-2:]
	}
	return ""
}

// medianRatio returns the median of the rounds' ratios.
func medianRatio(over, under []float64) float64 {
	var ratios []float64
	for i := range min(len(over), len(under)) {
		ratios = append(ratios, over[i]/under[i])
	}
	slices.Sort(ratios)
	return ratios[len(ratios)/2]
}

// show prints the rows beside the baseline's.
func show(w io.Writer, rows, baseline []row) error {
	known := make(map[string]row)
	for _, r := range baseline {
		known[r.Name] = r
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "benchmark\ttime / %s\tbaseline\t2 cores / 1\tbaseline\tallocs\tbaseline\tB/entry\tbaseline\t\n", reference)
	for _, r := range rows {
		b, ok := known[r.Name]
		cell := func(format string, value float64, there bool) string {
			if !there {
				return ""
			}
			return fmt.Sprintf(format, value)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%.0f\t%s\t%s\t%s\t\n", r.Name,
			cell("%.3f", r.Ratio, r.BEntry == 0), cell("%.3f", b.Ratio, ok && r.BEntry == 0),
			cell("%.2f", r.Speedup, r.Speedup != 0), cell("%.2f", b.Speedup, ok && b.Speedup != 0),
			r.Allocs, cell("%.0f", b.Allocs, ok),
			cell("%.0f", r.BEntry, r.BEntry != 0), cell("%.0f", b.BEntry, ok && r.BEntry != 0))
	}
	return table.Flush()
}
