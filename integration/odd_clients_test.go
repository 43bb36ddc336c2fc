package integration_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// odd are header fields that Caddy takes from a client. Synapse drops a connection with the
// first without an answer; hyper, which tuwunel has, refuses the second.
var odd = map[string]http.Header{
	"a field of 16.5 KB": {"X-Large": {strings.Repeat("x", 16<<10+512)}},
	"200 fields":         manyFields(200),
}

func manyFields(n int) http.Header {
	header := make(http.Header)
	for i := range n {
		header.Set(fmt.Sprintf("X-%d", i), "x")
	}
	return header
}

// TestOddClientsOnRealHomeservers: a client whose own header a homeserver doesn't take made our
// requests fail, and we took the homeserver for down: a token that was deleted elsewhere, or
// a viewer who was kicked, read what was in memory for as long as stale_if_error, and who
// shared such a client's fetch got its 502. Now they are told what the homeserver says.
func TestOddClientsOnRealHomeservers(t *testing.T) {
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		for name, header := range odd {
			t.Run(name, func(t *testing.T) {
				t.Run("deleted", func(t *testing.T) {
					c := newCast(t, hs)
					s, path := oddSite(t, c)
					expectEnd(t, c, s, path, header, http.StatusUnauthorized, func() error {
						return hs.Client().Do(t.Context(), http.MethodPost, "/_matrix/client/v3/logout", c.bob.AccessToken, map[string]any{}, nil)
					})
				})
				t.Run("kicked", func(t *testing.T) {
					if hs.Name == "dendrite" {
						t.Skip("shows every presence to everybody")
					}
					c := newCast(t, hs)
					s, path := oddSite(t, c)
					expectEnd(t, c, s, path, header, http.StatusForbidden, func() error {
						return hs.Client().Do(t.Context(), http.MethodPost, "/_matrix/client/v3/rooms/"+url.PathEscape(c.room)+"/kick",
							c.alice.AccessToken, map[string]any{"user_id": c.bob.ID}, nil)
					})
				})
				t.Run("shared", func(t *testing.T) { expectNoFailureIsShared(t, hs, header) })
			})
		}
	})
}

// oddSite starts a site that would show a state for an hour if its homeserver were down, and
// has bob read alice's once.
func oddSite(t *testing.T, c *cast) (base, path string) {
	t.Helper()
	c.settle(t, "fishing")
	s := site(t, "read_limit off\ncache {\nttl 1s\nstale_if_error 1h\n}\nidentity {\nttl 1s\n}", c.hs.URL)
	path = c.path(ofAlice)
	a, err := request{method: http.MethodGet, path: path, token: c.bob.AccessToken}.try(t.Context(), s.URL)
	if err != nil || a.status != http.StatusOK {
		t.Fatalf("%s, %v", a, err)
	}
	return s.URL, path
}

// expectEnd ends bob's permission at the homeserver, and fails unless bob is told that
// once what is in memory is no longer fresh.
func expectEnd(t *testing.T, c *cast, base, path string, header http.Header, status int, end func() error) {
	t.Helper()
	if err := end(); err != nil {
		t.Fatal(err)
	}
	suite.Eventually(t, fmt.Sprintf("a %d", status), func() bool {
		a, err := request{method: http.MethodGet, path: path, token: c.bob.AccessToken, header: header}.try(t.Context(), base)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(a.cacheStatus(), "stale") {
			t.Fatalf("a stale answer while the homeserver is up: %s, %s", a, a.cacheStatus())
		}
		return a.status == status
	})
}

// expectNoFailureIsShared has odd and ordinary clients, who may share fetches, read the same
// at the same time after each write, and fails unless all ordinary ones get it.
func expectNoFailureIsShared(t *testing.T, hs *homeserver.Homeserver, header http.Header) {
	c := newCast(t, hs)
	c.settle(t, "fishing")
	s := site(t, "read_limit off\nwrite_limit off\ncache {\nttl 1m\nsettle 0s\n}", hs.URL)
	path := c.path(ofAlice)
	read := func(token string, header http.Header) {
		a, err := request{method: http.MethodGet, path: path, token: token, header: header}.try(t.Context(), s.URL)
		// What a homeserver does to an odd client's own request is that one's.
		itsOwn := header != nil && err == nil && a.status == http.StatusBadGateway
		if !itsOwn && (err != nil || a.status != http.StatusOK) {
			t.Errorf("%.200s, %v", a, err)
		}
	}
	read(c.alice.AccessToken, nil)
	read(c.bob.AccessToken, nil)
	for range 20 {
		if a := c.request(put(ofAlice, "alice", stateWith("fishing"))).to(t, s.URL); a.status != http.StatusOK {
			t.Fatalf("write: %s", a)
		}
		var readers sync.WaitGroup
		for range 8 {
			readers.Go(func() { read(c.bob.AccessToken, header) })
			readers.Go(func() { read(c.alice.AccessToken, nil) })
		}
		readers.Wait()
	}
}
