package survival_test

import (
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// coalescing makes every write but a user's first wait for longer than any test.
const coalescing = `write_limit 1/10m
		over_limit coalesce
		coalesce {
			max_age 1h
		}
		read_limit off`

// waiting has each user write twice, and returns when the second of each waits.
func waiting(t *testing.T, s *server, users []user) {
	t.Helper()
	for _, u := range users {
		expect(t, "the first write", s.write(u.token, u.id, 1).get(t), http.StatusOK)
	}
	for _, u := range users {
		a := expect(t, "the second write", s.write(u.token, u.id, 2).get(t), http.StatusOK)
		if !strings.Contains(a.cacheStatus(), "coalesced") {
			t.Errorf("the second write got %s", a)
		}
	}
}

// expectVersions fails unless the homeserver has a version of each user.
func expectVersions(t *testing.T, hs *scripted.Homeserver, users []user, version int64) {
	t.Helper()
	for _, u := range users {
		if got := hs.State(u.id).Version; got != version {
			t.Errorf("the homeserver has version %d of %s, want %d", got, u.id, version)
		}
	}
}

func TestTerminationDeliversWritesThatWait(t *testing.T) {
	hs := newHomeserver(t, scripted.Options{})
	users := newUsers(hs, 100)
	s := newServer(t, hs, coalescing)
	waiting(t, s, users)
	expectVersions(t, hs, users, 1)
	s.signal(syscall.SIGTERM)
	if state := s.wait(); !state.Success() {
		t.Errorf("the sidecar ended with %v", state)
	}
	expectVersions(t, hs, users, 2)
	figure(t, "SIGTERM while %d writes waited for a budget: all delivered", len(users))
}

func TestReloadDeliversWritesThatWait(t *testing.T) {
	hs := newHomeserver(t, scripted.Options{})
	users := newUsers(hs, 100)
	s := newServer(t, hs, coalescing)
	waiting(t, s, users)
	s.reload(coalescing + "\n\t\tmax_body 1KiB")
	suite.Eventually(t, "all that waited is delivered", func() bool {
		for _, u := range users {
			if hs.State(u.id).Version != 2 {
				return false
			}
		}
		return true
	})
	for _, u := range users {
		if a := s.read(users[0].token, u.id).get(t); a.version() != 2 {
			t.Errorf("a read after the reload got %s", a)
		}
	}
}
