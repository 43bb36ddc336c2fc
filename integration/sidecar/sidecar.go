package sidecar

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/process"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/protocol"
)

// Sidecar is a running caddy-presence. Stop it.
type Sidecar struct {
	// URL is where it serves, "http://127.0.0.1:port". The scheme is another protocol's
	// if it has been started for that.
	URL string
	// Admin is the address that a Caddyfile may give to Caddy's admin endpoint.
	Admin string
	// Dir is a folder of its own, which is removed in the end.
	Dir string

	process *process.Process
	command func(caddyfile string) (*exec.Cmd, error)
	starts  int
}

// StartProxy runs the presence-proxy command in front of upstream, on a port
// that the kernel picks. Args are further flags.
func StartProxy(ctx context.Context, upstream string, args ...string) (*Sidecar, error) {
	return process.Retry(func() (*Sidecar, error) {
		addrs, err := process.FreeAddresses(2)
		if err != nil {
			return nil, err
		}
		return start(ctx, protocol.HTTP1, addrs[0], addrs[1], "", proxyArgs(addrs[0], upstream, args)...)
	})
}

// StartProxyOn is StartProxy on an address of the caller's.
func StartProxyOn(ctx context.Context, listen, upstream string, args ...string) (*Sidecar, error) {
	return start(ctx, protocol.HTTP1, listen, "", "", proxyArgs(listen, upstream, args)...)
}

func proxyArgs(listen, upstream string, args []string) []string {
	return append([]string{"presence-proxy", "--from", listen, "--to", upstream}, args...)
}

// StartCaddyfile runs a Caddyfile. In it, {$LISTEN} is the address that URL
// points to, for the site, {$ADMIN} is another free one, for the admin endpoint of a
// test that reloads, and {$DIR} is Dir:
//
//	{
//		admin {$ADMIN}
//	}
//	http://{$LISTEN} {
//		bind 127.0.0.1
//		matrix_presence
//		reverse_proxy 127.0.0.1:8008
//	}
func StartCaddyfile(ctx context.Context, caddyfile string) (*Sidecar, error) {
	return StartCaddyfileOver(ctx, protocol.HTTP1, caddyfile)
}

// StartCaddyfileOver is StartCaddyfile for a site whose clients speak a protocol, which is
// the scheme of URL. In the Caddyfile, {$SITE} is the site's address, {$TLS} its directive
// "tls" if it needs one, and {$PROTOCOLS} are the words after the server option
// "protocols":
//
//	{
//		auto_https off
//		servers {
//			protocols {$PROTOCOLS}
//		}
//	}
//	{$SITE} {
//		bind 127.0.0.1
//		{$TLS}
//		matrix_presence
//		reverse_proxy 127.0.0.1:8008
//	}
func StartCaddyfileOver(ctx context.Context, p protocol.Protocol, caddyfile string) (*Sidecar, error) {
	return process.Retry(func() (*Sidecar, error) {
		addrs, err := process.FreeAddresses(2)
		if err != nil {
			return nil, err
		}
		return start(ctx, p, addrs[0], addrs[1], caddyfile, "run", "--config", "Caddyfile", "--adapter", "caddyfile")
	})
}

func start(ctx context.Context, p protocol.Protocol, listen, admin, caddyfile string, args ...string) (*Sidecar, error) {
	protocol.Register()
	binary, err := Build(nil)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "presence-sidecar-")
	if err != nil {
		return nil, fmt.Errorf("making a folder for the sidecar: %w", err)
	}
	s := &Sidecar{URL: p.URL(listen), Admin: admin, Dir: dir}
	s.command = func(caddyfile string) (*exec.Cmd, error) { return s.with(p, binary, listen, caddyfile, args) }
	if err := s.Start(ctx, caddyfile); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// with is the command that runs a Caddyfile.
func (s *Sidecar) with(p protocol.Protocol, binary, listen, caddyfile string, args []string) (*exec.Cmd, error) {
	if err := os.WriteFile(filepath.Join(s.Dir, "Caddyfile"), []byte(caddyfile), 0o600); err != nil {
		return nil, fmt.Errorf("writing the Caddyfile: %w", err)
	}
	cmd := exec.Command(binary, args...)
	cmd.Dir = s.Dir
	// Caddy keeps its last configuration and its certificates in the user's
	// folders; a test must neither find nor leave any.
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+s.Dir, "XDG_DATA_HOME="+s.Dir, "DIR="+s.Dir,
		"LISTEN="+listen, "ADMIN="+s.Admin, "SITE="+p.Site(listen), "PROTOCOLS="+p.Served())
	if p.TLS() {
		cert, key, err := protocol.WriteCertificate(s.Dir)
		if err != nil {
			return nil, err
		}
		cmd.Env = append(cmd.Env, fmt.Sprintf("TLS=tls %q %q", cert, key))
	}
	if p.Major() == 2 {
		// Without it, Go's server takes no WebSocket over HTTP/2.
		cmd.Env = append(cmd.Env, "GODEBUG=http2xconnect=1")
	}
	return cmd, nil
}

// Start starts the sidecar again after it has ended, at the same addresses.
func (s *Sidecar) Start(ctx context.Context, caddyfile string) error {
	cmd, err := s.command(caddyfile)
	if err != nil {
		return err
	}
	s.starts++
	s.process, err = process.Start("the sidecar", cmd, filepath.Join(s.Dir, fmt.Sprintf("sidecar-%d.log", s.starts)))
	if err != nil {
		return err
	}
	// Not a presence path: nothing is to be in the sidecar's memory yet.
	return s.process.Ready(ctx, s.URL+"/_matrix/client/versions")
}

// Reload gives the sidecar another Caddyfile, by its admin endpoint, as `caddy reload --force`
// does. An error holds what Caddy said against it.
func (s *Sidecar) Reload(ctx context.Context, caddyfile string) error {
	if _, err := s.AskAdmin(ctx, http.MethodPost, "/load", caddyfile); err != nil {
		return fmt.Errorf("reloading the sidecar: %w", err)
	}
	return nil
}

// fresh makes a connection for each request: one that idles would be counted by who looks for
// what is left.
var fresh = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// AskAdmin asks Caddy's admin endpoint, again if there is no answer: it is replaced by a reload
// as the site is. The body is a Caddyfile for /load, and JSON for all else. Any other status
// than 200 is an error. What changes the configuration, or fails to, has ended when it returns:
// requests by http.DefaultClient reach the server that goes on.
func (s *Sidecar) AskAdmin(ctx context.Context, method, path, body string) (answer []byte, err error) {
	if method != http.MethodGet {
		defer func() {
			_, listen, _ := strings.Cut(s.URL, "://")
			err = cmp.Or(err, process.OneListener(ctx, listen))
			// The old server closes its idle connections about now, and a write that was sent
			// on one is not sent again.
			http.DefaultClient.CloseIdleConnections()
		}()
	}
	contentType := "application/json"
	if path == "/load" {
		contentType = "text/caddyfile"
	}
	for range 5 {
		var req *http.Request
		if req, err = http.NewRequestWithContext(ctx, method, "http://"+s.Admin+path, strings.NewReader(body)); err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", contentType)
		req.Header.Set("Cache-Control", "must-revalidate")
		var resp *http.Response
		if resp, err = fresh.Do(req); err != nil {
			continue
		}
		defer resp.Body.Close()
		if answer, err = io.ReadAll(resp.Body); err == nil && resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(answer))
		}
		return answer, err
	}
	return nil, err
}

// Log returns all that the sidecar has logged since it was last started.
func (s *Sidecar) Log() string {
	text, err := os.ReadFile(s.process.Log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Tail returns the last n lines of its log.
func (s *Sidecar) Tail(n int) string { return process.Tail(s.process.Log, n) }

// PID is the number of its process.
func (s *Sidecar) PID() int { return s.process.PID() }

// Signal sends its process a signal, and nothing else.
func (s *Sidecar) Signal(signal os.Signal) error { return s.process.Signal(signal) }

// Exited is closed when the sidecar is gone, for whatever reason.
func (s *Sidecar) Exited() <-chan struct{} { return s.process.Exited() }

// Running tells whether the process is there.
func (s *Sidecar) Running() bool {
	select {
	case <-s.Exited():
		return false
	default:
		return true
	}
}

// Ended is how the process ended, once it has.
func (s *Sidecar) Ended() *os.ProcessState { return s.process.Ended() }

// End ends the sidecar, if it is still there.
func (s *Sidecar) End() {
	if s.process != nil && s.Running() {
		s.process.Stop()
	}
}

// Stop ends the sidecar and removes what it wrote.
func (s *Sidecar) Stop() {
	protocol.Close() // first: a server of HTTP/2 waits a second for connections to end
	s.End()
	os.RemoveAll(s.Dir)
}
