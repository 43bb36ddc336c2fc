package integration_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/protocol"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(stopping{m}) }

// stopping stops the shared homeservers when the tests are over, before anybody
// looks for goroutines that were left.
type stopping struct{ tests *testing.M }

func (s stopping) Run() int {
	defer servers.stop()
	return s.tests.Run()
}

// servers are the homeservers that tests share.
var servers pool

// pool starts each kind of homeserver once, when it is first asked for.
type pool struct {
	mu      sync.Mutex // guards running; held while a homeserver starts
	running map[kind]*started
}

type kind struct {
	name string
	opts homeserver.Options
}

type started struct {
	hs  *homeserver.Homeserver
	err error
}

func (p *pool) get(k kind) (*homeserver.Homeserver, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s, ok := p.running[k]; ok {
		return s.hs, s.err
	}
	start := homeserver.StartDendrite
	if k.name == "synapse" {
		start = homeserver.StartSynapse
	}
	opts := k.opts
	opts.Progress = os.Stderr
	// Not a test's context: the homeserver outlives the test that asked first.
	hs, err := start(context.Background(), opts)
	if p.running == nil {
		p.running = make(map[kind]*started)
	}
	p.running[k] = &started{hs, err}
	return hs, err
}

func (p *pool) stop() {
	for _, s := range p.running {
		if s.hs != nil {
			s.hs.Stop()
		}
	}
}

// server returns a homeserver of that name. Without a Python the test is
// skipped, unless this is the continuous integration.
func server(t *testing.T, name string, opts homeserver.Options) *homeserver.Homeserver {
	t.Helper()
	hs, err := servers.get(kind{name, opts})
	if errors.Is(err, homeserver.ErrUnavailable) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return hs
}

// eachHomeserver runs a test on Dendrite and on Synapse.
func eachHomeserver(t *testing.T, opts homeserver.Options, test func(*testing.T, *homeserver.Homeserver)) {
	for _, name := range []string{"dendrite", "synapse"} {
		t.Run(name, func(t *testing.T) { test(t, server(t, name, opts)) })
	}
}

// eachProtocol runs a test on each homeserver over each protocol.
func eachProtocol(t *testing.T, opts homeserver.Options, test func(*testing.T, *homeserver.Homeserver, protocol.Protocol)) {
	eachHomeserver(t, opts, func(t *testing.T, hs *homeserver.Homeserver) {
		for _, p := range protocol.All {
			t.Run(string(p), func(t *testing.T) { test(t, hs, p) })
		}
	})
}

// unlimited are the flags of a sidecar whose limits no test can meet.
var unlimited = []string{"--write-limit", "off", "--read-limit", "off"}

// proxy starts a sidecar for one test. Its log is shown if the test fails.
func proxy(t *testing.T, upstream string, args ...string) *sidecar.Sidecar {
	t.Helper()
	s, err := sidecar.StartProxy(t.Context(), upstream, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the sidecar's log:\n%s", s.Log())
		}
		s.Stop()
	})
	return s
}

// siteWith is the Caddyfile of a site in front of upstream, with options of
// matrix_presence.
func siteWith(options, upstream string) string {
	return fmt.Sprintf(`
{
	admin {$ADMIN}
	auto_https off
	servers {
		protocols {$PROTOCOLS}
	}
}
{$SITE} {
	bind 127.0.0.1
	{$TLS}
	matrix_presence {
		%s
	}
	reverse_proxy %s
}
`, options, upstream)
}

// site starts such a site for one test. Its log is shown if the test fails.
func site(t *testing.T, options, upstream string) *sidecar.Sidecar {
	t.Helper()
	return siteOver(t, protocol.HTTP1, upstream, options)
}

// siteOver is site for clients that speak a protocol.
func siteOver(t *testing.T, p protocol.Protocol, upstream string, options ...string) *sidecar.Sidecar {
	t.Helper()
	s, err := sidecar.StartCaddyfileOver(t.Context(), p, siteWith(strings.Join(options, "\n\t\t"), upstream))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the sidecar's log:\n%s", s.Log())
		}
		s.Stop()
	})
	return s
}

// unlimitedSite are the options of a site whose limits no test can meet.
var unlimitedSite = []string{"write_limit off", "read_limit off"}

// eventually polls until check says true. What is the sentence that it proves.
func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for !check() {
		select {
		case <-ctx.Done():
			t.Fatalf("never happened: %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
