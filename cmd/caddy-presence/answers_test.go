package main

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/scripted"
)

// jsonAnswers are the members of what an instance that has been in use answers in JSON, each with its path
// and its type.
func jsonAnswers(t *testing.T) []string {
	t.Helper()
	hs := scripted.New()
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { hs.ServeHTTP(w, r) }))
	defer upstream.Close()
	client := startInstance(t, "read_limit 1/1h burst 2\nsync_presence limit\nsync_limit 6/1m", strings.TrimPrefix(upstream.URL, "http://"))
	defer stopInstance(client)
	send := func(method, path, body string) {
		t.Helper()
		r := scripted.Request(method, "http://localhost"+path, "alice-token", body)
		r.RequestURI = ""
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	send(http.MethodPut, scripted.StatusPath(scripted.Alice), `{"presence":"online"}`)
	send(http.MethodGet, "/_matrix/client/v3/sync?since=s1&set_presence=unavailable", "")
	for range 3 {
		send(http.MethodGet, scripted.StatusPath(scripted.Alice), "")
	}
	admin := httptest.NewServer(adminRoutes(t))
	defer admin.Close()
	return slices.Concat(adminAnswers(t, admin), commandAnswers(t, strings.TrimPrefix(admin.URL, "http://")))
}

// adminRoutes serves this repository's part of the admin endpoint, as Caddy does.
func adminRoutes(t *testing.T) *http.ServeMux {
	t.Helper()
	mux := http.NewServeMux()
	for _, id := range ours() {
		info, err := caddy.GetModule(id)
		if err != nil {
			t.Fatal(err)
		}
		router, ok := info.New().(caddy.AdminRouter)
		if !ok {
			continue
		}
		for _, route := range router.Routes() {
			mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) {
				if err := route.Handler.ServeHTTP(w, r); err != nil {
					http.Error(w, err.Error(), http.StatusInternalServerError)
				}
			})
		}
	}
	return mux
}

// adminAnswers are those of the admin endpoint.
func adminAnswers(t *testing.T, admin *httptest.Server) (lines []string) {
	t.Helper()
	user := `{"user_id":"` + scripted.Alice + `","cache":"interface"}`
	for _, ask := range []struct{ method, path, question string }{
		{http.MethodGet, "status", ""},
		{http.MethodGet, "limited_users", ""},
		{http.MethodPost, "users", user},
		{http.MethodPost, "reset", user},
		{http.MethodPost, "forget", user},
		{http.MethodPost, "purge", `{"all":true,"cache":"interface"}`},
	} {
		r, err := http.NewRequestWithContext(t.Context(), ask.method, admin.URL+"/matrix_presence/"+ask.path, strings.NewReader(ask.question))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := admin.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d %s %v", ask.path, resp.StatusCode, text, err)
		}
		lines = append(lines, shape(t, ask.path, text)...)
	}
	return lines
}

// commandAnswers are those of the commands that have any of their own.
func commandAnswers(t *testing.T, admin string) (lines []string) {
	t.Helper()
	unwise := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(unwise, []byte("{\n\tadmin 0.0.0.0:2019\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"presence-check", "--config", unwise},
		{"presence-health", "--address", admin},
		{"presence-plan", "--users", "100", "--online", "1", "--rooms", "2x10", "--poll", "5s", "--bridge", "2/1s/1m", "--states", "2"},
	} {
		cmd := new(cobra.Command)
		caddycmd.Commands()[args[0]].CobraFunc(cmd)
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetContext(t.Context())
		if err := cmd.ParseFlags(append(args[1:], "--json")); err != nil {
			t.Fatal(err)
		}
		if err := cmd.RunE(cmd, cmd.Flags().Args()); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, shape(t, args[0], out.Bytes())...)
	}
	return lines
}

// named are objects whose members are names, such as those of routes.
var named = []string{".latency", ".client_requests_per_second", ".outcomes_per_second", ".outcomes_per_second.NAME", ".upstream_requests_per_second"}

// shape returns the members of an answer in JSON.
func shape(t *testing.T, path string, text []byte) []string {
	t.Helper()
	var answer any
	if err := json.Unmarshal(text, &answer); err != nil {
		t.Fatalf("%s: %v\n%s", path, err, text)
	}
	all := make(map[string]bool)
	addShape(all, path, answer)
	return slices.Collect(maps.Keys(all))
}

func addShape(all map[string]bool, path string, node any) {
	// Another section has the metrics, and the state is the homeserver's, or null.
	if strings.HasSuffix(path, ".metrics") || strings.HasSuffix(path, ".presence.state") {
		all[path+" object"] = true
		return
	}
	switch node := node.(type) {
	case map[string]any:
		isNamed := slices.ContainsFunc(named, func(end string) bool { return strings.HasSuffix(path, end) })
		for member, inner := range node {
			if isNamed {
				member = "NAME"
			}
			addShape(all, path+"."+member, inner)
		}
	case []any:
		for _, inner := range node {
			addShape(all, path+"[]", inner)
		}
	case string:
		all[path+" string"] = true
	case float64:
		all[path+" number"] = true
	case bool:
		all[path+" boolean"] = true
	default:
		all[path+" null"] = true
	}
}
