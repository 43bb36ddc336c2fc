package leaks_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/bubble"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

func TestMain(m *testing.M) {
	suite.SameDraws()
	os.Exit(bubble.Run(m))
}

// TestNobodySeesOrChangesWhatTheHomeserverRefuses plays sequences of steps and
// judges every answer.
func TestNobodySeesOrChangesWhatTheHomeserverRefuses(t *testing.T) {
	seen := new(tally)
	told := time.Now()
	rapid.Check(t, func(t *rapid.T) {
		rapid.SyncTest(t, func(t *rapid.T) {
			m := newMachine(t, seen)
			t.Repeat(rapid.StateMachineActions(m))
		})
		seen.sequences++
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			fmt.Printf("… %d sequences, %d reads\n", seen.sequences, seen.reads)
		}
	})
	t.Log(seen)
	seen.demandAll(t)
}

// tally counts what was tried, to show that the laws were put to the test.
type tally struct {
	sequences, bursts                 int
	reads, states, fromMemory, stale  int
	collapsed, refusals               int
	refusalsFromMemory                int
	writes, writesRefused             int
	credentialsRefused                int
	revokedRefused                    int
	byFeed, refetched                 int           // states that only the feed keeps, and ones that it ended
	afterLeaving, afterRevocation     int           // states from memory that the homeserver would no longer give
	oldestPermission, oldestIdentity  time.Duration // among them, at the longest lifetimes
	appservices, ambiguous, queryRead int
}

// state notes a state that somebody got.
func (n *tally) state(x *exchange, fromMemory bool) {
	n.states++
	switch status := x.cacheStatus(); {
	case strings.Contains(status, "stale-if-error"):
		n.stale++
	case fromMemory:
		n.fromMemory++
	case strings.Contains(status, "collapsed"):
		n.collapsed++
	case strings.Contains(status, "uncertain-credential"):
		n.ambiguous++
	}
	if strings.Contains(x.target, "user_id=") {
		n.appservices++
	}
	if strings.Contains(x.target, "access") {
		n.queryRead++
	}
}

// age notes how long ago a viewer who was shown a state from memory could last see it.
func (n *tally) age(c *court, x *exchange, permission time.Duration) {
	if strings.Contains(x.cacheStatus(), "stale-if-error") {
		return
	}
	if permission > 0 {
		n.afterLeaving++
		if c.rules.ttl == 30*time.Second {
			n.oldestPermission = max(n.oldestPermission, permission)
		}
	}
	if _, no := c.hs.viewer(c.hs.now(), &x.in); no == nil {
		return
	}
	for w := range c.hs.between(x.ended.Add(-c.identity), x.ended) {
		if _, no := c.hs.viewer(w, &x.in); no == nil && !w.until.IsZero() {
			n.afterRevocation++
			n.oldestIdentity = max(n.oldestIdentity, x.ended.Sub(w.until))
			return
		}
	}
}

func (n *tally) String() string {
	return fmt.Sprintf(`%d sequences, %d bursts
reads                                    %d
states                                   %d: %d from memory, %d stale, %d collapsed, %d by ambiguous credentials
  with user_id, with the token in a query %d, %d
  that only a feed keeps, that one ended  %d, %d
  of who had lost the permission         %d, at most %v after (of 30s)
  by tokens that had been ended elsewhere %d, at most %v after (of 2m)
refusals of a viewer                     %d, %d from memory
refusals of a credential                 %d, %d of tokens that had been good
writes                                   %d, and %d refused`,
		n.sequences, n.bursts, n.reads, n.states, n.fromMemory, n.stale, n.collapsed, n.ambiguous,
		n.appservices, n.queryRead,
		n.byFeed, n.refetched,
		n.afterLeaving, n.oldestPermission, n.afterRevocation, n.oldestIdentity,
		n.refusals, n.refusalsFromMemory, n.credentialsRefused, n.revokedRefused, n.writes, n.writesRefused)
}

// demandAll fails if something never happened: then nothing has been shown about it.
func (n *tally) demandAll(t *testing.T) {
	if n.sequences < 50 {
		return
	}
	for what, count := range map[string]int{
		"state from memory": n.fromMemory, "stale state": n.stale, "collapsed read": n.collapsed, "state by an ambiguous credential": n.ambiguous,
		"state that only a feed keeps": n.byFeed, "refusal of what a feed had ended": n.refetched,
		"state with user_id": n.appservices, "state with the token in a query": n.queryRead,
		"state after the permission was lost": n.afterLeaving, "state after the token was ended elsewhere": n.afterRevocation,
		"refusal": n.refusals, "refusal from memory": n.refusalsFromMemory, "refused credential": n.credentialsRefused,
		"refusal of an ended token": n.revokedRefused, "write": n.writes, "refused write": n.writesRefused,
	} {
		if count == 0 {
			t.Errorf("there was no %s", what)
		}
	}
}
