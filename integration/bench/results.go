package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/command"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/freshness"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/load"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/plan"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/report"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/throughput"
)

// results are those of both experiments.
type results struct {
	environment report.Environment
	throughput  throughput.Results
	freshness   []freshness.Result
	// problems say which figures not to trust, skipped who did not take part.
	problems, skipped []string
}

// measure runs both experiments, or those chosen, as one plan.
func measure(ctx context.Context, s size, only []string, progress *os.File) (*results, error) {
	begin := time.Now()
	s.throughput.Out, s.freshness.Out = progress, progress
	contenders := slices.DeleteFunc(slices.Clone(only), func(name string) bool { return name == onlyFreshness })
	r := new(results)
	var steps []plan.Step

	if len(only) == 0 || len(contenders) > 0 {
		chosen, err := throughput.Select(s.full, contenders)
		if err != nil {
			return nil, err
		}
		speed, err := throughput.New(chosen, s.throughput)
		if err != nil {
			return nil, err
		}
		defer speed.Close()
		steps = append(steps, speed.Steps()...)
		defer func() {
			r.throughput = speed.Results
			r.problems = append(r.problems, speed.Results.Problems...)
			r.skipped = append(r.skipped, speed.Results.Skipped...)
		}()
	}
	if len(only) == 0 || len(contenders) < len(only) {
		fresh, err := freshness.New(s.freshness)
		if err != nil {
			return nil, err
		}
		defer fresh.Close()
		steps = append(steps, fresh.Steps()...)
		defer func() {
			r.freshness = fresh.Results
			r.problems = append(r.problems, fresh.Problems...)
			r.skipped = append(r.skipped, fresh.Skipped...)
		}()
	}
	if err := plan.Run(ctx, steps, progress, command.IsTerminal(progress)); err != nil {
		return nil, err
	}
	r.environment = report.Survey(ctx)
	r.environment.Size, r.environment.Took = s.name, time.Since(begin).Round(time.Second).String()
	r.environment.Generator = load.Find().String()
	return r, nil
}

// tables are all tables; those of what was not measured have no rows.
func (r *results) tables() []report.Table {
	return []report.Table{
		report.Throughput(&r.throughput), report.Ratios(&r.throughput), report.Options(&r.throughput), report.Freshness(r.freshness),
	}
}

// print shows the results on a terminal.
func (r *results) print(out io.Writer) {
	for _, t := range r.tables() {
		if len(t.Rows) > 0 {
			t.Text(out)
		}
	}
	fmt.Fprintf(out, "\n%s\n", r.environment.Text())
	for _, s := range r.skipped {
		fmt.Fprintf(out, "skipped: %s\n", s)
	}
	for _, p := range r.problems {
		fmt.Fprintf(out, "problem: %s\n", p)
	}
}

// trusted returns an error if some figures are not to be trusted.
func (r *results) trusted() error {
	if n := len(r.problems); n > 0 {
		return fmt.Errorf("%d measurements are not what they should be", n)
	}
	return nil
}

// The files in the folder of the documentation.
const (
	textFile     = "performance.md"
	jsonFile     = "performance.json"
	cpuFile      = "performance-cpu.svg"
	upstreamFile = "performance-upstream.svg"
)

// document writes the results into the folder of the documentation.
func (r *results) document(dir string) error {
	name := filepath.Join(dir, textFile)
	text, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("reading the documentation: %w", err)
	}
	texts := map[string]string{"environment": r.environment.Text(), "skipped": "All contenders took part."}
	if len(r.skipped) > 0 {
		texts["skipped"] = "Left out:\n\n- " + strings.Join(r.skipped, "\n- ")
	}
	if len(r.problems) > 0 {
		texts["skipped"] += "\n\nNot what they should be, and so not to be trusted:\n\n- " + strings.Join(r.problems, "\n- ")
	}
	for _, t := range r.tables() {
		texts[t.Name] = "Not measured at this size."
		if len(t.Rows) > 0 {
			texts[t.Name] = t.Markdown()
		}
	}
	filled, err := report.Fill(string(text), texts)
	if err != nil {
		return err
	}
	figures, err := report.JSON(r.environment, &r.throughput, r.freshness, r.problems, r.skipped)
	if err != nil {
		return err
	}
	if err := report.CPUChart(&r.throughput, filepath.Join(dir, cpuFile)); err != nil {
		return err
	}
	if err := report.UpstreamChart(r.freshness, filepath.Join(dir, upstreamFile)); err != nil {
		return err
	}
	for file, content := range map[string][]byte{name: []byte(filled), filepath.Join(dir, jsonFile): figures} {
		if err := os.WriteFile(file, content, 0o644); err != nil {
			return fmt.Errorf("writing the documentation: %w", err)
		}
	}
	return nil
}
