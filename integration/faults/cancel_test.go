package faults

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// hangs never answers, and ends when the other side does.
var hangs = &fault{name: "hangs", strike: (*wire).hungUp}

// TestCancelledClientsDoNotPileUp: the homeserver hangs, clients lose patience and
// leave, and come again. Of those who shared a request one goroutine stays with it, until
// it is answered or its time is over (see [TestHangs]); the others go at once. What is
// passed on is given up with its client.
//
// A write whose body hasn't been read yet stays too: until then, net/http doesn't look
// whether the client is still there.
func TestCancelledClientsDoNotPileUp(t *testing.T) {
	s := newSite(t)
	clients := 50
	if suite.Full() {
		clients = 200
	}
	one := func(name string) func() string {
		user := newUser(name)
		return func() string { return user }
	}
	each := func(name string) func() string { return func() string { return newUser(name) } }
	for _, tc := range []struct {
		name         string
		what         kind
		user, target func() string // nil: the user
		known        bool          // whose token it is
		hangs        *upstream
		arrive       int    // how many requests reach the homeserver
		waitIn       string // where the others wait
		stay         int    // how many goroutines may stay until it answers
	}{
		{"readers of one user", read, one("reader"), one("target"), true, s.main, 1, inFetch, 1},
		{"readers of many users", read, one("reader"), each("target"), true, s.main, clients, inFetch, clients},
		{"readers of whom nobody knows who they are", read, one("reader"), one("target"), false, s.whoami, 1, inLookup, 1},
		{"writers of whom nobody knows who they are", write, one("writer"), nil, false, s.whoami, 1, inLookup, clients},
		{"writers", write, each("writer"), nil, true, s.main, clients, "", 0},
		{"logouts", logout, each("user"), nil, true, s.main, clients, "", 0},
		{"others", other, each("user"), nil, true, s.main, clients, "", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			done := s.watch(t)
			type pair struct{ user, target string }
			pairs := make([]pair, clients)
			for i := range pairs {
				pairs[i].user = tc.user()
				pairs[i].target = pairs[i].user
				if tc.target != nil {
					pairs[i].target = tc.target()
				}
				if tc.known {
					s.ask(t, withUs, read, pairs[i].user, pairs[i].user)
				}
			}
			if err := tc.hangs.set(hangs); err != nil {
				t.Fatal(err)
			}
			defer tc.hangs.hangUp()
			defer tc.hangs.set(nil)
			ctx, leave := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			defer wg.Wait()
			defer leave()
			for _, p := range pairs {
				wg.Go(func() {
					if got, err := s.try(ctx, withUs, tc.what, p.user, p.target); !errors.Is(err, context.Canceled) {
						t.Errorf("got %v, %v from a homeserver that hangs", got, err)
					}
				})
			}
			suite.EventuallyNil(t, "all wait", func() error {
				waiting := 0
				if tc.waitIn != "" {
					waiting = waitingIn(tc.waitIn)
				}
				if busy, _, _, _, _ := tc.hangs.state(); busy != tc.arrive || waiting != clients-tc.arrive {
					return fmt.Errorf("%d requests hang, %d wait for them", busy, waiting)
				}
				if n := inHandler(); n != clients {
					return fmt.Errorf("%d requests are in the handler, want all %d", n, clients)
				}
				return nil
			})
			leave()
			wg.Wait()
			suite.EventuallyNil(t, "who left is gone", func() error {
				if n := inHandler(); n > tc.stay {
					return fmt.Errorf("%d goroutines are there, want at most %d", n, tc.stay)
				}
				return nil
			})
			suite.EventuallyNil(t, "what was given up is gone", func() error {
				if busy, _, _, _, _ := tc.hangs.state(); busy > tc.stay {
					return fmt.Errorf("%d requests hang, want at most %d", busy, tc.stay)
				}
				return nil
			})

			// They come again, and it works.
			if err := tc.hangs.set(nil); err != nil {
				t.Fatal(err)
			}
			tc.hangs.hangUp()
			suite.EventuallyNil(t, "the handlers are done", func() error {
				if n := inHandler(); n > 0 {
					return fmt.Errorf("%d are not", n)
				}
				return nil
			})
			tr := &trial{t, s, hangs, nil}
			p := pairs[0]
			questions := tr.asked(whoami, func() {
				// A write that was given up may come to the homeserver still.
				before := s.hs.State(p.target).Version
				got := s.ask(t, withUs, read, p.user, p.target)
				status, body := 200, s.hs.presence(p.target)
				for version := before; version < s.hs.State(p.target).Version; version++ {
					if got.body == presence(version) {
						body = got.body
					}
				}
				if tc.what == logout {
					status, body = 401, ""
				}
				tr.expect("the next read", got, status, body, "")
			})
			if tc.what == logout && questions != 1 {
				t.Errorf("after the logout it was asked %d times whose token it is, want once", questions)
			}
			done(t, false)
			t.Logf("%d clients left: %d requests had reached the homeserver, at most %d goroutines stayed with them", clients, tc.arrive, tc.stay)
		})
	}
}
