package main

import (
	"context"
	"io"
	"os"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/command"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/load"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/scripted"
)

func main() { command.Main("bench", run) }

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
