package survival_test

import (
	"context"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

const unlimited = `write_limit off
		read_limit off`

// everyRequestUnderWay sends one request of each kind that can be at the homeserver, and
// returns when all are there: a write, a read that asks, a request that isn't about presence, and
// a read and a write whose tokens are being looked up. The gate holds all of them, and with
// them a read that waits for another's answer.
func everyRequestUnderWay(t *testing.T, s *server, users []user) (gate *scripted.Gate, answers map[string]<-chan answer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	alice, bob, carol, dave := users[0], users[1], users[2], users[3]
	// Whose tokens these are is known.
	for _, u := range users[:3] {
		expect(t, "the first read", s.read(u.token, u.id).get(t), http.StatusOK)
	}
	// Nothing is known of eve.
	eve := users[4].id
	gate = s.hs.Hold(func(r *http.Request) bool { return true })
	answers = map[string]<-chan answer{
		"write":                       s.write(alice.token, alice.id, 1).later(ctx),
		"read":                        s.read(bob.token, eve).later(ctx),
		"request that is not ours":    s.pass("body").later(ctx),
		"read with an unknown token":  s.read(dave.token, carol.id).later(ctx),
		"write with an unknown token": s.write(users[5].token, users[5].id, 1).later(ctx),
	}
	suite.Eventually(t, "all requests are at the homeserver", func() bool { return gate.Waiting() == len(answers) })
	// This one never is: it waits for bob's.
	answers["read that shares an answer"] = s.read(bob.token, eve).later(ctx)
	suite.Eventually(t, "all requests are accepted", func() bool { return s.vitals().InFlight == len(answers) })
	return gate, answers
}

func TestTerminationWaitsForEveryRequestUnderWay(t *testing.T) {
	hs := newHomeserver(t, scripted.Options{})
	users := newUsers(hs, 6)
	s := newServer(t, hs, unlimited)
	gate, answers := everyRequestUnderWay(t, s, users)

	s.signal(syscall.SIGTERM)
	suite.Eventually(t, "nobody listens any more", s.refuses)
	if !s.Running() {
		t.Fatal("the sidecar ended while the homeserver had its requests")
	}
	gate.Open()
	for what, answer := range answers {
		expect(t, what, <-answer, http.StatusOK)
	}
	if state := s.wait(); !state.Success() {
		t.Errorf("the sidecar ended with %v", state)
	}
	if got := hs.State(users[0].id).Version; got != 1 {
		t.Errorf("the homeserver has version %d, want 1", got)
	}
}

func TestTerminationUnderLoadLosesNothing(t *testing.T) {
	var requests, unaccepted, writes int
	for range scale.rounds {
		s := newServer(t, newHomeserver(t, scripted.Options{Hidden: hides}), unlimited)
		c := gather(t, s, 32)
		c.busy(500)
		s.signal(syscall.SIGTERM)
		if state := s.wait(); !state.Success() {
			t.Errorf("the sidecar ended with %v", state)
		}
		c.disperse()
		n, u := c.account()
		requests, unaccepted, writes = requests+n, unaccepted+u, writes+c.writes()
	}
	figure(t, "%d times ended by SIGTERM under 32 clients: %d requests, %d writes acknowledged and none lost, every accepted request answered; %d were not accepted, and did nothing",
		scale.rounds, requests, writes, unaccepted)
}
