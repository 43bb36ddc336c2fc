package differential_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
)

var (
	size = flag.String("size", "ci", "how many cases: ci or full")
	seed = flag.Uint64("seed", 1, "the same seed makes the same cases")
)

// count is how many cases there are of each kind and homeserver.
type count struct{ writes, reads, credentials, sequences int }

var counts = map[string]count{
	"ci":   {writes: 400, reads: 600, credentials: 400, sequences: 5},
	"full": {writes: 5000, reads: 6000, credentials: 5000, sequences: 50},
}

// servers are the homeservers that the tests share, each started when it is first
// asked for. Tests don't run in parallel.
var servers = make(map[string]func() (*homeserver.Homeserver, error))

func TestMain(m *testing.M) {
	flag.Parse()
	if _, ok := counts[*size]; !ok {
		fmt.Fprintf(os.Stderr, "-size must be ci or full, not %q\n", *size)
		os.Exit(2)
	}
	var started []*homeserver.Homeserver
	once := func(start func(context.Context, homeserver.Options) (*homeserver.Homeserver, error)) func() (*homeserver.Homeserver, error) {
		var hs *homeserver.Homeserver
		var err error
		return func() (*homeserver.Homeserver, error) {
			if hs == nil && err == nil {
				// Not a test's context: the homeserver outlives the first test.
				if hs, err = start(context.Background(), homeserver.Options{Progress: os.Stderr}); err == nil {
					started = append(started, hs)
				}
			}
			return hs, err
		}
	}
	servers["dendrite"] = once(homeserver.StartDendrite)
	servers["synapse"] = once(homeserver.StartSynapse)

	code := m.Run()
	for _, hs := range started {
		hs.Stop()
	}
	os.Exit(code)
}

// eachHomeserver runs a test on Dendrite and on Synapse. Without a Python the latter is
// skipped, unless this is the continuous integration.
func eachHomeserver(t *testing.T, test func(*testing.T, *homeserver.Homeserver)) {
	for _, name := range []string{"dendrite", "synapse"} {
		t.Run(name, func(t *testing.T) { test(t, server(t, name)) })
	}
}

func server(t *testing.T, name string) *homeserver.Homeserver {
	t.Helper()
	hs, err := servers[name]()
	if errors.Is(err, homeserver.ErrUnavailable) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return hs
}

// source returns the random source of a test.
func source() *rand.Rand { return rand.New(rand.NewPCG(*seed, 0)) }
