package admin

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/scripted"
)

// serveHomeserver starts a scripted homeserver.
func serveHomeserver(t *testing.T) (hs *scripted.Homeserver, url string) {
	t.Helper()
	hs = scripted.New()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { hs.ServeHTTP(w, r) }))
	t.Cleanup(server.Close)
	return hs, server.URL
}

// caddyfile has a site with the module, named matrix.example.com, and the admin endpoint on.
func caddyfile(upstream, global, options, sites string) string {
	return `{
	admin {$ADMIN}
	` + global + `
}
http://{$LISTEN} {
	bind 127.0.0.1
	matrix_presence {
		` + options + `
		cache {
			name matrix.example.com
		}
	}
	reverse_proxy ` + upstream + `
}
` + sites
}

// put writes alice's presence, and returns the status.
func put(t *testing.T, s *sidecar.Sidecar, token, user string) int {
	t.Helper()
	return do(t, s, "PUT", "/_matrix/client/v3/presence/"+user+"/status", token, `{"presence":"online"}`)
}

func get(t *testing.T, s *sidecar.Sidecar, token, user string) int {
	t.Helper()
	return do(t, s, "GET", "/_matrix/client/v3/presence/"+user+"/status", token, "")
}

func do(t *testing.T, s *sidecar.Sidecar, method, path, token, body string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// run runs the program, and returns what it says and its exit code.
func run(t *testing.T, args ...string) (out, problem string, code int) {
	t.Helper()
	out, problem, code, err := sidecar.Command(t.Context(), t.TempDir(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out, problem, code
}

// An admin finds who floods, looks that user up, and has their budget filled again. No user ID
// gets into the log on the way.
func TestAnAdminFindsWhoFloodsAndResetsThem(t *testing.T) {
	_, upstream := serveHomeserver(t)
	s := suite.Sidecar(t)(sidecar.StartCaddyfile(t.Context(), caddyfile(upstream, "", "write_limit 1/1h", "")))
	for range 3 {
		put(t, s, "alice-token", scripted.Alice)
	}
	// With the configuration in place of the address, as the documentation says.
	config := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(config, []byte("{\n\tadmin "+s.Admin+"\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		args []string
		says string
	}{
		{[]string{"presence-health"}, "healthy: matrix.example.com"},
		{[]string{"presence-top", "--once", "--users"}, scripted.Alice},
		{[]string{"presence-user", scripted.Alice}, "0 of 1 left"},
		{[]string{"presence-user", scripted.Alice, "--reset"}, "1 of 1 left"},
		{[]string{"presence-purge", "--all"}, "purged: matrix.example.com"},
	} {
		out, problem, code := run(t, append(step.args, "--config", config, "--adapter", "caddyfile")...)
		if code != 0 || !strings.Contains(out, step.says) {
			t.Errorf("%q: exit code %d, %s%s, want %q", step.args, code, out, problem, step.says)
		}
	}
	if status := put(t, s, "alice-token", scripted.Alice); status != 200 {
		t.Errorf("after the reset: %d", status)
	}
	if log := s.Log(); !strings.Contains(log, "/matrix_presence/reset") || strings.Contains(log, scripted.Alice) {
		t.Errorf("the log names the user, or not what was asked:\n%s", log)
	}
}

// Probes go by the exit code.
func TestHealthSaysByItsExitCodeHowItIs(t *testing.T) {
	_, upstream := serveHomeserver(t)
	with := suite.Sidecar(t)(sidecar.StartCaddyfile(t.Context(), caddyfile(upstream, "", "", "")))
	without := suite.Sidecar(t)(sidecar.StartCaddyfile(t.Context(), "{\n\tadmin {$ADMIN}\n}\nhttp://{$LISTEN} {\n\tbind 127.0.0.1\n\trespond hello\n}\n"))
	other := httptest.NewServer(http.NotFoundHandler()) // as a Caddy without the module
	t.Cleanup(other.Close)
	if out, problem, code := run(t, "presence-purge", "--all", "--address", without.Admin); code != 1 || !strings.Contains(problem, "no site with matrix_presence") {
		t.Errorf("a purge of nothing: exit code %d, %s%s", code, out, problem)
	}
	for _, test := range []struct {
		address, says string
		code          int
	}{
		{with.Admin, "healthy", 0},
		{without.Admin, "no site with matrix_presence", 1},
		{other.Listener.Addr().String(), "doesn't have matrix_presence", 1},
		{"127.0.0.1:1", "no Caddy answers", 1},
	} {
		out, problem, code := run(t, "presence-health", "--address", test.address)
		if code != test.code || !strings.Contains(out+problem, test.says) {
			t.Errorf("%s: exit code %d, %s%s, want %d and %q", test.address, code, out, problem, test.code, test.says)
		}
	}
}

// Caddy's package has the man pages of Caddy. Ours have another name, and so have completions.
func TestManPagesAndCompletionsHaveTheProgramsName(t *testing.T) {
	dir := t.TempDir()
	if _, problem, code := run(t, "manpage", "--directory", dir); code != 0 {
		t.Fatal(problem)
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	for _, page := range pages {
		name, ok := strings.CutPrefix(filepath.Base(page), "caddy-presence")
		if !ok {
			t.Errorf("%s has another program's name", page)
		}
		commands = append(commands, strings.TrimPrefix(strings.TrimSuffix(name, ".8"), "-"))
	}
	for _, command := range []string{"presence-proxy", "presence-top", "presence-health", "presence-user", "presence-purge", "presence-check", "presence-plan"} {
		if !slices.Contains(commands, command) {
			t.Errorf("%s has no man page", command)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if out, problem, code := run(t, "completion", shell); code != 0 || !strings.Contains(out, "completion for caddy-presence") {
			t.Errorf("%s: %d %s", shell, code, problem)
		}
	}
}
