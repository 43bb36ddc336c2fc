package feed

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

var each = flag.Int("each", 4, "changes of each kind of which it is measured how late they are seen")

// change is one that is made at some moment past the module, and seen by somebody later.
type change struct {
	kind   string
	within time.Duration // the moment is within so long after what is to change has been kept
	most   time.Duration // it is seen
	keep   func()
	make   func()
	made   func() bool // whether it is, if Synapse makes it by itself; else nil
	seen   func() bool

	due, since time.Time // to be made, and made
	took       time.Duration
}

// TestHowLateChangesAreSeen measures it, without the feed and with it, where each change comes at any moment of
// the lifetime of what it makes untrue.
func TestHowLateChangesAreSeen(t *testing.T) {
	if !suite.Full() {
		t.Skip("it takes five minutes")
	}
	for _, fed := range []bool{false, true} {
		t.Run(map[bool]string{false: "without the feed", true: "with the feed"}[fed], func(t *testing.T) {
			w := newWorld(t)
			w.unfed, w.lifetimes = !fed, "" // the defaults
			w.before(w.rights())
			if fed {
				w.live()
			}
			ttl, identity := 30*time.Second, 2*time.Minute // the defaults
			if fed {
				identity = ttl // it is of no matter
			}
			changes := w.changes(*each, ttl, identity)
			w.play(changes)
			for _, kind := range []string{"device", "sync", "timer", "leave", "kick", "logout", "deactivation"} {
				var took []time.Duration
				most := time.Duration(0)
				for _, c := range changes {
					if c.kind == kind {
						took, most = append(took, c.took), c.most
					}
				}
				slices.Sort(took)
				last := took[len(took)-1]
				t.Logf("%-12s seen after %v, at most %v, of %d", kind, took[len(took)/2].Round(time.Millisecond), last.Round(time.Millisecond), len(took))
				if last > most+5*time.Second {
					t.Errorf("a %s was seen after %v, want %v at most", kind, last, most)
				}
			}
		})
	}
}

// changes returns so many of each kind, about users of their own.
func (w *world) changes(n int, ttl, identity time.Duration) (all []*change) {
	bob := w.bob.AccessToken
	shows := func(of homeserver.User, text string) func() bool {
		return func() bool { _, body, _ := w.read(bob, of); return strings.Contains(body, text) }
	}
	refuses := func(viewer homeserver.User, want int) func() bool {
		return func() bool { status, _, _ := w.read(viewer.AccessToken, w.alice); return status == want }
	}
	set := func(user homeserver.User, presence string) {
		w.at(w.hs.PresenceURL, http.MethodPut, statusPath(user), user.AccessToken, map[string]any{"presence": presence})
	}
	for i := range n {
		user := func(kind string) homeserver.User {
			u := w.register(fmt.Sprint(kind, i))
			w.join(u)
			return u
		}
		device, syncs, timer := user("device"), user("syncs"), user("timer")
		leaves, kicked, out, gone := user("leaves"), user("kicked"), user("out"), user("gone")
		all = append(all,
			&change{kind: "device", within: ttl, most: ttl, keep: func() { set(device, "unavailable"); w.read(bob, device) },
				make: func() { set(device, "offline") }, seen: shows(device, "offline")},
			&change{kind: "sync", within: ttl, most: ttl, keep: func() { set(syncs, "unavailable"); w.read(bob, syncs) },
				make: func() {
					w.at(w.hs.SyncURL, http.MethodGet, "/_matrix/client/v3/sync?timeout=0&set_presence=online", syncs.AccessToken, nil)
				}, seen: shows(syncs, "online")},
			&change{kind: "timer", most: ttl, keep: func() { set(timer, "online"); w.read(bob, timer) }, make: func() {},
				made: func() bool { _, body := w.get(w.hs.PresenceURL, bob, timer); return strings.Contains(body, "offline") }, seen: shows(timer, "offline")},
			&change{kind: "leave", within: ttl, most: ttl, keep: func() { w.read(leaves.AccessToken, w.alice) }, make: func() {
				w.do(http.MethodPost, "/_matrix/client/v3/rooms/"+w.room+"/leave", leaves.AccessToken, map[string]any{}, nil)
			}, seen: refuses(leaves, 403)},
			&change{kind: "kick", within: ttl, most: ttl, keep: func() { w.read(kicked.AccessToken, w.alice) }, make: func() {
				w.do(http.MethodPost, "/_matrix/client/v3/rooms/"+w.room+"/kick", w.alice.AccessToken, map[string]any{"user_id": kicked.ID}, nil)
			}, seen: refuses(kicked, 403)},
			&change{kind: "logout", within: identity, most: identity, keep: func() { w.read(out.AccessToken, w.alice) }, make: func() {
				w.do(http.MethodPost, "/_matrix/client/v3/logout", out.AccessToken, map[string]any{}, nil)
			}, seen: refuses(out, 401)},
			&change{kind: "deactivation", within: identity, most: identity, keep: func() { w.read(gone.AccessToken, w.alice) }, make: func() {
				w.do(http.MethodPost, "/_synapse/admin/v1/deactivate/"+gone.ID, w.root.AccessToken, map[string]any{}, nil)
			}, seen: refuses(gone, 401)},
		)
	}
	return all
}

// play makes all changes, each at its moment, and looks again and again until all are seen.
func (w *world) play(all []*change) {
	w.Helper()
	time.Sleep(2 * time.Second) // what was written to make the users has settled
	for _, c := range all {
		c.keep()
		c.due = time.Now().Add(rand.N(c.within + 1))
	}
	for left := slices.Clone(all); len(left) > 0; time.Sleep(5 * time.Millisecond) {
		left = slices.DeleteFunc(left, func(c *change) bool {
			switch {
			case !c.since.IsZero():
				if c.seen() {
					c.took = time.Since(c.since)
				}
				return c.took > 0
			case c.made != nil:
				if c.made() {
					c.since = time.Now()
				} else {
					c.seen() // else nothing is in memory by then
				}
			case time.Now().After(c.due):
				c.make()
				c.since = time.Now()
			default:
				c.seen() // somebody looks all the time
			}
			return false
		})
		if w.Context().Err() != nil || time.Since(all[0].due) > 5*time.Minute {
			w.Fatalf("%d changes aren't seen, the first a %s", len(left), left[0].kind)
		}
	}
}
