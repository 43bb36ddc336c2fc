package integration_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/process"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

// TestReloadKeepsWhatIsRemembered: an admin who changes a limit costs the
// homeserver nothing, and gives nobody a fresh budget. One who makes a mistake
// changes nothing at all.
func TestReloadKeepsWhatIsRemembered(t *testing.T) {
	hs := suite.Homeserver(t, "dendrite", homeserver.Options{})
	c := newCast(t, hs)
	c.settle(t, "fishing")
	up := newUpstream(t, hs.URL, nil)
	config := func(option string) string {
		// The admin API leaves it to automatic HTTPS what a host that it adds is served by.
		return strings.Replace(siteWith("write_limit 1/1h burst 1\n\t\t"+option, up.URL), "admin", "auto_https off\n\tadmin", 1)
	}
	s := suite.Sidecar(t)(sidecar.StartCaddyfile(t.Context(), config("read_limit off")))

	if a := c.request(put(ofBob, "bob", online)).to(t, s.URL); a.status != 200 {
		t.Fatal(a)
	}
	read := c.request(get(ofAlice, "bob"))
	read.to(t, s.URL)
	expectRemembered := func(when string) {
		t.Helper()
		if a := read.to(t, s.URL); !a.hit() || a.field("status_msg") != "fishing" {
			t.Errorf("%s: read %s (%s), want a hit", when, a, a.cacheStatus())
		}
		expectLimited(t, c.request(put(ofBob, "bob", online)).to(t, s.URL))
		if n, who := up.Counts().Reads, up.Counts().Whoami; n != 1 || who != 1 {
			t.Errorf("%s: the homeserver was asked %d times for presence and %d times for the user, want once", when, n, who)
		}
	}
	expectRemembered("before")
	if err := s.Reload(t.Context(), config("read_limit 100/1s")); err != nil {
		t.Fatal(err)
	}
	expectRemembered("after a reload")
	addrs, err := process.FreeAddresses(1)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(addrs[0], ":")
	// A host that comes first, with a port of its own.
	alias := strings.Replace(config("read_limit 100/1s"), "{$SITE} {", "http://0.example.com:"+port+", {$SITE} {", 1)
	if err := s.Reload(t.Context(), alias); err != nil {
		t.Fatal(err)
	}
	expectRemembered("with another host and another port")
	for _, change := range []struct{ method, path, body string }{
		{http.MethodPost, "/match/0/host", `"1.example.com"`},
		{http.MethodPatch, "/match/0/host", `["127.0.0.1", "2.example.com"]`},
	} {
		path := "/config/apps/http/servers/" + servedAs(t, s) + "/routes/0" + change.path
		if _, err := s.AskAdmin(t.Context(), change.method, path, change.body); err != nil {
			t.Fatalf("%s: %v", change.method, err)
		}
		expectRemembered("after " + change.method + " at the admin API")
	}
	if err := s.Reload(t.Context(), config("read_limit nonsense")); err == nil {
		t.Error("a reload with nonsense succeeded")
	}
	expectRemembered("after a failed reload")
}

// servedAs returns what Caddy calls the server that serves a sidecar's site.
func servedAs(t *testing.T, s *sidecar.Sidecar) string {
	t.Helper()
	text, err := s.AskAdmin(t.Context(), http.MethodGet, "/config/apps/http/servers", "")
	if err != nil {
		t.Fatal(err)
	}
	var servers map[string]struct{ Listen []string }
	if err := json.Unmarshal(text, &servers); err != nil {
		t.Fatal(err)
	}
	for name, server := range servers {
		if slices.Contains(server.Listen, strings.TrimPrefix(s.URL, "http://")) {
			return name
		}
	}
	t.Fatalf("no server listens on %s: %v", s.URL, servers)
	return ""
}
