package differential_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

const whoAmI = "/_matrix/client/v3/account/whoami"

// cast are the users of one test. Of each kind one has a plain name and one a name
// with all that the specification allows today.
type cast struct {
	hs     *homeserver.Homeserver
	direct *client

	seen    []homeserver.User // in a room with the friend; their presence stands still
	limited []homeserver.User // their budget of writes is used up
	free    []homeserver.User // exempt from limits
	friend  homeserver.User
	// stranger is in no room.
	stranger homeserver.User
	ghost    string // of the appservice
}

// casts numbers the casts, so that tests on one homeserver don't meet.
var casts atomic.Int64

func newCast(t *testing.T, hs *homeserver.Homeserver) *cast {
	t.Helper()
	c := &cast{hs: hs, direct: newClient(t, hs.URL)}
	n := casts.Add(1)
	register := func(name string) homeserver.User {
		user, err := hs.Register(t.Context(), fmt.Sprintf("%s-%d", name, n), "a password")
		if err != nil {
			t.Fatal(err)
		}
		return user
	}
	c.seen = []homeserver.User{register("seen"), register("seen/o=.d_d")}
	c.limited = []homeserver.User{register("limited"), register("limited/o=.d_d")}
	c.free = []homeserver.User{register("free"), register("free/o=.d_d")}
	c.friend, c.stranger = register("friend"), register("stranger")
	c.ghost = hs.UserID(fmt.Sprintf("ghost_%d", n))
	if err := hs.Client().RegisterGhost(t.Context(), homeserver.ASToken, fmt.Sprintf("ghost_%d", n)); err != nil {
		t.Fatal(err)
	}
	if _, err := hs.Client().Room(t.Context(), c.friend, c.seen...); err != nil {
		t.Fatal(err)
	}
	// Offline, because Synapse would do it anyway after half a minute.
	for i, user := range c.seen {
		status := fmt.Sprintf("this is number %d", i)
		c.direct.send(t, c.write(user, status))
		c.waitFor(t, user, status)
	}
	return c
}

// bearer is the usual way to show a token.
func bearer(token string) []string { return []string{"Authorization: Bearer " + token} }

func statusPath(userID string) string {
	return "/_matrix/client/v3/presence/" + url.PathEscape(userID) + "/status"
}

// write is a write in the usual spelling.
func (c *cast) write(user homeserver.User, status string) request {
	return request{http.MethodPut, statusPath(user.ID), bearer(user.AccessToken), stateWith(status)}
}

// stateWith is the body of a write that stays: offline, with a status to tell it by.
func stateWith(status string) string {
	return fmt.Sprintf(`{"presence":"offline","status_msg":%q}`, status)
}

// status returns the status message that the homeserver has of a user.
func (c *cast) status(t *testing.T, user homeserver.User) string {
	t.Helper()
	a := c.direct.send(t, request{http.MethodGet, statusPath(user.ID), bearer(user.AccessToken), ""})
	if a.Status != http.StatusOK {
		t.Fatalf("reading the presence of %s: %s", user.ID, a)
	}
	return a.field("status_msg")
}

// shows polls until a status shows, and returns false if it doesn't within a
// minute. Dendrite applies a write after it has acknowledged it.
func (c *cast) shows(t *testing.T, user homeserver.User, status string) bool {
	t.Helper()
	for deadline := time.Now().Add(suite.Patience); ; time.Sleep(time.Millisecond) {
		if c.status(t, user) == status {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}

func (c *cast) waitFor(t *testing.T, user homeserver.User, status string) {
	t.Helper()
	if !c.shows(t, user, status) {
		t.Fatalf("the presence of %s never became %q", user.ID, status)
	}
}

// writers are the users whose presence a test writes.
func (c *cast) writers() []homeserver.User {
	return append(append([]homeserver.User{}, c.limited...), c.free...)
}

// tokens are those that the homeserver knows, except for one.
func (c *cast) tokens(except string) (tokens []string) {
	for _, user := range append(c.writers(), c.friend, c.stranger) {
		if user.AccessToken != except {
			tokens = append(tokens, user.AccessToken)
		}
	}
	return append(tokens, homeserver.ASToken)
}

// number is a status message that no other write has.
var numbers atomic.Int64

func nextNumber() string { return "attempt " + strconv.FormatInt(numbers.Add(1), 10) }
