package caddymodule

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

// serveAdmin serves the module's part of the admin endpoint, as Caddy does.
func serveAdmin(t *testing.T) (address string) {
	t.Helper()
	mux := http.NewServeMux()
	for _, route := range (adminAPI{}).Routes() {
		mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) {
			err := route.Handler.ServeHTTP(w, r)
			if failure := (caddy.APIError{}); errors.As(err, &failure) {
				w.WriteHeader(failure.HTTPStatus)
				_ = json.NewEncoder(w).Encode(map[string]string{"error": failure.Error()}) // to a test
			}
		})
	}
	return serveAt(t, mux)
}

func serveAt(t *testing.T, handler http.Handler) (address string) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// command runs a command, and returns what it printed.
func command(t *testing.T, name string, args ...string) (out string, err error) {
	t.Helper()
	cmd := new(cobra.Command)
	caddycmd.Commands()[name].CobraFunc(cmd)
	var b bytes.Buffer
	cmd.SetOut(&b)
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	err = cmd.RunE(cmd, cmd.Flags().Args())
	return b.String(), err
}

func wantSays(t *testing.T, out string, err error, wants ...string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range wants {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func TestHealthFailsByAnErrorSoThatTheExitCodeSaysIt(t *testing.T) {
	p := handle(t, new(Handler))
	out, err := command(t, "presence-health", "--address", serveAdmin(t))
	wantSays(t, out, err, "healthy: ", p.handler.Cache.Name)
	out, err = command(t, "presence-health", "--address", serveAdmin(t), "--json")
	wantSays(t, out, err, `{"healthy":true,"caches":["`+p.handler.Cache.Name+`"]}`)
	for says, address := range map[string]string{
		"doesn't have matrix_presence, or an older version": serveAt(t, http.NotFoundHandler()),
		"no Caddy answers at 127.0.0.1:1":                   "127.0.0.1:1",
		"no site with matrix_presence": serveAt(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"caches":[]}`)) // to a test
		})),
		"reading the answer": serveAt(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`<html>`)) // to a test
		})),
	} {
		for _, args := range [][]string{nil, {"--json"}} {
			out, err := command(t, "presence-health", append(args, "--address", address)...)
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v", address, err)
			}
			if args != nil && !strings.Contains(out, `"healthy":false,"problem":"`) {
				t.Errorf("%s: %s", address, out)
			}
		}
	}
}

// A probe must not hang as the one that it asks does.
func TestTheAdminEndpointIsNotWaitedForForever(t *testing.T) {
	release := make(chan struct{})
	address := serveAt(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	client := &adminClient{address, time.Millisecond}
	err := client.ask("status", nil, nil)
	close(release)
	if err == nil || !strings.Contains(err.Error(), "doesn't answer within 1ms") {
		t.Error(err)
	}
}

func TestTopShowsTheStatus(t *testing.T) {
	p := handle(t, &Handler{WriteLimit: &Limit{Events: 1, Window: caddy.Duration(time.Hour)}})
	for range 3 {
		p.Put("alice-token", alice, `{"presence":"online"}`)
	}
	address := serveAdmin(t)
	out, err := command(t, "presence-top", "--once", "--address", address)
	wantSays(t, out, err, p.handler.Cache.Name, "Key figures", `requests_total{route="write"}`, "limited")
	if strings.Contains(out, alice) || strings.Contains(out, "\x1b") {
		t.Errorf("it shows a user, or is for a terminal: %q", out)
	}
	out, err = command(t, "presence-top", "--once", "--users", "--address", address)
	wantSays(t, out, err, alice)
	out, err = command(t, "presence-top", "--once", "--json", "--address", address)
	wantSays(t, out, err, `"saved_total":2`)
	if _, err := command(t, "presence-top", "--once", "--address", "127.0.0.1:1"); err == nil {
		t.Error("nobody answers, and that is no error")
	}
}

// Caddy restarts while somebody watches, or a program reads: each line of its input stays JSON.
func TestTopGoesOnWhileCaddyRestarts(t *testing.T) {
	handle(t, new(Handler))
	var out, problems bytes.Buffer
	watch := &top{client: &adminClient{"127.0.0.1:1", adminTimeout}, out: &out, problems: &problems, asJSON: true}
	for _, address := range []string{serveAdmin(t), "127.0.0.1:1", serveAdmin(t)} {
		watch.client.address = address
		if err := watch.again(); err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	for _, line := range lines {
		if !json.Valid([]byte(line)) {
			t.Errorf("no JSON: %s", line)
		}
	}
	if len(lines) != 2 || strings.Count(problems.String(), "no Caddy answers") != 1 {
		t.Errorf("%d lines, and the problems %q", len(lines), &problems)
	}
}

func TestTopFitsTheScreen(t *testing.T) {
	text := strings.Repeat("line\n", 40)
	for height, lines := range map[int]int{0: 40, 24: 23, 40: 39, 41: 40, 100: 40} {
		screen := onScreen(text, height)
		if n := strings.Count(screen, "\n"); n != lines || !strings.HasPrefix(screen, "\x1b[H") || !strings.HasSuffix(screen, "\x1b[J") {
			t.Errorf("%d lines on a screen of %d, want %d", n, height, lines)
		}
		if (lines < 40) != strings.Contains(screen, "… and more") {
			t.Errorf("a screen of %d doesn't say what is left out", height)
		}
	}
}

func TestUserIsLookedUpResetAndForgotten(t *testing.T) {
	p := handle(t, &Handler{
		WriteLimit: &Limit{Events: 1, Window: caddy.Duration(time.Hour)}, SyncPresence: "limit", Homeserver: "synapse",
		Cache: &Cache{Settle: new(caddy.Duration(time.Hour))},
	})
	address, name := serveAdmin(t), p.handler.Cache.Name
	for range 2 {
		p.Put("alice-token", alice, `{"presence":"online"}`)
	}
	p.Do(request("GET", "/_matrix/client/v3/sync?set_presence=unavailable", "alice-token", ""))
	args := []string{alice, "--cache", name, "--address", address}
	out, err := command(t, "presence-user", args...)
	wantSays(t, out, err, alice+" in "+name, "0 of 1 left, one more each 1h0m0s, the next in", "1 known", "a write is under way, waits or settles",
		"asked for unavailable", "writes       0 wait")
	out, err = command(t, "presence-user", append(args, "--reset")...)
	wantSays(t, out, err, "write limit  1 of 1 left, one more each 1h0m0s\n", "1 known")
	out, err = command(t, "presence-user", append(args, "--forget")...)
	wantSays(t, out, err, "0 known")
	out, err = command(t, "presence-user", append(args, "--json")...)
	wantSays(t, out, err, `[{"cache":"`+name+`","user_id":"`+alice+`"`)

	for says, args := range map[string][]string{
		"expected one user ID":       {"--address", address},
		"expected one user ID, such": {alice, bob, "--address", address},
		`not "alice"`:                {"alice", "--address", address},
		`there is no cache "x", but`: {alice, "--cache", "x", "--address", address},
	} {
		if _, err := command(t, "presence-user", args...); err == nil || !strings.HasPrefix(err.Error(), "expected") && !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", args, err, says)
		}
	}
}

func TestUserSaysWhatIsKept(t *testing.T) {
	p := handle(t, &Handler{Exempt: []string{alice}})
	p.HS.Presence[alice] = `{"presence":"busy","status_msg":"\u001b[31mred","last_active_ago":1}`
	p.Get("bob-token", alice)
	out, err := command(t, "presence-user", alice, "--cache", p.handler.Cache.Name, "--address", serveAdmin(t))
	wantSays(t, out, err, `busy "\x1b[31mred", kept for`, ", fresh for ", "is seen by 1", "limits       none")
}

func TestPurgeIsOfAUserOrOfAll(t *testing.T) {
	p := handle(t, new(Handler))
	address, name := serveAdmin(t), p.handler.Cache.Name
	for _, whom := range []string{alice, "--all"} {
		p.Get("bob-token", alice)
		p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; hit")
		out, err := command(t, "presence-purge", whom, "--cache", name, "--address", address)
		wantSays(t, out, err, "purged: "+name)
		p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; fwd=miss")
	}
	out, err := command(t, "presence-purge", alice, "--json", "--cache", name, "--address", address)
	wantSays(t, out, err, `{"caches":["`+name+`"]}`)
	for _, args := range [][]string{nil, {alice, "--all"}, {alice, bob}} {
		if _, err := command(t, "presence-purge", append(args, "--address", address)...); err == nil || !strings.Contains(err.Error(), "either one user ID") {
			t.Errorf("%q: %v", args, err)
		}
	}
}
