package survival_test

import (
	"net/http"
	"slices"
	"syscall"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
)

func TestKillLosesOnlyWhatIsRemembered(t *testing.T) {
	var requests, cut int
	for range scale.rounds {
		hs := newHomeserver(t, scripted.Options{
			Hidden: func(viewer, target string) bool { return target == "@hermit:example.com" || hides(viewer, target) },
		})
		gone := hs.Login("@person0:example.com")
		s := newServer(t, hs, unlimited)
		logout := newRequest(logout, http.MethodPost, s.URL+"/_matrix/client/v3/logout", gone, "")
		expect(t, "the logout", logout.get(t), http.StatusOK)

		c := gather(t, s, 16)
		c.busy(400)
		s.signal(syscall.SIGKILL)
		if state := s.wait(); state.Success() {
			t.Errorf("the sidecar ended with %v", state)
		}
		c.disperse()
		users := c.users()
		// A request may have been cut off now; an acknowledged write is there.
		c.expectWritesKept()
		requests += len(c.clients.answers)
		for _, a := range c.clients.answers {
			if a.status == 0 {
				cut++
			}
		}

		s.restart(unlimited)
		asked := hs.Count(scripted.WhoAmI).Asked
		for _, u := range users {
			// From the first read on the answer is the homeserver's.
			a := expect(t, "the first read after the restart", s.read(u.token, u.id).get(t), http.StatusOK)
			if got, want := a.version(), hs.State(u.id).Version; got != want || a.hit() {
				t.Errorf("the first read after the restart got version %d (%s), the homeserver has %d", got, a.cacheStatus(), want)
			}
			if a := s.read(u.token, u.id).get(t); !a.hit() || a.version() != hs.State(u.id).Version {
				t.Errorf("the second read got %s, want a hit", a)
			}
		}
		if got := hs.Count(scripted.WhoAmI).Asked - asked; got != len(users) {
			t.Errorf("the homeserver was asked whose token it is %d times, want once for each of %d", got, len(users))
		}
		expect(t, "a read of somebody hidden", s.read(users[1].token, "@hermit:example.com").get(t), http.StatusForbidden)
		expect(t, "a read with a token that was logged out", s.read(gone, users[1].id).get(t), http.StatusUnauthorized)
		expect(t, "a write with a token that was logged out", s.write(gone, users[0].id, 1_000_000).get(t), http.StatusUnauthorized)
		expect(t, "a write to somebody else", s.write(users[1].token, users[2].id, 1_000_000).get(t), http.StatusForbidden)
		next := hs.State(users[1].id).Version + 1
		expect(t, "a write", s.write(users[1].token, users[1].id, next).get(t), http.StatusOK)
		other := users[slices.IndexFunc(users, func(u user) bool { return u != users[1] && !hides(u.id, users[1].id) })]
		if a := s.read(other.token, users[1].id).get(t); a.version() != next {
			t.Errorf("the read after a write got %s, want version %d", a, next)
		}
	}
	figure(t, "%d times killed under 16 clients and started again at the same address: %d requests, %d of them cut off, no acknowledged write lost, every answer afterwards that of the homeserver",
		scale.rounds, requests, cut)
}
