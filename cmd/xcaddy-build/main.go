package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/xcaddy"
)

const usage = `Builds a Caddy binary from a JSON file: the JSON form of xcaddy.Builder.

Usage:
  xcaddy-build [--config <file>] [--output <file>]

Flags:
  --config <file>   what to build (default "xcaddy.json")
  --output <file>   the binary to write (default "./caddy-presence")

Relative paths in the file are relative to the file; durations in it are whole
nanoseconds. Ctrl-C stops the build, a second one at once.

Examples:
  In the repository's root, the binary that the repository describes:
    go -C cmd/xcaddy-build run . --config ../../xcaddy.json --output ../../caddy-presence

  Your own file, with more plugins in it, or with "os": "linux", "arch": "arm64":
    go -C cmd/xcaddy-build run . --config ~/caddy/xcaddy.json --output ~/caddy/caddy
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal ends the build in order; from then on signals have
	// their default effect again, so a second one ends the program.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stderr))
}

// run is main with its surroundings as parameters. It returns the exit status.
func run(ctx context.Context, args []string, stderr io.Writer) int {
	flags := flag.NewFlagSet("xcaddy-build", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage) }
	config := flags.String("config", "xcaddy.json", "")
	output := flags.String("output", "./caddy-presence", "")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case flags.NArg() > 0:
		fmt.Fprintf(stderr, "xcaddy-build: unexpected argument %q (see --help)\n", flags.Arg(0))
		return 2
	}
	if err := build(ctx, *config, *output, stderr); err != nil {
		fmt.Fprintln(stderr, "xcaddy-build:", err)
		if ctx.Err() != nil {
			return 130 // what shells expect of a program that Ctrl-C ended
		}
		return 1
	}
	return 0
}

// build builds what the config file describes, and says on out how it goes.
func build(ctx context.Context, config, output string, out io.Writer) error {
	b, err := loadConfig(config)
	if err != nil {
		return err
	}
	if output, err = filepath.Abs(output); err != nil { // for the messages: `go -C` runs this elsewhere
		return fmt.Errorf("finding the folder of the binary: %w", err)
	}
	if err := checkOutput(output); err != nil {
		return err
	}

	p := newProgress(out)
	defer log.SetOutput(log.Writer())
	defer log.SetFlags(log.Flags())
	log.SetOutput(p)
	log.SetFlags(0)
	remind, stop := context.WithCancel(ctx)
	defer stop()
	go p.remind(remind, 10*time.Second)

	p.sayf("building %s as %s; the first time it downloads and compiles everything, which takes some minutes", contents(b), output)
	if err := b.Build(ctx, output); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("stopping while %q ran: %w", short(p.current()), err)
		}
		return fmt.Errorf("running %q (its own message is above): %w", p.current(), err)
	}
	if b.SkipBuild {
		return nil
	}
	info, err := os.Stat(output)
	if err != nil {
		return fmt.Errorf("looking at what was built: %w", err)
	}
	p.sayf("built %s, %.1f MB", output, float64(info.Size())/1e6)
	return nil
}

// contents names what goes into the binary.
func contents(b xcaddy.Builder) string {
	caddy := "Caddy " + b.CaddyVersion
	if b.CaddyVersion == "" {
		caddy = "the latest Caddy"
	}
	var plugins []string
	for _, p := range b.Plugins {
		plugins = append(plugins, p.String())
	}
	return caddy + " with " + strings.Join(plugins, ", ")
}

// checkOutput finds out before the long build what would fail after it.
func checkOutput(output string) error {
	if info, err := os.Stat(output); err == nil && info.IsDir() {
		return fmt.Errorf("writing to %s: it is a folder; --output names the binary", output)
	}
	if _, err := os.Stat(filepath.Dir(output)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("writing to %s: its folder doesn't exist", output)
	}
	return nil
}
