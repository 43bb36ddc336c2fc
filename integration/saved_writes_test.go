package integration_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/protocol"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// TestRepeatedWritesAreAbsorbed: of what a bridge says again and again the homeserver
// hears once, and it is what the homeserver has.
func TestRepeatedWritesAreAbsorbed(t *testing.T) {
	eachProtocol(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver, p protocol.Protocol) {
		c := newCast(t, hs)
		up := newUpstream(t, hs.URL, nil)
		s := siteOver(t, p, up.URL, "repeat_writes absorb\n\t\trefresh 25s\n\t\twrite_limit off")
		write := c.request(put(ofAlice, "alice", stateWith("on the train")))
		for range 20 {
			if a := write.to(t, s.URL); !a.is(200, `{}`) {
				t.Errorf("a write: %s", a)
			}
		}
		if n := up.Counts().Writes; n != 1 {
			t.Errorf("%d writes reached the homeserver, want 1", n)
		}
		read := c.request(get(ofAlice, "bob"))
		for _, base := range []string{hs.URL, s.URL} {
			suite.Eventually(t, "the state shows", func() bool { return read.to(t, base).field("status_msg") == "on the train" })
		}

		// The other device says something else; then the same is news again.
		again, err := hs.Login(t.Context(), c.alice.ID, c.alice.Password)
		if err != nil {
			t.Fatal(err)
		}
		c.request(put(ofAlice, again.AccessToken, stateWith("at home"))).to(t, s.URL)
		suite.Eventually(t, "the other state shows", func() bool { return read.to(t, hs.URL).field("status_msg") == "at home" })
		write.to(t, s.URL)
		suite.Eventually(t, "the first state shows again", func() bool { return read.to(t, hs.URL).field("status_msg") == "on the train" })
		if n := up.Counts().Writes; n != 3 {
			t.Errorf("%d writes reached the homeserver, want 3", n)
		}
	})
}

// TestRepeatWithoutAStatus: without status_msg a write clears the status on Synapse and
// keeps it on Dendrite. To say so twice is the same as once on both.
func TestRepeatWithoutAStatus(t *testing.T) {
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		c := newCast(t, hs)
		s := site(t, "repeat_writes absorb\n\t\twrite_limit off", hs.URL)
		read := c.request(get(ofAlice, "alice"))
		c.request(put(ofAlice, "alice", stateWith("here"))).to(t, s.URL)
		suite.Eventually(t, "the status shows", func() bool { return read.to(t, hs.URL).field("status_msg") == "here" })
		write := c.request(put(ofAlice, "alice", `{"presence":"unavailable"}`))
		write.to(t, s.URL)
		suite.Eventually(t, "the write shows", func() bool { return read.to(t, hs.URL).field("presence") == "unavailable" })
		after := read.to(t, hs.URL).field("status_msg")
		if a := write.to(t, s.URL); !strings.Contains(a.cacheStatus(), "absorbed") {
			t.Errorf("the second write: %s (%s)", a, a.cacheStatus())
		}
		// What the homeserver does with a repeat that it gets, it has done before.
		write.to(t, hs.URL)
		if got := read.to(t, hs.URL).field("status_msg"); got != after {
			t.Errorf("the status was %q, and is %q after a repeat that reached the homeserver", after, got)
		}
	})
}

// TestActivityMakesARepeatNews: a message makes an idle user active again on Synapse, so
// that to be idle once more is a change.
func TestActivityMakesARepeatNews(t *testing.T) {
	hs := suite.Homeserver(t, "synapse", homeserver.Options{})
	c := newCast(t, hs)
	s := site(t, "repeat_writes absorb\n\t\twrite_limit off", hs.URL)
	read := c.request(get(ofAlice, "bob"))
	idle := c.request(put(ofAlice, "alice", `{"presence":"unavailable"}`))
	idle.to(t, s.URL)
	message := request{
		method: http.MethodPut, path: "/_matrix/client/v3/rooms/" + c.room + "/send/m.room.message/1",
		token: c.alice.AccessToken, body: `{"msgtype":"m.text","body":"hello"}`,
	}
	if a := message.to(t, s.URL); a.status != 200 {
		t.Fatal(a)
	}
	suite.Eventually(t, "alice is active", func() bool { return read.to(t, hs.URL).field("presence") == "online" })
	if a := idle.to(t, s.URL); strings.Contains(a.cacheStatus(), "absorbed") {
		t.Errorf("idle once more: %s (%s)", a, a.cacheStatus())
	}
	suite.Eventually(t, "alice is idle again", func() bool { return read.to(t, hs.URL).field("presence") == "unavailable" })
}

// TestWritesOverTheLimitAreCoalesced: the homeserver gets few of many, and the last.
func TestWritesOverTheLimitAreCoalesced(t *testing.T) {
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		c := newCast(t, hs)
		up := newUpstream(t, hs.URL, nil)
		s := site(t, "write_limit 2/1s burst 1\n\t\tover_limit coalesce", up.URL)
		const writes = 100
		began := time.Now()
		for n := range writes {
			if a := c.request(put(ofAlice, "alice", stateWith(fmt.Sprint(n)))).to(t, s.URL); !a.is(200, `{}`) {
				t.Errorf("write %d: %s", n, a)
			}
		}
		read := c.request(get(ofAlice, "bob"))
		for _, base := range []string{s.URL, hs.URL} {
			suite.Eventually(t, "the last write shows", func() bool { return read.to(t, base).field("status_msg") == fmt.Sprint(writes-1) })
		}
		if n, most := up.Counts().Writes, int64(2+2*time.Since(began).Seconds()); n > most {
			t.Errorf("%d of %d writes reached the homeserver, at most %d were allowed", n, writes, most)
		}
	})
}

// TestObserveChangesNothing: what would be limited or refused by us goes through, and is
// counted.
func TestObserveChangesNothing(t *testing.T) {
	eachProtocol(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver, p protocol.Protocol) {
		c := newCast(t, hs)
		c.settle(t, "here")
		s := siteOver(t, p, hs.URL, "mode observe\n\t\twrite_limit 1/1h burst 1\n\t\tread_limit 1/1h burst 2")
		for _, r := range []request{
			get(ofAlice, "bob"), get(ofAlice, "bob"), get(ofAlice, "bob"), get(ofAlice, "stranger"), get(ofAlice, "nonsense"),
			get(ofAlice, ""), put(ofAlice, "bob", online), put(ofAlice, "alice", "{"), put(ofAlice, "nonsense", online),
		} {
			direct, through := c.request(r).to(t, hs.URL), c.request(r).to(t, s.URL)
			expectSame(t, direct, through)
			if status := through.cacheStatus(); status != "" {
				t.Errorf("Cache-Status is %q", status)
			}
		}
	})
}

// TestALostFirstWriteIsMended: Synapse may lose an acknowledged write that comes at the same moment
// as the first read of its user. Through absorb the repeats, which mend it directly, were kept
// from the homeserver for as long as refresh, whatever readers saw.
func TestALostFirstWriteIsMended(t *testing.T) {
	hs := suite.Homeserver(t, "synapse", homeserver.Options{})
	s := site(t, "repeat_writes absorb\n\t\trefresh 25s\n\t\twrite_limit off", hs.URL)
	var users []*cast
	for range 8 {
		users = append(users, newCast(t, hs))
	}
	var lost atomic.Int64
	var all sync.WaitGroup
	for _, c := range users {
		for _, name := range []string{"alice", "bob", "stranger"} {
			path := "/_matrix/client/v3/presence/{" + name + "}/status"
			read, write := c.request(get(path, name)), c.request(put(path, name, online))
			all.Go(func() {
				var first sync.WaitGroup
				for _, r := range []request{read, write, read} {
					first.Go(func() { _, _ = r.try(t.Context(), s.URL) })
				}
				first.Wait()
				if a, err := read.try(t.Context(), hs.URL); err != nil || a.field("presence") != "online" {
					lost.Add(1)
				}
				for tries := 0; ; tries++ {
					direct, err := read.try(t.Context(), hs.URL)
					through, errThrough := read.try(t.Context(), s.URL)
					if err != nil || errThrough != nil {
						t.Errorf("reading: %v, %v", err, errThrough)
						return
					}
					if direct.field("presence") == "online" && through.field("presence") == "online" {
						return
					}
					if tries == 50 {
						t.Errorf("%s is not online after its repeats: %s, through the sidecar %s", name, direct, through)
						return
					}
					if _, err := write.try(t.Context(), s.URL); err != nil {
						t.Error(err)
						return
					}
					time.Sleep(100 * time.Millisecond)
				}
			})
		}
	}
	all.Wait()
	t.Logf("%d of %d first writes were lost", lost.Load(), 3*len(users))
}
