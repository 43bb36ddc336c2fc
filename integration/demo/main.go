// Command demo shows the sidecar at work in front of a real homeserver. See
// usage below for what it does.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

const usage = `Usage: make demo, make demo-cluster or make demo-synapse, or: cd integration && go run ./demo [flags]

Starts a real Dendrite on loopback, makes alice, bob and a stranger, puts the
sidecar in front of it and plays a short scene through it: a read, the same read
from memory, a write, the read that shows it, writes that are refused. A page
shows what it does. Then it prints curl lines with working tokens and stays up
until Ctrl-C. The first time, building Dendrite takes a minute or two.

Flags:
  --listen ADDRESS  where the sidecar listens (default 127.0.0.1:8009)
  --once            leave after the scene
  --nodes           two sidecars and a Redis: a write through one is seen through the
                    other, one budget over both, and Redis is killed and brought back
  --synapse         no scene: a Synapse, the sidecar with its page and admin endpoint, a
                    Prometheus with the alerts, and a client that floods. All stay, for
                    what docs/operations.md and docs/alerts.md tell to try. Here --listen is
                    where the page is (default 127.0.0.1:2020)

With HOMESERVER in the environment, the sidecar runs in front of that homeserver
instead of a Dendrite. It is also given by the environment who plays:
  HOMESERVER                  its base URL, such as http://localhost:8008
  REGISTRATION_SHARED_SECRET  its registration_shared_secret: users are made with it
  ALICE_TOKEN, BOB_TOKEN      access tokens of two users that exist; alice's presence
                              changes. On Synapse bob must share a room with her.
With neither, users are made by open registration, if the homeserver allows it.
NO_COLOR turns colours off.
`

// writeLimit is small enough for the scene to reach it.
const writeLimit = "6/1m burst 3"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, context.Canceled): // Ctrl-C before the scene was over
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, env func(string) string, in io.Reader, out io.Writer) error {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Usage = func() { fmt.Fprint(out, usage) }
	listen := flags.String("listen", "", "")
	once, two, trial := flags.Bool("once", false, ""), flags.Bool("nodes", false, ""), flags.Bool("synapse", false, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; see --help", flags.Arg(0))
	}

	// Before the long part: a port in use is better known at once.
	byDefault := "127.0.0.1:8009"
	if *trial {
		byDefault = "127.0.0.1:2020"
	}
	addr, err := claim(cmp.Or(*listen, byDefault))
	if err != nil {
		return err
	}
	if *trial {
		return runTrial(ctx, out, in, addr, *once)
	}
	stage, err := setStage(ctx, env, out)
	if err != nil {
		return err
	}
	defer stage.close()
	if *two {
		return runNodes(ctx, stage, out, *once)
	}
	if _, err := sidecar.Build(out); err != nil {
		return err
	}
	page, err := claim("127.0.0.1:0")
	if err != nil {
		return err
	}
	s, err := sidecar.StartProxyOn(ctx, addr, stage.url, "--write-limit", writeLimit, "--status-address", page)
	if err != nil {
		return err
	}
	defer s.Stop()

	return playOn(ctx, stage, s, page, out, *once)
}

// playOn plays the scene through a sidecar, whose page is at an address, and leaves it running unless it is played once.
func playOn(ctx context.Context, stage *stage, s *sidecar.Sidecar, page string, out io.Writer, once bool) error {
	p := newPrinter(out)
	p.line("The sidecar listens on %s, in front of %s on %s.", s.URL, stage.name, stage.url)
	p.line("Each user may write her presence six times a minute, three times at once.")
	p.line("What it does is shown on http://%s/.\n", page)
	if err := play(ctx, p, stage, s.URL); err != nil || once {
		return err
	}
	p.curls(stage, s.URL)
	p.line("\nIt stays up until Ctrl-C.")
	select {
	case <-ctx.Done():
		return nil
	case <-s.Exited():
		return fmt.Errorf("the sidecar ended by itself:\n%s", s.Log())
	case <-stage.exited:
		return errors.New("the homeserver ended by itself")
	}
}

// claim returns the address to listen on with its port picked, and an error that
// names the port if somebody has it.
func claim(listen string) (string, error) {
	l, err := net.Listen("tcp", listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		_, port, _ := net.SplitHostPort(listen)
		return "", fmt.Errorf("port %s is in use: stop what listens on %s, or choose another with --listen", port, listen)
	}
	if err != nil {
		return "", fmt.Errorf("listening on %s: %w", listen, err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}
