package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

const usage = `Usage: make soak [DURATION=1h], or: cd integration && go run ./soak [flags]

Runs the built sidecar under mixed traffic, reloads and restarts of the homeserver, all
on loopback, and checks that every answer is right, that all counts agree and that
memory, goroutines, file descriptors and tables stay flat.

Flags:
  -duration DURATION  how long (default 10m, at least 20s)
  -rate N             requests a second (default 1000)
  -docs DIR           write the chart, soak.svg, there
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case ctx.Err() != nil:
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("soak", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Usage = func() { fmt.Fprint(out, usage) }
	duration := flags.Duration("duration", 10*time.Minute, "")
	rate := flags.Int("rate", 1000, "")
	docs := flags.String("docs", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected argument %q; see --help", flags.Arg(0))
	case *duration < 20*time.Second || *rate < 100:
		return errors.New("nothing can be told from less than 20 seconds or 100 requests a second")
	}
	if *docs != "" {
		// Better known at once than after an hour.
		if info, err := os.Stat(*docs); err != nil || !info.IsDir() {
			return fmt.Errorf("there is no folder %s to write the chart to", *docs)
		}
	}
	p := whole
	p.duration, p.rate = *duration, *rate
	if *duration < 2*time.Minute {
		p = brief(*duration, *rate)
	}
	r, err := soak(ctx, p, out)
	if err != nil {
		return err
	}
	r.print(out)
	if *docs != "" {
		if err := r.chart(filepath.Join(*docs, "soak.svg")); err != nil {
			return err
		}
	}
	return r.verdict()
}
