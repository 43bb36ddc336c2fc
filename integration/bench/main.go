package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/load"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/scripted"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case ctx.Err() != nil:
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run is the command, or one of the two processes that it starts as itself.
func run(ctx context.Context, args []string, out io.Writer, progress *os.File) error {
	if len(args) > 0 {
		switch args[0] {
		case load.Command:
			return load.Main(ctx, args[1:], out)
		case scripted.Command:
			return scripted.Main(ctx, args[1:])
		}
	}
	return bench(ctx, args, out, progress)
}
