package survival_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/process"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/survival/scripted"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/survival/vitals"
)

// server is the built binary, which a test may signal, and start again at the same
// addresses. The sidecar package keeps its process to itself.
type server struct {
	t      *testing.T
	url    string
	admin  string
	dir    string
	starts int
	hs     *scripted.Homeserver

	cmd     *exec.Cmd
	process *process.Process
}

// newServer runs the binary in front of a homeserver. Options go into the
// matrix_presence block.
func newServer(t *testing.T, hs *scripted.Homeserver, options string) *server {
	t.Helper()
	return startServer(t, hs, func(s *server) string { return s.caddyfile(options) })
}

// startServer runs the binary with a Caddyfile, which is made for its addresses.
func startServer(t *testing.T, hs *scripted.Homeserver, caddyfile func(*server) string) *server {
	t.Helper()
	s := &server{t: t, dir: t.TempDir(), hs: hs}
	_, err := process.Retry(func() (struct{}, error) {
		addrs, err := process.FreeAddresses(2)
		if err != nil {
			return struct{}{}, err
		}
		s.url, s.admin = "http://"+addrs[0], addrs[1]
		return struct{}{}, s.start(caddyfile(s))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the sidecar's log:\n%s", process.Tail(s.process.Log, 30))
		}
		if s.running() {
			s.process.Stop()
		}
	})
	return s
}

// newHomeserver starts a scripted homeserver for one test.
func newHomeserver(t *testing.T, options scripted.Options) *scripted.Homeserver {
	t.Helper()
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
func (s *server) caddyfile(options string) string {
	return fmt.Sprintf(`{
	admin %s
	persist_config off
	metrics
}
%s {
	bind 127.0.0.1
	log {
		output file %s {
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
`, s.admin, s.url, s.accessLog(), idField, options, s.hs.Port())
}

func (s *server) accessLog() string { return filepath.Join(s.dir, "access.log") }

// start starts the process, and returns when it serves.
func (s *server) start(caddyfile string) error {
	binary, err := sidecar.Build(nil)
	if err != nil {
		return err
	}
	s.starts++
	file := filepath.Join(s.dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(caddyfile), 0o600); err != nil {
		return err
	}
	s.cmd = exec.Command(binary, "run", "--config", file, "--adapter", "caddyfile")
	s.cmd.Dir = s.dir
	s.cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+s.dir, "XDG_DATA_HOME="+s.dir)
	s.process, err = process.Start("the sidecar", s.cmd, filepath.Join(s.dir, fmt.Sprintf("sidecar-%d.log", s.starts)))
	if err != nil {
		return err
	}
	return s.process.Ready(s.t.Context(), s.url+"/_matrix/client/versions")
}

// restart starts the process again after it has ended.
func (s *server) restart(options string) {
	s.t.Helper()
	if err := s.start(s.caddyfile(options)); err != nil {
		s.t.Fatal(err)
	}
}

// signal sends a signal.
func (s *server) signal(signal syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(signal); err != nil {
		s.t.Fatal(err)
	}
}

// running tells whether the process is there.
func (s *server) running() bool {
	select {
	case <-s.process.Exited():
		return false
	default:
		return true
	}
}

// wait returns how the process ended.
func (s *server) wait() *os.ProcessState {
	s.t.Helper()
	select {
	case <-s.process.Exited():
		return s.cmd.ProcessState
	case <-time.After(time.Minute):
		s.t.Fatal("the sidecar doesn't end")
		return nil
	}
}

// load gives the server another configuration, as `caddy reload --force` does.
func (s *server) load(caddyfile string) error {
	resp, err := s.askAdmin(http.MethodPost, "/load", caddyfile)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(text))
	}
	return nil
}

// askAdmin asks the admin endpoint, again if there is no answer: it is replaced by a reload
// as the site is.
func (s *server) askAdmin(method, path, body string) (resp *http.Response, err error) {
	for range 5 {
		var req *http.Request
		if req, err = http.NewRequestWithContext(s.t.Context(), method, "http://"+s.admin+path, strings.NewReader(body)); err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", "text/caddyfile")
		req.Header.Set("Cache-Control", "must-revalidate")
		if resp, err = fresh.Do(req); err == nil {
			return resp, nil
		}
	}
	return nil, err
}

// reload gives the server other options.
func (s *server) reload(options string) {
	s.t.Helper()
	if err := s.load(s.caddyfile(options)); err != nil {
		s.t.Fatalf("reloading: %v", err)
	}
}

// vitals is what the server holds now.
func (s *server) vitals() vitals.Vitals {
	s.t.Helper()
	v, err := vitals.Read(s.t.Context(), s.admin)
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

// liveHeap is what is left of the heap when its garbage has been collected.
func (s *server) liveHeap() int64 {
	s.t.Helper()
	n, err := vitals.LiveHeap(s.t.Context(), s.admin)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// logged returns the status of each request in the access log, by its name.
func (s *server) logged() map[string]int {
	s.t.Helper()
	f, err := os.Open(s.accessLog())
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
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err == nil {
		conn.Close()
	}
	return err != nil
}

// eventually polls until check says true. What is the sentence that it proves.
func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !check() {
		select {
		case <-ctx.Done():
			t.Fatalf("never happened: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
