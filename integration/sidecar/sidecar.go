package sidecar

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"

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

	process *process.Process
	dir     string
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
// points to, for the site, and {$ADMIN} is another free one, for the admin
// endpoint of a test that reloads:
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
	s := &Sidecar{URL: p.URL(listen), Admin: admin, dir: dir}
	if err := s.run(ctx, p, binary, listen, caddyfile, args); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

func (s *Sidecar) run(ctx context.Context, p protocol.Protocol, binary, listen, caddyfile string, args []string) error {
	if err := os.WriteFile(filepath.Join(s.dir, "Caddyfile"), []byte(caddyfile), 0o600); err != nil {
		return fmt.Errorf("writing the Caddyfile: %w", err)
	}
	cmd := exec.Command(binary, args...)
	cmd.Dir = s.dir
	// Caddy keeps its last configuration and its certificates in the user's
	// folders; a test must neither find nor leave any.
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+s.dir, "XDG_DATA_HOME="+s.dir,
		"LISTEN="+listen, "ADMIN="+s.Admin, "SITE="+p.Site(listen), "PROTOCOLS="+p.Served())
	if p.TLS() {
		cert, key, err := protocol.WriteCertificate(s.dir)
		if err != nil {
			return err
		}
		cmd.Env = append(cmd.Env, fmt.Sprintf("TLS=tls %q %q", cert, key))
	}
	if p.Major() == 2 {
		// Without it, Go's server takes no WebSocket over HTTP/2.
		cmd.Env = append(cmd.Env, "GODEBUG=http2xconnect=1")
	}
	var err error
	s.process, err = process.Start("the sidecar", cmd, filepath.Join(s.dir, "sidecar.log"))
	if err != nil {
		return err
	}
	// Not a presence path: nothing is to be in the sidecar's memory yet.
	return s.process.Ready(ctx, s.URL+"/_matrix/client/versions")
}

// Reload gives the sidecar another Caddyfile, by its admin endpoint. An error
// holds what Caddy said against it.
func (s *Sidecar) Reload(ctx context.Context, caddyfile string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.Admin+"/load", bytes.NewBufferString(caddyfile))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "text/caddyfile")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("reloading the sidecar: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("reloading the sidecar: %s: %s", resp.Status, bytes.TrimSpace(text))
	}
	// The old server closes its idle connections about now, and a write that was sent
	// on one is not sent again.
	http.DefaultClient.CloseIdleConnections()
	return nil
}

// Log returns all that the sidecar has logged.
func (s *Sidecar) Log() string {
	text, err := os.ReadFile(s.process.Log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Exited is closed when the sidecar is gone, for whatever reason.
func (s *Sidecar) Exited() <-chan struct{} { return s.process.Exited() }

// Stop ends the sidecar and removes what it wrote.
func (s *Sidecar) Stop() {
	protocol.Close() // first: a server of HTTP/2 waits a second for connections to end
	if s.process != nil {
		s.process.Stop()
	}
	os.RemoveAll(s.dir)
}
