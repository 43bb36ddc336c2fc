package deploy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/debian"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/process"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/scripted"
)

// world is a homeserver with the built binary in front of it, started as nginx's page says.
type world struct {
	hs                   *scripted.Homeserver
	homeserver, presence string // their addresses
}

func newWorld(t *testing.T) world {
	t.Helper()
	hs := scripted.New()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { hs.ServeHTTP(w, r) }))
	t.Cleanup(server.Close)

	command := blocks(t, "nginx.md", "sh")[0]
	command = replace(t, strings.TrimSpace(command), "caddy-presence presence-proxy --from 127.0.0.1:8009 --to http://localhost:8008", "")
	s := suite.Sidecar(t)(sidecar.StartProxy(t.Context(), server.URL, strings.Fields(command)...))
	return world{hs, strings.TrimPrefix(server.URL, "http://"), strings.TrimPrefix(s.URL, "http://")}
}

// program returns a command of a program of Debian's.
func program(t *testing.T, name string, packages ...string) func(args ...string) *exec.Cmd {
	t.Helper()
	// Not the test's context: the servers are stopped in its cleanup.
	command, err := debian.Command(context.Background(), os.Stderr, name, packages...)
	if errors.Is(err, debian.ErrUnavailable) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return command
}

// start writes a configuration and starts a server with it, on a free port. The
// configuration gets the port's address.
func start(t *testing.T, name string, config func(listen string) string, command func(file string) *exec.Cmd) string {
	t.Helper()
	dir := t.TempDir()
	type running struct {
		*process.Process
		url string
	}
	front, err := process.Retry(func() (running, error) {
		addresses, err := process.FreeAddresses(1)
		if err != nil {
			return running{}, err
		}
		file := filepath.Join(dir, "configuration")
		if err := os.WriteFile(file, []byte(config(addresses[0])), 0o644); err != nil {
			return running{}, err
		}
		p, err := process.Start(name, command(file), filepath.Join(dir, "log"))
		if err != nil {
			return running{}, err
		}
		url := "http://" + addresses[0]
		if err := p.Ready(t.Context(), url); err != nil {
			p.Stop()
			return running{}, err
		}
		return running{p, url}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(front.Stop)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return front.url
}

func TestNginxInFront(t *testing.T) {
	command := program(t, "nginx", "nginx", "libpcre2-8-0", "libssl3", "zlib1g", "libcrypt1")
	w := newWorld(t)
	location := replace(t, blocks(t, "nginx.md", "nginx")[0], "127.0.0.1:8009", w.presence)
	dir := t.TempDir()
	user := ""
	if os.Getuid() == 0 {
		user = "user root;" // its folders are ours
	}
	url := start(t, "nginx", func(listen string) string {
		return fmt.Sprintf(`daemon off; %s error_log stderr; pid %[2]s/pid; events {}
http {
	access_log off;
	client_body_temp_path %[2]s/body; proxy_temp_path %[2]s/proxy; fastcgi_temp_path %[2]s/fastcgi;
	uwsgi_temp_path %[2]s/uwsgi; scgi_temp_path %[2]s/scgi;
	server {
		listen %[3]s;
		%[4]s
		location /_matrix { proxy_pass http://%[5]s; }
	}
}`, user, dir, listen, location, w.homeserver)
	}, func(file string) *exec.Cmd { return command("-c", file, "-p", dir) })
	w.try(t, url)
}

// haproxy returns a command of HAProxy's.
func haproxy(t *testing.T) func(args ...string) *exec.Cmd {
	t.Helper()
	return program(t, "haproxy", "haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1", "libpcre2-8-0",
		"libssl3", "libsystemd0")
}

func TestHAProxyInFront(t *testing.T) {
	command := haproxy(t)
	w := newWorld(t)
	parts := blocks(t, "haproxy.md", "haproxy")
	backend := replace(t, parts[1], "127.0.0.1:8009", w.presence)
	url := start(t, "haproxy", func(listen string) string {
		return fmt.Sprintf(`defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend matrix
    bind %s
    %s
    default_backend homeserver
backend homeserver
    server homeserver %s
%s`, listen, strings.ReplaceAll(parts[0], "\n", "\n    "), w.homeserver, backend)
	}, func(file string) *exec.Cmd { return command("-db", "-f", file) })
	w.try(t, url)
}

// client sends from another address than the servers', so that it can be told apart.
const client = "127.0.0.7"

// try sends what clients send to a server in front.
func (w world) try(t *testing.T, url string) {
	t.Helper()
	transport := &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(client)}}).DialContext}
	defer transport.CloseIdleConnections()
	send := func(method, path string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer bob-token")
		req.Header.Set("X-Forwarded-For", "203.0.113.9") // a client's lie
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp
	}

	// As the page says: read a presence twice. Its path arrives as it came.
	for _, want := range []string{"matrix_presence; fwd=miss; stored", "matrix_presence; hit"} {
		resp := send(http.MethodGet, "/_matrix/client/v3/presence/%40alice%3Aexample.com/status")
		if status := resp.Header.Get("Cache-Status"); resp.StatusCode != http.StatusOK || !strings.HasPrefix(status, want) {
			t.Errorf("%d with Cache-Status %q, want %q", resp.StatusCode, status, want)
		}
	}
	if forwarded := w.forwardedFor(); !strings.Contains(forwarded, client) {
		t.Errorf("the homeserver hears of the client %q", forwarded)
	}

	// Caddy names itself in Via, so it says by which way an answer came.
	for _, path := range routed {
		if resp := send(http.MethodPost, path); !strings.Contains(resp.Header.Get("Via"), "Caddy") && resp.Header.Get("Server") != "Caddy" {
			t.Errorf("%s didn't pass caddy-presence: %v", path, resp.Header)
		}
	}
	for _, path := range notRouted {
		if resp := send(http.MethodGet, path); strings.Contains(resp.Header.Get("Via"), "Caddy") {
			t.Errorf("%s passed caddy-presence", path)
		}
	}
}

// forwardedFor is what the homeserver has last heard about who the client is.
func (w world) forwardedFor() string {
	w.hs.Mu.Lock()
	defer w.hs.Mu.Unlock()
	return strings.Join(w.hs.Seen[len(w.hs.Seen)-1].Header.Values("X-Forwarded-For"), ", ")
}
