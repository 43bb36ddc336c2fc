package load

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
)

// Command is the name of the hidden subcommand that runs our generator.
const Command = "load"

// Child loads a server by our own generator in a process of its own.
func Child(ctx context.Context, o Options) (Result, error) {
	self, err := os.Executable()
	if err != nil {
		return Result{}, fmt.Errorf("finding this program: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, Command,
		"-address", o.Address, "-file", o.File, "-offset", strconv.Itoa(o.Offset),
		"-connections", strconv.Itoa(o.Connections), "-duration", o.Duration.String(),
		"-per-second", strconv.Itoa(o.PerSecond), "-protocol", string(o.Protocol), "-certificate", o.Certificate)
	var stdout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return Result{}, fmt.Errorf("running the load generator: %w", err)
	}
	var r Result
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		return Result{}, fmt.Errorf("reading the load generator's result: %w", err)
	}
	return r, nil
}

// Main is the hidden subcommand: it loads a server and prints the result.
func Main(ctx context.Context, args []string, out io.Writer) error {
	var o Options
	flags := flag.NewFlagSet(Command, flag.ContinueOnError)
	flags.StringVar(&o.Address, "address", "", "the server's")
	flags.StringVar(&o.File, "file", "", "the requests")
	flags.IntVar(&o.Offset, "offset", 0, "the request to begin with")
	flags.IntVar(&o.Connections, "connections", 1, "how many are kept busy")
	flags.DurationVar(&o.Duration, "duration", 0, "how long; 0: each request once")
	flags.IntVar(&o.PerSecond, "per-second", 0, "requests a second at most; 0: as many as can be")
	flags.StringVar((*string)(&o.Protocol), "protocol", "", "what to speak; empty: HTTP/1.1")
	flags.StringVar(&o.Certificate, "certificate", "", "the file with the one to trust")
	if err := flags.Parse(args); err != nil {
		return err
	}
	result, err := Generate(ctx, o)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(result)
}
