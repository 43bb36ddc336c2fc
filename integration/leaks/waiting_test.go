package leaks_test

import (
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/bubble"
)

// A read that shares a fetch of another's, or an earlier one of its own, was let in by
// what was known when it came: whose token it is, and that its user may see the target.
// The state machine found that nobody looked again when the fetch had landed, up to
// 30 seconds later, so that a state could be shown for so much longer than the
// lifetimes promise. So it was with a question whose token it is, up to 10 seconds.
func TestWhatEndsDuringAFetchIsNotGoodForItsState(t *testing.T) {
	const (
		alice, bob, carol = "@alice:example.com", "@bob:example.com", "@carol:example.com"
		aliceToken        = bubble.TokenMark + "-alice"
		aliceOther        = bubble.TokenMark + "-alice-other"
		bobToken          = bubble.TokenMark + "-bob"
		carolToken        = bubble.TokenMark + "-carol"
	)
	for _, tc := range []struct {
		name       string
		directives string

		known  string         // token by which alice has read before
		loss   func(w *world) // after that
		before time.Duration  // until carol writes, if she does
		first  string         // token of who begins the fetch
		later  func(w *world) // after that
		slow   string         // how the path ends that the homeserver is slow to answer
		answer time.Duration  // for how long the answer is under way
	}{
		{
			name: "permission, another's fetch", directives: "cache {\nsettle 0\n}",
			known: aliceToken, loss: func(w *world) { w.leave(alice) }, before: 29 * time.Second,
			first: bobToken, slow: "/status", answer: 20 * time.Second,
		},
		{
			name: "identity, another's fetch", directives: "cache {\nsettle 0\n}\nidentity {\nttl 15s\n}",
			known: aliceToken, loss: func(w *world) { delete(w.sessions, aliceToken) }, before: 14 * time.Second,
			first: bobToken, slow: "/status", answer: 10 * time.Second,
		},
		{
			name: "permission, a fetch of one's own", directives: "cache {\nttl 2s\nsettle 0\n}",
			before: time.Second,
			first:  aliceToken, later: func(w *world) { w.leave(alice) }, slow: "/status", answer: 10 * time.Second,
		},
		{
			name: "identity, a question of one's own", directives: "identity {\nttl 3s\n}",
			known: aliceOther,
			first: aliceToken, later: func(w *world) { delete(w.sessions, aliceToken) }, slow: "/whoami", answer: 5 * time.Second,
		},
		{
			// Slow is not down: what is stale doesn't get better by it.
			name: "identity, a question of one's own, stale_if_error", directives: "cache {\nstale_if_error 20s\n}\nidentity {\nttl 3s\n}",
			known: aliceOther,
			first: aliceToken, later: func(w *world) { delete(w.sessions, aliceToken) }, slow: "/whoami", answer: 5 * time.Second,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hs := newHomeserver(dialects[0])
				hs.change(func(w *world) {
					for token, user := range map[string]string{aliceToken: alice, aliceOther: alice, bobToken: bob, carolToken: carol} {
						w.sessions[token] = session{owner: user, device: "PHONE"}
						w.join(0, user)
					}
				})
				open(t, hs, tc.directives)
				send := func(method, token string) *exchange {
					x := &exchange{
						method: method, target: "/_matrix/client/v3/presence/" + carol + "/status",
						fields: []string{"Authorization: Bearer " + token},
					}
					if method == http.MethodPut {
						x.body = `{"presence":"online"}`
					}
					c := client{from: net.IPv4(192, 0, 2, 1)}
					c.send(x, 0)
					c.close()
					return x
				}
				if tc.known != "" {
					send(http.MethodGet, tc.known)
				}
				send(http.MethodGet, bobToken)
				time.Sleep(time.Millisecond)
				if tc.loss != nil {
					hs.change(tc.loss)
				}
				if tc.before > 0 {
					time.Sleep(tc.before)
					if x := send(http.MethodPut, carolToken); x.status != http.StatusOK {
						t.Fatal(x)
					}
				}
				time.Sleep(time.Millisecond)

				slow := true // for the first
				hs.becomes = func(r *http.Request) (c conduct) {
					if slow && strings.HasSuffix(r.URL.Path, tc.slow) {
						slow, c.after = false, tc.answer
					}
					return c
				}
				var first, second *exchange
				var under sync.WaitGroup
				under.Go(func() { first = send(http.MethodGet, tc.first) })
				synctest.Wait()
				time.Sleep(500 * time.Millisecond)
				if tc.later != nil {
					hs.change(tc.later)
				}
				time.Sleep(time.Millisecond)
				under.Go(func() { second = send(http.MethodGet, aliceToken) })
				under.Wait()
				if first.status != http.StatusOK {
					t.Errorf("who was permitted all the time: %v", first)
				}
				if second.status < http.StatusBadRequest {
					t.Errorf("who was not, for longer than the lifetime: %v", second)
				}
			})
		})
	}
}

// A viewer who was refused gets no state of before, not even by a fetch that departed
// before the refusal and is still under way. That took two devices: each has a
// fetch of its own.
func TestRefusalIsNotOvertakenByAnOlderFetch(t *testing.T) {
	const alice, carol = "@alice:example.com", "@carol:example.com"
	const phone, desktop = bubble.TokenMark + "-phone", bubble.TokenMark + "-desktop"
	synctest.Test(t, func(t *testing.T) {
		hs := newHomeserver(dialects[0])
		hs.change(func(w *world) {
			w.sessions[phone] = session{owner: alice, device: "PHONE"}
			w.sessions[desktop] = session{owner: alice, device: "DESKTOP"}
			w.join(0, alice)
			w.join(0, carol)
		})
		open(t, hs, "")
		hs.becomes = func(r *http.Request) (c conduct) {
			if strings.HasSuffix(r.URL.Path, "/status") && strings.HasSuffix(r.Header.Get("Authorization"), phone) {
				c.after = 10 * time.Second
			}
			return c
		}
		read := func(token string) *exchange {
			x := &exchange{
				method: http.MethodGet, target: "/_matrix/client/v3/presence/" + carol + "/status",
				fields: []string{"Authorization: Bearer " + token},
			}
			c := client{from: net.IPv4(192, 0, 2, 1)}
			c.send(x, 0)
			c.close()
			return x
		}
		var again *exchange
		var under sync.WaitGroup
		under.Go(func() { read(phone) })
		time.Sleep(time.Second)
		hs.change(func(w *world) { w.leave(alice) })
		if x := read(desktop); x.status != http.StatusForbidden {
			t.Errorf("after leaving: %v", x)
		}
		time.Sleep(6 * time.Second) // the refusal is no longer told from memory
		under.Go(func() { again = read(phone) })
		under.Wait()
		if again.status != http.StatusForbidden {
			t.Errorf("after the refusal: %v", again)
		}
	})
}
