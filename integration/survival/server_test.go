package survival_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/vitals"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

// server is a sidecar in front of a homeserver.
type server struct {
	*sidecar.Sidecar
	t  *testing.T
	hs *scripted.Homeserver
}

// newServer runs the binary in front of a homeserver. Options go into the
// matrix_presence block.
func newServer(t *testing.T, hs *scripted.Homeserver, options string) *server {
	t.Helper()
	return startServer(t, hs, caddyfile(hs, options))
}

// startServer runs the binary with a Caddyfile.
func startServer(t *testing.T, hs *scripted.Homeserver, caddyfile string) *server {
	t.Helper()
	return &server{suite.Sidecar(t)(sidecar.StartCaddyfile(t.Context(), caddyfile)), t, hs}
}

// newHomeserver starts a scripted homeserver for one test, whose statuses are versions.
func newHomeserver(t *testing.T, options scripted.Options) *scripted.Homeserver {
	t.Helper()
	options.Ordered = true
	hs := scripted.New(options)
	if err := hs.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hs.Cut)
	return hs
}

// idField is the request's name. The homeserver counts by the same.
const idField = scripted.Label

// caddyfile is the configuration with the options of a matrix_presence block. Each
// request is logged before its answer is complete, in one write of one line. The
// transport is that of Caddyfile.example: Caddy closes the idle connections of one that is
// configured when its configuration goes, and leaves those of the default one to time out.
func caddyfile(hs *scripted.Homeserver, options string) string {
	return fmt.Sprintf(`{
	admin {$ADMIN}
	persist_config off
	metrics
}
http://{$LISTEN} {
	bind 127.0.0.1
	log {
		output file {$DIR}/access.log {
			roll_disabled
		}
		format filter {
			request delete
			resp_headers delete
		}
	}
	log_append id {http.request.header.%s}
	matrix_presence {
		%s
	}
	reverse_proxy 127.0.0.1:%s {
		transport http {
			keepalive_idle_conns_per_host 256
		}
	}
}
`, idField, options, hs.Port())
}

// restart starts the process again after it has ended.
func (s *server) restart(options string) {
	s.t.Helper()
	if err := s.Start(s.t.Context(), caddyfile(s.hs, options)); err != nil {
		s.t.Fatal(err)
	}
}

// signal sends a signal.
func (s *server) signal(signal syscall.Signal) {
	s.t.Helper()
	if err := s.Signal(signal); err != nil {
		s.t.Fatal(err)
	}
}

// wait returns how the process ended.
func (s *server) wait() *os.ProcessState {
	s.t.Helper()
	suite.Eventually(s.t, "the sidecar ends", func() bool { return !s.Running() })
	return s.Ended()
}

// reload gives the server other options.
func (s *server) reload(options string) {
	s.t.Helper()
	if err := s.Reload(s.t.Context(), caddyfile(s.hs, options)); err != nil {
		s.t.Fatal(err)
	}
}

// vitals is what the server holds now.
func (s *server) vitals() vitals.Vitals {
	s.t.Helper()
	v, err := vitals.Read(s.t.Context(), s.Admin)
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

// liveHeap is what is left of the heap when its garbage has been collected.
func (s *server) liveHeap() int64 {
	s.t.Helper()
	n, err := vitals.LiveHeap(s.t.Context(), s.Admin)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// logged returns the status of each request in the access log, by its name.
func (s *server) logged() map[string]int {
	s.t.Helper()
	f, err := os.Open(filepath.Join(s.Dir, "access.log"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	statuses := make(map[string]int)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var entry struct {
			ID     string `json:"id"`
			Status int    `json:"status"`
		}
		if err := json.Unmarshal(lines.Bytes(), &entry); err != nil {
			s.t.Fatalf("reading the access log: %v: %s", err, lines.Text())
		}
		if entry.ID == "" {
			continue // the probe at the start
		}
		if before, twice := statuses[entry.ID]; twice {
			s.t.Errorf("request %s is in the access log twice, with %d and %d", entry.ID, before, entry.Status)
		}
		statuses[entry.ID] = entry.Status
	}
	return statuses
}

// refuses tells that nobody listens any more.
func (s *server) refuses() bool {
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err == nil {
		conn.Close()
	}
	return err != nil
}

// config is the server's configuration as Caddy tells it.
func (s *server) config() string {
	s.t.Helper()
	text, err := s.AskAdmin(s.t.Context(), http.MethodGet, "/config/", "")
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}
