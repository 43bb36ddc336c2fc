package integration_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/protocol"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

// syncSite starts a sidecar with some options.
func syncSite(t *testing.T, upstream string, options ...string) *sidecar.Sidecar {
	t.Helper()
	return siteOver(t, protocol.HTTP1, upstream, append([]string{"write_limit off"}, options...)...)
}

// follower is a client that syncs, each time from where it was.
type follower struct{ token, since string }

// sync sends one sync, whose query begins with the position, and returns the answer.
func (f *follower) sync(ctx context.Context, base, query string) (answer, error) {
	a, err := get("/_matrix/client/v3/sync?since="+url.QueryEscape(f.since)+query, f.token).try(ctx, base)
	if err == nil && a.status != http.StatusOK {
		err = fmt.Errorf("sync: %s", a)
	}
	if err == nil {
		f.since = a.field("next_batch")
	}
	return a, err
}

func (f *follower) mustSync(t *testing.T, base, query string) {
	t.Helper()
	if _, err := f.sync(t.Context(), base, query); err != nil {
		t.Fatal(err)
	}
}

// follow returns a client of a user that has synced once, directly and without an
// effect on anybody's presence but that it is settled as offline.
func follow(t *testing.T, c *cast, u homeserver.User) *follower {
	t.Helper()
	f := &follower{token: u.AccessToken}
	a := get("/_matrix/client/v3/sync?timeout=0&set_presence=offline", u.AccessToken).to(t, c.hs.URL)
	if f.since = a.field("next_batch"); f.since == "" {
		t.Fatalf("the first sync: %s", a)
	}
	return f
}

// isKnown has a site know whose tokens these are: a sync doesn't wait for that.
func isKnown(t *testing.T, base string, users ...homeserver.User) {
	t.Helper()
	for _, u := range users {
		get("/_matrix/client/v3/presence/"+url.PathEscape(u.ID)+"/status", u.AccessToken).to(t, base)
	}
}

// last is the query of the latest sync without its position.
func (u *upstream) last() string {
	syncs := u.syncs()
	_, rest, _ := strings.Cut(syncs[len(syncs)-1], "&")
	return rest
}

func presenceOf(t *testing.T, c *cast, base string) string {
	t.Helper()
	return c.request(get(ofAlice, "bob")).to(t, base).field("presence")
}

// keep is what leaves a presence alone.
var keep = map[string]string{"synapse": "offline", "dendrite": "unchanged"}

// TestSyncsOnceTheHomeserverIsKnown: a homeserver says itself which one it is, but
// Dendrite only where it federates.
func TestSyncsOnceTheHomeserverIsKnown(t *testing.T) {
	for _, federation := range []bool{true, false} {
		t.Run(fmt.Sprintf("federation %v", federation), func(t *testing.T) {
			suite.EachHomeserver(t, homeserver.Options{Federation: federation}, func(t *testing.T, hs *homeserver.Homeserver) {
				c := newCast(t, hs)
				up := newUpstream(t, hs.URL, nil)
				s := syncSite(t, up.URL, "sync_presence strip")
				alice := follow(t, c, c.alice)
				alice.mustSync(t, s.URL, "&timeout=0") // has the homeserver asked, and doesn't wait for that
				if hs.Name == "dendrite" && !federation {
					if got := up.last(); got != "timeout=0" {
						t.Errorf("not known, but the sync became %q", got)
					}
					suite.Eventually(t, "the log says what to do", func() bool { return strings.Contains(s.Log(), "set homeserver to") })
					return
				}
				suite.Eventually(t, "the homeserver is known", func() bool {
					alice.mustSync(t, s.URL, "&timeout=0")
					return up.last() == "timeout=0&set_presence="+keep[hs.Name]
				})
			})
		})
	}
}

// TestSyncPresenceStrip: no sync touches a presence, in any of its forms.
func TestSyncPresenceStrip(t *testing.T) {
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		c := newCast(t, hs)
		c.settle(t, "asleep")
		s := syncSite(t, hs.URL, "sync_presence strip", "homeserver "+hs.Name)
		alice := follow(t, c, c.alice)
		for _, query := range []string{"", "&set_presence=online", "&set_presence=unavailable", "&x=1;set_presence=online", "&set_presence", "&set%5Fpresence=online"} {
			alice.mustSync(t, s.URL, "&timeout=0"+query)
			if got := presenceOf(t, c, hs.URL); got != "offline" {
				t.Errorf("after a sync with %q alice is %q", query, got)
			}
		}
		// The same directly, so that the test can fail.
		alice.mustSync(t, hs.URL, "&timeout=0")
		suite.Eventually(t, "a sync shows", func() bool { return presenceOf(t, c, hs.URL) == "online" })
	})
}

// TestSyncLimit: a change goes at once and is seen at once by who had the old state
// from memory. A repeat is taken out, and the homeserver's answer to the sync is the
// same.
func TestSyncLimit(t *testing.T) {
	eachProtocol(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver, p protocol.Protocol) {
		c := newCast(t, hs)
		c.settle(t, "asleep")
		up := newUpstream(t, hs.URL, nil)
		s := siteOver(t, p, up.URL, "write_limit off", "sync_presence limit", "homeserver "+hs.Name, "sync_limit 1/1h burst 1")
		alice := follow(t, c, c.alice)
		isKnown(t, s.URL, c.alice)
		if got := presenceOf(t, c, s.URL); got != "offline" {
			t.Fatalf("at first alice is %q", got)
		}
		alice.mustSync(t, s.URL, "&timeout=0") // absent is online
		if got := presenceOf(t, c, s.URL); got != "online" {
			t.Errorf("bob sees %q through the sidecar", got)
		}
		for range 3 {
			alice.mustSync(t, s.URL, "&timeout=0")
			if got := up.last(); got != "timeout=0&set_presence="+keep[hs.Name] {
				t.Errorf("a repeat became %q", got)
			}
			if got := presenceOf(t, c, hs.URL); got != "online" {
				t.Errorf("after a repeat alice is %q", got)
			}
		}
		// Dendrite puts a lower state off that is asked for within ten seconds.
		alice.mustSync(t, s.URL, "&timeout=0&set_presence=unavailable")
		if got := up.last(); got != "timeout=0&set_presence=unavailable" {
			t.Errorf("a change became %q", got)
		}
		if got := presenceOf(t, c, s.URL); hs.Name == "synapse" && got != "unavailable" {
			t.Errorf("bob sees %q through the sidecar", got)
		}
		alice.mustSync(t, s.URL, "&timeout=0&set_presence=online")
		if got := up.last(); got == "timeout=0&set_presence=online" {
			t.Error("a change over the limit went through")
		}
	})
}

// TestDevicesThatDisagree: while one device is in use and another isn't, the user is
// online all the time, although Dendrite by itself makes the user unavailable when the
// one in use has waited for news for ten seconds. When none is in use any more, the
// user is away.
func TestDevicesThatDisagree(t *testing.T) {
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		c := newCast(t, hs)
		again, err := hs.Login(t.Context(), c.alice.ID, c.alice.Password)
		if err != nil {
			t.Fatal(err)
		}
		s := syncSite(t, hs.URL, "sync_presence limit", "homeserver "+hs.Name, "refresh 5s")
		desk, phone := follow(t, c, c.alice), follow(t, c, again)
		isKnown(t, s.URL, c.alice, again)
		desk.mustSync(t, s.URL, "&timeout=0")

		const away = "&timeout=0&set_presence=unavailable"
		var devices sync.WaitGroup
		device := func(ctx context.Context, f *follower, query string) {
			devices.Go(func() {
				for ctx.Err() == nil {
					if _, err := f.sync(ctx, s.URL, query); err != nil && ctx.Err() == nil {
						t.Error(err)
						return
					}
					select {
					case <-ctx.Done():
					case <-time.After(100 * time.Millisecond):
					}
				}
			})
		}
		defer devices.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		inUse, leave := context.WithCancel(ctx)
		defer leave()
		device(ctx, phone, away)
		device(inUse, desk, "&timeout=30000")
		looks := 130
		if hs.Name == "synapse" {
			looks = 30
		}
		for range looks {
			if got := presenceOf(t, c, hs.URL); got != "online" {
				t.Errorf("with one device in use alice is %q", got)
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		leave()
		get("/_matrix/client/v3/sync?"+away, c.alice.AccessToken).to(t, s.URL)
		suite.Eventually(t, "alice is away", func() bool { return presenceOf(t, c, hs.URL) == "unavailable" })
		if got := presenceOf(t, c, s.URL); got != "unavailable" {
			t.Errorf("through the sidecar alice is %q", got)
		}
	})
}

// TestSyncingUsersStayOnline: whoever keeps syncing is not taken for offline because
// repeats are taken out. Synapse does that 30 seconds after it last heard of a device.
func TestSyncingUsersStayOnline(t *testing.T) {
	duration := suite.BySize(5*time.Second, 100*time.Second) // longer than Synapse's timers take
	for name, pace := range map[string]struct {
		query string
		pause time.Duration
	}{
		"long polls":       {"&timeout=30000", 0},
		"short polls":      {"&timeout=0", time.Second},
		"rare short polls": {"&timeout=0", 13 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hs := suite.Homeserver(t, "synapse", homeserver.Options{})
			c := newCast(t, hs)
			up := newUpstream(t, hs.URL, nil)
			s := syncSite(t, up.URL, "sync_presence limit", "homeserver synapse")
			alice := follow(t, c, c.alice)
			isKnown(t, s.URL, c.alice)
			alice.mustSync(t, s.URL, "&timeout=0")
			ctx, cancel := context.WithCancel(t.Context())
			var client sync.WaitGroup
			client.Go(func() {
				for ctx.Err() == nil {
					if _, err := alice.sync(ctx, s.URL, pace.query); err != nil && ctx.Err() == nil {
						t.Error(err)
						return
					}
					select {
					case <-ctx.Done():
					case <-time.After(pace.pause):
					}
				}
			})
			defer client.Wait()
			defer cancel()
			end := time.After(duration)
			for polls := 0; ; polls++ {
				select {
				case <-end:
					stripped := 0
					for _, query := range up.syncs() {
						if strings.HasSuffix(query, "set_presence=offline") {
							stripped++
						}
					}
					t.Logf("%d looks, %d syncs, %d of them without presence", polls, len(up.syncs()), stripped)
					if name == "short polls" && stripped == 0 {
						t.Error("nothing was taken out")
					}
					return
				case <-time.After(200 * time.Millisecond):
				}
				if got := presenceOf(t, c, hs.URL); got != "online" {
					t.Fatalf("alice is %q after %d looks", got, polls)
				}
			}
		})
	}
}
