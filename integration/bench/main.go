package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/command"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/load"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/plan"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/report"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/throughput"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/upstream"
)

const usage = `Usage: make bench, or: cd integration && go run ./bench [flags]

Compares matrix_presence with bare Caddy, nginx, Varnish, caddy-ratelimit and
Souin, on loopback, one at a time. The first run also builds what is compared.
Let nothing else run meanwhile: ratios bear it, the other figures don't.

Flags:
  -size NAME  small (default, about two minutes) or full (about twenty: more and
              longer rounds, Caddy's options too)
  -only LIST  contenders or groups, separated by commas; floors are added
  -docs DIR   write the chart and the figures in performance.md there
  -list       show the contenders and leave
`

func main() { command.Main("bench", run) }

// run is the command, or one of the two processes that it starts as itself.
func run(ctx context.Context, args []string, out io.Writer, progress *os.File) error {
	if len(args) > 0 {
		switch args[0] {
		case load.Command:
			return load.Main(ctx, args[1:], out)
		case upstream.Command:
			return upstream.Main(ctx, args[1:])
		}
	}
	flags, err := command.Parse(usage, args, out)
	if err != nil {
		return err
	}
	if flags.List {
		contenders().Text(out)
		return nil
	}
	results, run, err := measure(ctx, flags, progress)
	if err != nil {
		return err
	}
	run.Print(out)
	if flags.Docs != "" {
		if err := report.CPUChart(results, filepath.Join(flags.Docs, "performance-cpu.svg")); err != nil {
			return err
		}
		if err := run.Document(flags.Docs, "performance.md"); err != nil {
			return err
		}
	}
	if n := len(run.Problems); n > 0 {
		return fmt.Errorf("%d measurements are not what they should be", n)
	}
	return nil
}

// contenders lists what -only takes.
func contenders() report.Table {
	t := report.Table{Title: "Contenders", Columns: []string{"<name", "<group", "<sizes", "<what is measured"}}
	for _, c := range throughput.Contenders {
		sizes := "all"
		if c.Full {
			sizes = "full"
		}
		t.Rows = append(t.Rows, []string{c.Name, c.Group, sizes, c.What})
	}
	return t
}

// connections are as many as keep two cores busy without much of a queue.
const connections = 64

// measure runs the experiment.
func measure(ctx context.Context, f command.Flags, progress *os.File) (*throughput.Results, *report.Run, error) {
	begin := time.Now()
	o := throughput.Options{Rounds: 3, Slice: time.Second, Connections: connections, Out: progress}
	if f.Full {
		o.Rounds, o.Slice, o.Restart, o.FreshFloors = 5, 1500*time.Millisecond, 2, true
	}
	chosen, err := throughput.Select(f.Full, f.Only)
	if err != nil {
		return nil, nil, err
	}
	experiment, err := throughput.New(chosen, o)
	if err != nil {
		return nil, nil, err
	}
	defer experiment.Close()
	if err := plan.Run(ctx, experiment.Steps(), progress, command.IsTerminal(progress)); err != nil {
		return nil, nil, err
	}
	r := &experiment.Results
	environment := report.Survey(ctx)
	environment.Size, environment.Took = f.Size(), time.Since(begin).Round(time.Second).String()
	environment.Generator = "its own generator, as fast as servers answer"
	return r, &report.Run{
		Environment: environment, Tables: []report.Table{report.Throughput(r), report.Ratios(r), report.Options(r)},
		Skipped: r.Skipped, Problems: r.Problems, Missed: r.Missed(),
	}, nil
}
