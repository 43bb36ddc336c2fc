package integration_test

import (
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

// TestReloadKeepsWhatIsRemembered: an admin who changes a limit costs the
// homeserver nothing, and gives nobody a fresh budget. One who makes a mistake
// changes nothing at all.
func TestReloadKeepsWhatIsRemembered(t *testing.T) {
	hs := server(t, "dendrite", homeserver.Options{})
	c := newCast(t, hs)
	c.settle(t, "fishing")
	up := newUpstream(t, hs.URL, nil)
	config := func(option string) string {
		return siteWith("write_limit 1/1h burst 1\n\t\t"+option, up.URL)
	}
	s, err := sidecar.StartCaddyfile(t.Context(), config("read_limit off"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)

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
		if n, who := up.reads.Load(), up.whoami.Load(); n != 1 || who != 1 {
			t.Errorf("%s: the homeserver was asked %d times for presence and %d times for the user, want once", when, n, who)
		}
	}
	expectRemembered("before")
	if err := s.Reload(t.Context(), config("read_limit 100/1s")); err != nil {
		t.Fatal(err)
	}
	expectRemembered("after a reload")
	if err := s.Reload(t.Context(), config("read_limit nonsense")); err == nil {
		t.Error("a reload with nonsense succeeded")
	}
	expectRemembered("after a failed reload")
}
