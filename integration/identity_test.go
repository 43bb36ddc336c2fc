package integration_test

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// TestRevokedTokenIsRefusedAtOnce: the sidecar remembers whose a token is, and
// forgets it when it sees the request that revokes it.
func TestRevokedTokenIsRefusedAtOnce(t *testing.T) {
	revocations := []struct {
		name string
		send func(*cast, homeserver.User) request // alice's second login is revoked
	}{
		{"logout", func(_ *cast, u homeserver.User) request {
			return request{method: http.MethodPost, path: "/_matrix/client/v3/logout", token: u.AccessToken, body: "{}"}
		}},
		{"logout of all, by another device", func(c *cast, _ homeserver.User) request {
			return request{method: http.MethodPost, path: "/_matrix/client/v3/logout/all", token: c.alice.AccessToken, body: "{}"}
		}},
		{"password change, by another device", func(c *cast, u homeserver.User) request {
			return request{method: http.MethodPost, path: "/_matrix/client/v3/account/password", token: c.alice.AccessToken,
				body: `{"new_password":"another password","auth":` + passwordAuth(u) + `}`}
		}},
		{"deletion by another device", func(c *cast, u homeserver.User) request {
			return request{method: http.MethodPost, path: "/_matrix/client/v3/delete_devices", token: c.alice.AccessToken,
				body: `{"devices":["` + u.DeviceID + `"],"auth":` + passwordAuth(u) + `}`}
		}},
	}
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		s := proxy(t, hs.URL, unlimited...)
		for _, revocation := range revocations {
			t.Run(revocation.name, func(t *testing.T) {
				c := newCast(t, hs)
				c.settle(t, "fishing")
				second, err := hs.Login(t.Context(), c.alice.ID, c.alice.Password)
				if err != nil {
					t.Fatal(err)
				}
				read := get(c.path(ofAlice), second.AccessToken)
				write := put(c.path(ofAlice), second.AccessToken, online)
				// Whose the other device is has to be known by then, see
				// TestSessionsEndedByANewDevice.
				get(c.path(ofAlice), c.alice.AccessToken).to(t, s.URL)
				read.to(t, s.URL)
				if a := read.to(t, s.URL); !a.hit() {
					t.Errorf("before: %s (%s), want a hit", a, a.cacheStatus())
				}
				if a := revocation.send(c, second).to(t, s.URL); a.status != http.StatusOK {
					t.Fatalf("revoking: %s", a)
				}
				for range 2 {
					expectSame(t, read.to(t, hs.URL), read.to(t, s.URL))
					expectSame(t, write.to(t, hs.URL), write.to(t, s.URL))
				}
				if a := read.to(t, s.URL); a.status != http.StatusUnauthorized || a.field("errcode") != "M_UNKNOWN_TOKEN" {
					t.Errorf("after: %s, want 401 M_UNKNOWN_TOKEN", a)
				}
			})
		}
	})
}

// passwordAuth is the user-interactive authentication that both homeservers
// take without a session.
func passwordAuth(u homeserver.User) string {
	return `{"type":"m.login.password","identifier":{"type":"m.id.user","user":"` + u.ID + `"},"password":"` + u.Password + `"}`
}

// TestNewTokenIsGoodAtOnce: a token that was refused and is then good can't
// happen on these homeservers, but a login must not meet what is remembered.
func TestNewTokenIsGoodAtOnce(t *testing.T) {
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		c := newCast(t, hs)
		s := proxy(t, hs.URL, unlimited...)
		c.request(get(ofAlice, "nonsense")).to(t, s.URL)
		again, err := homeserver.Client{URL: s.URL}.Login(t.Context(), c.alice.ID, c.alice.Password)
		if err != nil {
			t.Fatal(err)
		}
		if a := get(c.path(ofAlice), again.AccessToken).to(t, s.URL); a.status != http.StatusOK {
			t.Errorf("read with the new token: %s", a)
		}
	})
}

// TestAppserviceSpeaksForItsGhosts: a bridge has one token and names the user in
// the query. That user is who may write, and only for itself.
func TestAppserviceSpeaksForItsGhosts(t *testing.T) {
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		c := newCast(t, hs)
		up := newUpstream(t, hs.URL, nil)
		s := proxy(t, up.URL, unlimited...)
		ghost := func(name string) string {
			localpart := "ghost_" + name + "_" + c.path("{alice.local}")
			if err := hs.Client().RegisterGhost(t.Context(), homeserver.ASToken, localpart); err != nil {
				t.Fatal(err)
			}
			return hs.UserID(localpart)
		}
		cat, dog := ghost("cat"), ghost("dog")
		as := func(user, target string) request {
			return put("/_matrix/client/v3/presence/"+url.PathEscape(target)+"/status?user_id="+url.QueryEscape(user),
				homeserver.ASToken, online)
		}

		own := as(cat, cat)
		expectSame(t, own.to(t, hs.URL), own.to(t, s.URL))
		if a := own.to(t, s.URL); a.status != http.StatusOK {
			t.Errorf("the cat's own: %s", a)
		}
		before := up.Counts().Writes
		expectOwn(t, as(cat, dog).to(t, s.URL), 403, "M_FORBIDDEN")
		expectOwn(t, as(cat, c.alice.ID).to(t, s.URL), 403, "M_FORBIDDEN")
		if up.Counts().Writes != before {
			t.Error("a refused write reached the homeserver")
		}

		// Not in the namespace: the homeserver says that it may not speak for her.
		alice := as(c.alice.ID, c.alice.ID)
		expectSame(t, alice.to(t, hs.URL), alice.to(t, s.URL))

		// For an ordinary token the parameter means nothing.
		bob := put(c.path(ofBob)+"?user_id="+url.QueryEscape(c.alice.ID), c.bob.AccessToken, online)
		if a := bob.to(t, s.URL); a.status != http.StatusOK {
			t.Errorf("bob's own, with a user_id that means nothing: %s", a)
		}
		expectOwn(t, put(c.path(ofAlice)+"?user_id="+url.QueryEscape(c.alice.ID), c.bob.AccessToken, online).to(t, s.URL), 403, "M_FORBIDDEN")
	})
}
