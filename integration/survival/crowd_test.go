package survival_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// user is somebody with a token.
type user struct {
	id, token string

	// written is the version of the last write that was sent, acknowledged that of the
	// last one that was answered with 200. Only the user's own client makes them grow.
	written, acknowledged atomic.Int64
}

// newUsers logs people in at the homeserver.
func newUsers(hs *scripted.Homeserver, n int) []*user {
	users := make([]*user, n)
	for i := range users {
		id := fmt.Sprintf("@user%d:example.com", i)
		users[i] = &user{id: id, token: hs.Login(id)}
	}
	return users
}

// crowd are clients, one for each user, that read, write and do other things, one request
// after the other, until they are told to stop or nobody listens any more.
type crowd struct {
	t     *testing.T
	s     *server
	users []*user
	stop  chan struct{}
	all   sync.WaitGroup

	sent atomic.Int64

	mu      sync.Mutex        // guards what is below
	answers map[string]answer // by the request's name
}

// gather begins. Every other client keeps its connection, the others make one for each
// request.
func gather(t *testing.T, s *server, users []*user) *crowd {
	c := &crowd{t: t, s: s, users: users, stop: make(chan struct{}), answers: make(map[string]answer)}
	for i, u := range users {
		client := fresh
		if i%2 == 0 {
			client = &http.Client{Transport: new(http.Transport)}
		}
		c.all.Go(func() {
			defer client.CloseIdleConnections()
			c.run(u, client)
		})
	}
	return c
}

func (c *crowd) run(u *user, client *http.Client) {
	for {
		select {
		case <-c.stop:
			return
		default:
		}
		var r request
		target := c.users[rand.IntN(len(c.users))]
		floor := target.acknowledged.Load()
		switch rand.IntN(10) {
		case 0:
			r = c.s.pass(strings.Repeat("x", 1+rand.IntN(10_000)))
		case 1, 2, 3:
			r = c.s.write(u.token, u.id, u.written.Add(1))
		default:
			r = c.s.read(u.token, target.id)
		}
		a := r.do(c.t.Context(), client)
		if errors.Is(a.err, syscall.ECONNREFUSED) {
			return // nobody was there to send it to
		}
		c.mu.Lock()
		c.answers[r.id] = a
		c.mu.Unlock()
		c.sent.Add(1)
		switch {
		case a.status == 0:
			continue // see account
		case a.status != http.StatusOK:
			c.t.Errorf("%s: %s", r.id, a)
		case r.method == http.MethodPut:
			u.acknowledged.Store(u.written.Load())
		case r.method == http.MethodPost && a.body != r.body:
			c.t.Errorf("%s: the body came back changed", r.id)
		case r.method == http.MethodGet && a.version() < floor:
			c.t.Errorf("%s: got version %d after %d was acknowledged", r.id, a.version(), floor)
		}
	}
}

// busy waits until so many more requests have been answered.
func (c *crowd) busy(more int64) {
	c.t.Helper()
	until := c.sent.Load() + more
	suite.Eventually(c.t, "the crowd goes on", func() bool { return c.sent.Load() >= until || c.t.Failed() })
}

// account, after the crowd has stopped, holds what the clients saw against the access log
// and the homeserver. It returns how many requests there were, and how many of them
// nobody accepted.
func (c *crowd) account() (requests, unaccepted int) {
	c.t.Helper()
	logged := c.s.logged()
	for id, status := range logged {
		if a, ours := c.answers[id]; ours && a.status != status {
			c.t.Errorf("%s was accepted and answered with %d, and its client got %s", id, status, a)
		}
	}
	reached := make(map[string]bool)
	for key := range c.s.hs.Counts() {
		reached[key.Label] = true
	}
	for id, a := range c.answers {
		if a.status != 0 {
			if _, ok := logged[id]; !ok {
				c.t.Errorf("%s was answered and isn't in the access log", id)
			}
			continue
		}
		unaccepted++
		if _, ok := logged[id]; ok || reached[id] {
			c.t.Errorf("%s got no answer (%v), and was acted on: in the log %t, at the homeserver %t", id, a.err, ok, reached[id])
		}
	}
	c.expectWritesKept()
	return len(c.answers), unaccepted
}

// expectWritesKept fails unless each acknowledged write is at the homeserver.
func (c *crowd) expectWritesKept() {
	c.t.Helper()
	for _, u := range c.users {
		if got, want := c.s.hs.State(u.id).Version, u.acknowledged.Load(); got < want {
			c.t.Errorf("%s: version %d was acknowledged, the homeserver has %d", u.id, want, got)
		}
	}
}

// writes is how many writes have been acknowledged.
func (c *crowd) writes() (n int) {
	for id, a := range c.answers {
		if strings.HasPrefix(id, "write-") && a.status == http.StatusOK {
			n++
		}
	}
	return n
}

// disperse tells the clients to stop and waits for them.
func (c *crowd) disperse() {
	close(c.stop)
	c.all.Wait()
}
