package survival_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// user is somebody with a token.
type user struct{ id, token string }

// newUsers logs people in at the homeserver.
func newUsers(hs *scripted.Homeserver, n int) []user {
	users := make([]user, n)
	for i := range users {
		id := fmt.Sprintf("@user%d:example.com", i)
		users[i] = user{id, hs.Login(id)}
	}
	return users
}

// crowd is the traffic of the soak without its oddities: people who read, write and do other
// things, until they are told to stop. Each request has a name of its own.
type crowd struct {
	*traffic
	t       *testing.T
	s       *server
	stopped context.CancelFunc
	all     sync.WaitGroup
}

// gather begins, with so many clients and people.
func gather(t *testing.T, s *server, n int) *crowd {
	p := plan{
		clients: n, people: n, viewers: n, rate: 5000,
		weights: map[kind]int{read: 6, write: 3, pass: 1},
	}
	around := new(upheaval)
	around.begin(&around.reloads) // a request may stay without an answer at any time, see account
	c := &crowd{traffic: &traffic{plan: p, town: newTown(p), hs: s.hs, url: s.URL, clients: newClients(around)}, t: t, s: s}
	c.clients.named = true
	c.town.moveIn(s.hs)
	ctx, cancel := context.WithCancel(t.Context())
	c.stopped = cancel
	c.all.Go(func() { c.run(ctx) })
	return c
}

// busy waits until so many more requests have been sent.
func (c *crowd) busy(more int) {
	c.t.Helper()
	until := c.clients.requests() + more
	suite.Eventually(c.t, "the crowd goes on", func() bool { return c.clients.requests() >= until })
}

// disperse tells the clients to stop, waits for them, and fails if an answer was wrong.
func (c *crowd) disperse() {
	c.t.Helper()
	c.stopped()
	c.all.Wait()
	c.clients.close()
	for f, n := range c.clients.faults {
		c.t.Errorf("%d answers: %s", n, f)
	}
	for _, example := range c.clients.examples {
		c.t.Error(example)
	}
}

// account, after the crowd has dispersed, holds what the clients saw against the access log
// and the homeserver. It returns how many requests there were, and how many of them
// nobody accepted.
func (c *crowd) account() (requests, unaccepted int) {
	c.t.Helper()
	logged, answers := c.s.logged(), c.clients.answers
	for id, status := range logged {
		if a, ours := answers[id]; ours && a.status != status {
			c.t.Errorf("%s was accepted and answered with %d, and its client got %s", id, status, a)
		}
	}
	reached := make(map[string]bool)
	for key := range c.s.hs.Counts() {
		reached[key.Label] = true
	}
	for id, a := range answers {
		_, isLogged := logged[id]
		if a.status != 0 {
			if !isLogged {
				c.t.Errorf("%s was answered and isn't in the access log", id)
			}
			continue
		}
		unaccepted++
		if isLogged || reached[id] {
			c.t.Errorf("%s got no answer (%v), and was acted on: in the log %t, at the homeserver %t", id, a.err, isLogged, reached[id])
		}
	}
	c.expectWritesKept()
	return len(answers), unaccepted
}

// expectWritesKept fails unless each acknowledged write is at the homeserver.
func (c *crowd) expectWritesKept() {
	c.t.Helper()
	for _, p := range c.town.people {
		if got, want := c.s.hs.State(p.id).Version, p.acknowledged.Load(); got < want {
			c.t.Errorf("%s: version %d was acknowledged, the homeserver has %d", p.id, want, got)
		}
	}
}

// writes is how many writes have been acknowledged.
func (c *crowd) writes() int { return c.clients.outcomes[write].answered[http.StatusOK] }

// users are the people, by the first of their devices.
func (c *crowd) users() (users []user) {
	for _, p := range c.town.people {
		users = append(users, user{p.id, p.devices[0].Load().token})
	}
	return users
}
