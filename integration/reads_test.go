package integration_test

import (
	"fmt"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/protocol"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

func TestReadMissesThenHits(t *testing.T) {
	eachProtocol(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver, p protocol.Protocol) {
		c := newCast(t, hs)
		c.settle(t, "fishing")
		up := newUpstream(t, hs.URL, nil)
		s := siteOver(t, p, up.URL, unlimitedSite...)
		read := c.request(get(ofAlice, "bob"))

		direct := read.to(t, hs.URL)
		miss := read.to(t, s.URL)
		if !strings.Contains(miss.cacheStatus(), "matrix_presence; fwd=") || miss.hit() {
			t.Errorf("Cache-Status of the first read %q, want fwd", miss.cacheStatus())
		}
		expectSame(t, direct, miss)

		hit := read.to(t, s.URL)
		if !hit.hit() || !strings.Contains(hit.cacheStatus(), "ttl=") {
			t.Errorf("Cache-Status of the second read %q, want hit and ttl", hit.cacheStatus())
		}
		expectSame(t, direct, hit)

		if n := up.Counts().Reads; n != 1 {
			t.Errorf("the homeserver was asked %d times, want once", n)
		}
	})
}

func TestViewersShareAState(t *testing.T) {
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		c := newCast(t, hs)
		c.settle(t, "fishing")
		s := proxy(t, hs.URL, unlimited...)
		for _, viewer := range []string{"alice", "bob"} {
			read := c.request(get(ofAlice, viewer))
			read.to(t, s.URL)
			if a := read.to(t, s.URL); !a.hit() || a.field("status_msg") != "fishing" {
				t.Errorf("second read by %s: %s (%s), want a hit", viewer, a, a.cacheStatus())
			}
		}
	})
}

// TestWriteInvalidatesForEveryViewer: once a viewer has seen the new state,
// nobody sees the old one again.
func TestWriteInvalidatesForEveryViewer(t *testing.T) {
	eachProtocol(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver, p protocol.Protocol) {
		c := newCast(t, hs)
		c.settle(t, "fishing")
		s := siteOver(t, p, hs.URL, unlimitedSite...)
		viewers := []request{c.request(get(ofAlice, "alice")), c.request(get(ofAlice, "bob"))}
		for round := range 10 {
			for _, read := range viewers { // into memory
				read.to(t, s.URL)
				read.to(t, s.URL)
			}
			status := fmt.Sprintf("caught %d", round)
			if a := c.request(put(ofAlice, "alice", stateWith(status))).to(t, s.URL); a.status != http.StatusOK {
				t.Fatal(a)
			}
			if hs.Name == "dendrite" { // applies it later
				suite.Eventually(t, "the write shows", func() bool { return viewers[0].to(t, s.URL).field("status_msg") == status })
			}
			for range 3 {
				for i, read := range viewers {
					if a := read.to(t, s.URL); a.field("status_msg") != status {
						t.Fatalf("viewer %d reads %s (%s) after %q", i, a, a.cacheStatus(), status)
					}
				}
			}
		}
	})
}

// TestStrangerNeverGetsACachedState: Synapse says who may see whom, and goes on
// saying so when the sidecar could answer by itself.
func TestStrangerNeverGetsACachedState(t *testing.T) {
	hs := suite.Homeserver(t, "synapse", homeserver.Options{})
	c := newCast(t, hs)
	c.settle(t, "fishing")
	s := proxy(t, hs.URL, unlimited...)
	for range 2 {
		if a := c.request(get(ofAlice, "bob")).to(t, s.URL); !a.is(200, fishing.body) {
			t.Errorf("bob reads %s", a)
		}
		stranger := c.request(get(ofAlice, "stranger"))
		expectSame(t, stranger.to(t, hs.URL), stranger.to(t, s.URL))
		if a := stranger.to(t, s.URL); !a.is(403, notVisible.body) {
			t.Errorf("the stranger reads %s", a)
		}
	}
}

// TestUnroutedSpellingIsNotRemembered: Dendrite has no such path and says 404,
// which is nothing about the user.
func TestUnroutedSpellingIsNotRemembered(t *testing.T) {
	hs := suite.Homeserver(t, "dendrite", homeserver.Options{})
	c := newCast(t, hs)
	c.settle(t, "fishing")
	s := proxy(t, hs.URL, unlimited...)
	for _, path := range []string{unstable, apiV1} {
		read := c.request(get(path, "bob"))
		expectSame(t, read.to(t, hs.URL), read.to(t, s.URL))
		if a := c.request(get(ofAlice, "bob")).to(t, s.URL); !a.is(200, activeFishing.body) {
			t.Errorf("after %s bob reads %s", path, a)
		}
	}
}

// TestThousandReadersCostOneRequest holds the homeserver's answer back until
// all thousand have sent their requests, so that none comes late to a hit.
func TestThousandReadersCostOneRequest(t *testing.T) {
	const readers = 1000
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		c := newCast(t, hs)
		c.settle(t, "fishing")

		var sent atomic.Int64
		allSent := make(chan struct{})
		up := newUpstream(t, hs.URL, func() {
			select {
			case <-allSent:
			case <-t.Context().Done():
			}
		})
		s := proxy(t, up.URL, unlimited...)
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			WroteRequest: func(httptrace.WroteRequestInfo) {
				if sent.Add(1) == readers {
					close(allSent)
				}
			},
		})
		read := c.request(get(ofAlice, "bob"))
		var failed atomic.Int64
		var wg sync.WaitGroup
		for range readers {
			wg.Go(func() {
				a, err := read.try(ctx, s.URL)
				if err != nil || a.field("status_msg") != "fishing" {
					if failed.Add(1) == 1 { // one is enough to read
						t.Errorf("a reader got %s, %v", a, err)
					}
				}
			})
		}
		wg.Wait()
		if n := failed.Load(); n > 0 {
			t.Errorf("%d of %d readers got no state", n, readers)
		}
		if n := up.Counts().Reads; n != 1 {
			t.Errorf("the homeserver was asked for presence %d times, want once", n)
		}
		if n := up.Counts().Whoami; n != 1 {
			t.Errorf("the homeserver was asked whose token it is %d times, want once", n)
		}
	})
}

// TestNoCache: without a cache every read is the homeserver's own.
func TestNoCache(t *testing.T) {
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		c := newCast(t, hs)
		c.settle(t, "fishing")
		up := newUpstream(t, hs.URL, nil)
		s := proxy(t, up.URL, append([]string{"--no-cache"}, unlimited...)...)
		read := c.request(get(ofAlice, "bob"))
		for n := range int64(3) {
			if a := read.to(t, s.URL); a.field("status_msg") != "fishing" || a.hit() {
				t.Errorf("read %s (%s)", a, a.cacheStatus())
			}
			if got := up.Counts().Reads; got != n+1 {
				t.Errorf("the homeserver was asked %d times after %d reads", got, n+1)
			}
		}
	})
}
