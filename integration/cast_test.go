package integration_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// cast are the users of one test. Alice and bob share a room, the stranger is in
// none.
type cast struct {
	hs                   *homeserver.Homeserver
	alice, bob, stranger homeserver.User
	room                 string
}

// casts numbers the casts, so that tests on one homeserver don't meet.
var casts atomic.Int64

func newCast(t *testing.T, hs *homeserver.Homeserver) *cast {
	t.Helper()
	n := casts.Add(1)
	register := func(name string) homeserver.User {
		user, err := hs.Register(t.Context(), fmt.Sprintf("%s-%d", name, n), "the password of "+name)
		if err != nil {
			t.Fatal(err)
		}
		return user
	}
	c := &cast{hs: hs, alice: register("alice"), bob: register("bob"), stranger: register("stranger")}

	var err error
	if c.room, err = hs.Client().Room(t.Context(), c.alice, c.bob); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *cast) users() map[string]homeserver.User {
	return map[string]homeserver.User{"alice": c.alice, "bob": c.bob, "stranger": c.stranger}
}

// path fills in the users: {alice} is alice's ID as browsers escape it,
// {alice.bare} as it is, {alice.local} its localpart (with .tail: without its
// first letter), and {alice.token} is her access token.
func (c *cast) path(template string) string {
	var pairs []string
	for name, user := range c.users() {
		local, _, _ := strings.Cut(strings.TrimPrefix(user.ID, "@"), ":")
		pairs = append(pairs,
			"{"+name+"}", url.QueryEscape(user.ID),
			"{"+name+".bare}", user.ID,
			"{"+name+".local}", local,
			"{"+name+".local.tail}", local[1:],
			"{"+name+".token}", user.AccessToken)
	}
	return strings.NewReplacer(pairs...).Replace(template)
}

// request fills in the path and turns the names of users into their tokens. A
// name that is nobody's stays: it is a bad token.
func (c *cast) request(r request) request {
	r.path = c.path(r.path)
	for name, user := range c.users() {
		if r.token == name {
			r.token = user.AccessToken
		}
		if r.second == name {
			r.second = user.AccessToken
		}
	}
	return r
}

// settle sets alice's presence on the homeserver itself, to a state that stays,
// and waits until it shows.
func (c *cast) settle(t *testing.T, status string) {
	t.Helper()
	write := c.request(put(ofAlice, "alice", stateWith(status)))
	if a := write.to(t, c.hs.URL); a.status != http.StatusOK {
		t.Fatalf("setting alice's presence: %s", a)
	}
	read := c.request(get(ofAlice, "alice"))
	suite.Eventually(t, "alice's presence shows", func() bool { return read.to(t, c.hs.URL).field("status_msg") == status })
}

// stateWith is the body of a write that stays: offline, with a status to tell it by.
func stateWith(status string) string {
	return fmt.Sprintf(`{"presence":"offline","status_msg":%q}`, status)
}
