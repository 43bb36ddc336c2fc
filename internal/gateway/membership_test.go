package gateway

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const (
	leavePath = "/_matrix/client/v3/rooms/!r:example.com/leave"
	notHere   = "the-token-of-another-device" // which nobody has shown yet
)

// newLeaving returns a room in which it is known who may see whom, and whose user 1 has another token.
func newLeaving(t *testing.T, o *options) *room {
	t.Helper()
	p := newRoom(t, o)
	p.hs.Tokens[aliceNamed], p.hs.Tokens[bobNamed], p.hs.Tokens[notHere] = alice, bob, p.users[1]
	p.hs.Presence[bob] = `{"presence":"online"}`
	p.Want(p.Get(aliceNamed, alice), 200, "", "") // from now on tokens name their users
	for _, user := range p.users[:3] {
		p.opens(user)
	}
	p.Want(p.Get(tokenOf(p.users[1]), p.users[5]), 200, "", "matrix_presence; hit")
	p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if r.URL.Path == leavePath {
			answer(w, 200, "{}")
		}
		return r.URL.Path == leavePath, nil
	})
	time.Sleep(time.Second)
	return p
}

// leaves has user 1 leave by the token that nobody knows, from an address.
func (p *room) leaves(address string) {
	p.t.Helper()
	leave := request("POST", leavePath, notHere, "{}")
	leave.RemoteAddr = address + ":1"
	p.Want(p.Do(leave), 200, "{}", "")
	synctest.Wait()
	before := p.hs.Count("GET")
	p.Get(tokenOf(p.users[1]), p.users[5])
	if p.hs.Count("GET") == before {
		p.t.Error("who has left sees what only the room let them see")
	}
}

// syncs sends a sync from an address, whose answer doesn't come yet.
func (p *room) syncs(clients *sync.WaitGroup, address, token string) {
	r := request("GET", "/_matrix/client/v3/sync?since=s1&set_presence=online", token, "")
	r.RemoteAddr = address + ":1"
	clients.Go(func() { p.Do(r) })
}

// holdsSyncsOf has syncs with a token go without an answer until what it returns is closed.
func (p *room) holdsSyncsOf(token string) (release chan struct{}) {
	release = make(chan struct{})
	before := p.hs.Intercept
	p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if strings.HasSuffix(r.URL.Path, "/sync") && r.Header.Get("Authorization") == "Bearer "+token {
			<-release
		}
		return before(w, r)
	})
	return release
}

// flooded is a room while four addresses send 64 syncs each, by a token that is made up and names a user, and whose
// answers don't come. Each kept a place of those whose users are asked about for two seconds.
func flooded(t *testing.T, then func(p *room, clients *sync.WaitGroup)) {
	synctest.Test(t, func(t *testing.T) {
		p, clients := newLeaving(t, &options{SyncPresence: "limit"}), new(sync.WaitGroup)
		release := p.holdsSyncsOf(bobsOther)
		for i := range 4 * maxLearningEach {
			p.syncs(clients, fmt.Sprintf("203.0.113.%d", i%4), bobsOther)
		}
		synctest.Wait()
		then(p, clients)
		close(release)
		clients.Wait()
	})
}

func TestLeaveOfWhomNobodyKnowsYetCountsInAFlood(t *testing.T) {
	flooded(t, func(p *room, _ *sync.WaitGroup) { p.leaves("192.0.2.1") })
}

func TestSyncOfWhomNobodyKnowsYetCountsInAFlood(t *testing.T) {
	flooded(t, func(p *room, clients *sync.WaitGroup) {
		p.Want(p.Get(aliceNamed, bob), 200, "", "matrix_presence; fwd=miss; stored")
		release := p.holdsSyncsOf(bobNamed)
		p.syncs(clients, "192.0.2.1", bobNamed)
		time.Sleep(tellsItself + time.Millisecond)
		p.Want(p.Get(aliceNamed, bob), 200, "", "matrix_presence; fwd=miss")
		close(release)
	})
}

// Who has made tokens up has none of its address asked about, until a request with one has succeeded.
func TestLeaveCountsWhateverElseItsAddressHasShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newLeaving(t, &options{Identity: &identifying{RejectedLimit: &rate{Events: 1, Window: time.Hour, Burst: 2}}})
		for i := range 3 {
			p.Do(from("192.0.2.1", fmt.Sprint("made-up-", i)))
		}
		p.leaves("192.0.2.1")
	})
}

// The same for one that was asked about, and of which the homeserver didn't say then whose it is.
func TestLeaveCountsThoughItsQuestionFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newLeaving(t, new(options))
		leaves, failed := p.hs.Intercept, false
		p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
			if strings.HasSuffix(r.URL.Path, "/whoami") && !failed {
				failed = true
				answer(w, 500, "")
				return true, nil
			}
			return leaves(w, r)
		})
		p.leaves("192.0.2.1")
	})
}

// A leave that the homeserver refuses ends nothing.
func TestLeaveThatIsRefusedEndsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newLeaving(t, new(options))
		p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
			if r.URL.Path == leavePath {
				answer(w, 403, `{"errcode":"M_FORBIDDEN","error":"x"}`)
			}
			return r.URL.Path == leavePath, nil
		})
		p.WantError(p.Do(request("POST", leavePath, notHere, "{}")), 403, "M_FORBIDDEN")
		synctest.Wait()
		p.Want(p.Get(tokenOf(p.users[1]), p.users[5]), 200, "", "matrix_presence; hit")
	})
}
