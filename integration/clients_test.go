package integration_test

import (
	"errors"
	"net/http"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// TestMautrixGo is a session of a real client: login, presence, sync, logout.
func TestMautrixGo(t *testing.T) {
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		ctx := t.Context()
		c := newCast(t, hs)
		s := proxy(t, hs.URL)
		alice, bob := login(t, s.URL, c.alice), login(t, s.URL, c.bob)

		// Before anybody reads: what a sync changes is not a write that the
		// sidecar sees, so it shows when the state in memory expires.
		if _, err := alice.SyncRequest(ctx, 0, "", "", false, event.PresenceUnavailable); err != nil {
			t.Fatalf("alice syncs: %v", err)
		}
		direct := c.request(get(ofAlice, "bob"))
		suite.Eventually(t, "the sync's presence shows", func() bool { return direct.to(t, hs.URL).field("presence") == "unavailable" })
		if got, err := bob.GetPresence(ctx, id.UserID(c.alice.ID)); err != nil || got.Presence != event.PresenceUnavailable {
			t.Errorf("bob reads %+v, %v after alice's sync", got, err)
		}

		if err := alice.SetPresence(ctx, mautrix.ReqPresence{Presence: event.PresenceOnline, StatusMsg: "back"}); err != nil {
			t.Fatalf("alice writes: %v", err)
		}
		suite.Eventually(t, "bob reads what alice wrote", func() bool {
			got, err := bob.GetPresence(ctx, id.UserID(c.alice.ID))
			return err == nil && got.Presence == event.PresenceOnline && got.StatusMsg == "back"
		})
		suite.Eventually(t, "bob's sync holds what alice wrote", func() bool {
			resp, err := bob.SyncRequest(ctx, 0, "", "", false, event.PresenceOnline)
			if err != nil {
				t.Fatalf("bob syncs: %v", err)
			}
			for _, ev := range resp.Presence.Events {
				if ev.Sender == id.UserID(c.alice.ID) && ev.Content.Raw["status_msg"] == "back" {
					return true
				}
			}
			return false
		})

		err := bob.SetPresence(mautrix.WithMaxRetries(ctx, 0), mautrix.ReqPresence{Presence: "asleep"})
		if !errors.Is(err, mautrix.MBadJSON) {
			t.Errorf("bob writes nonsense: %v, want M_BAD_JSON", err)
		}
		if _, err := alice.Logout(ctx); err != nil {
			t.Fatalf("alice logs out: %v", err)
		}
		if _, err := alice.GetPresence(ctx, id.UserID(c.alice.ID)); !errors.Is(err, mautrix.MUnknownToken) && !errors.Is(err, mautrix.MMissingToken) {
			t.Errorf("alice reads after her logout: %v, want M_UNKNOWN_TOKEN", err)
		}
	})
}

func TestMautrixGoUnderstandsTheLimit(t *testing.T) {
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		c := newCast(t, hs)
		s := proxy(t, hs.URL, "--write-limit", "1/1h burst 1")
		alice := login(t, s.URL, c.alice)
		write := func() error {
			return alice.SetPresence(t.Context(), mautrix.ReqPresence{Presence: event.PresenceOnline})
		}
		if err := write(); err != nil {
			t.Fatal(err)
		}
		if err := write(); !errors.Is(err, mautrix.MLimitExceeded) {
			t.Errorf("the second write: %v, want M_LIMIT_EXCEEDED", err)
		}
	})
}

func login(t *testing.T, url string, user homeserver.User) *mautrix.Client {
	t.Helper()
	client, err := mautrix.NewClient(url, "", "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Login(t.Context(), &mautrix.ReqLogin{
		Type:             mautrix.AuthTypePassword,
		Identifier:       mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: user.ID},
		Password:         user.Password,
		StoreCredentials: true,
	})
	if err != nil {
		t.Fatalf("logging in %s: %v", user.ID, err)
	}
	return client
}

// TestRequestShapesOfClients: what clients put on the wire differs, and all of
// them meet the same state and the same budget.
func TestRequestShapesOfClients(t *testing.T) {
	shapes := []struct {
		client      string
		read, write request
	}{
		{"matrix-nio", get("/_matrix/client/r0/presence/{alice.bare}/status?access_token={alice.token}", ""),
			put("/_matrix/client/r0/presence/{alice.bare}/status?access_token={alice.token}", "", stateWith("nio"))},
		{"matrix-js-sdk", get("/_matrix/client/v3/presence/{alice}/status", "alice"),
			put("/_matrix/client/v3/presence/{alice}/status", "alice", stateWith("js"))},
		{"mautrix-go", get("/_matrix/client/v3/presence/{alice.bare}/status", "alice"),
			put("/_matrix/client/v3/presence/{alice.bare}/status", "alice", stateWith("go"))},
	}
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		c := newCast(t, hs)
		s := proxy(t, hs.URL, "--write-limit", "1/1h burst 3", "--read-limit", "off")
		for _, writer := range shapes {
			t.Run(writer.client, func(t *testing.T) {
				if a := c.request(writer.write).to(t, s.URL); !a.is(200, `{}`) {
					t.Fatalf("write: %s", a)
				}
				// Every shape reads what this one wrote.
				for _, reader := range shapes {
					suite.Eventually(t, "the write shows", func() bool {
						return sameBody(c.request(reader.read).to(t, s.URL), c.request(writer.read).to(t, hs.URL))
					})
				}
			})
		}
		for _, writer := range shapes {
			if a := c.request(writer.write).to(t, s.URL); a.status != http.StatusTooManyRequests {
				t.Errorf("%s, over the budget that all share: %s", writer.client, a)
			}
		}
	})
}
