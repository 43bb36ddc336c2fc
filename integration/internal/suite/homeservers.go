package suite

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
)

// kind is a homeserver with its options.
type kind struct {
	name string
	opts homeserver.Options
}

type started struct {
	hs  *homeserver.Homeserver
	err error
}

// running are the homeservers that the tests of a package share.
var running struct {
	sync.Mutex // held while one starts
	all        map[kind]started
}

// Homeserver returns "dendrite" or "synapse", which is started when it is first asked for. Without
// a Python the test is skipped, unless this is the continuous integration.
func Homeserver(t testing.TB, name string, opts homeserver.Options) *homeserver.Homeserver {
	t.Helper()
	running.Lock()
	defer running.Unlock()
	k := kind{name, opts}
	s, ok := running.all[k]
	if !ok {
		start := homeserver.StartDendrite
		if name == "synapse" {
			start = homeserver.StartSynapse
		}
		opts.Progress = os.Stderr
		// Not a test's context: the homeserver outlives the test that asked first.
		s.hs, s.err = start(context.Background(), opts)
		if running.all == nil {
			running.all = make(map[kind]started)
		}
		running.all[k] = s
	}
	if errors.Is(s.err, homeserver.ErrUnavailable) && os.Getenv("CI") != "true" {
		t.Skip(s.err)
	}
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.hs
}

// EachHomeserver runs a test on Dendrite and on Synapse.
func EachHomeserver(t *testing.T, opts homeserver.Options, test func(*testing.T, *homeserver.Homeserver)) {
	for _, name := range []string{"dendrite", "synapse"} {
		t.Run(name, func(t *testing.T) { test(t, Homeserver(t, name, opts)) })
	}
}

func stopHomeservers() {
	for _, s := range running.all {
		if s.hs != nil {
			s.hs.Stop()
		}
	}
}
