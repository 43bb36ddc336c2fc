package integration_test

import (
	"encoding/json"
	"net/http"
	"strconv"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/protocol"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// TestWriteLimit: the user has one budget, whichever device, token or spelling
// she uses, and a stranger can't spend it.
func TestWriteLimit(t *testing.T) {
	eachProtocol(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver, p protocol.Protocol) {
		c := newCast(t, hs)
		up := newUpstream(t, hs.URL, nil)
		s := siteOver(t, p, up.URL, "write_limit 1/1h burst 3")

		for range 5 { // nothing that is refused costs alice anything
			expectOwn(t, c.request(put(ofAlice, "bob", online)).to(t, s.URL), 403, "M_FORBIDDEN")
			if a := c.request(put(ofAlice, "nonsense", online)).to(t, s.URL); a.status != 401 {
				t.Errorf("a bad token: %s", a)
			}
		}
		again, err := hs.Login(t.Context(), c.alice.ID, c.alice.Password)
		if err != nil {
			t.Fatal(err)
		}
		for i, write := range []request{
			c.request(put(ofAlice, "alice", online)),
			c.request(put(ofAlice, again.AccessToken, online)),
			c.request(put(r0, "alice", online)),
		} {
			if a := write.to(t, s.URL); !a.is(200, `{}`) {
				t.Errorf("write %d within the budget: %s", i, a)
			}
		}
		before := up.Counts().Writes
		for _, write := range []request{
			c.request(put(ofAlice, "alice", online)),
			c.request(put(ofAlice, again.AccessToken, online)),
			c.request(put(r0, "alice", online)),
			c.request(put(ofAlice+"?access_token={alice.token}", "", online)),
		} {
			expectLimited(t, write.to(t, s.URL))
		}
		if n := up.Counts().Writes; n != before {
			t.Errorf("%d limited writes reached the homeserver", n-before)
		}
		if a := c.request(put(ofBob, "bob", online)).to(t, s.URL); !a.is(200, `{}`) {
			t.Errorf("bob, who has a budget of his own: %s", a)
		}
	})
}

func TestReadLimit(t *testing.T) {
	eachProtocol(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver, p protocol.Protocol) {
		c := newCast(t, hs)
		s := siteOver(t, p, hs.URL, "read_limit 1/1h burst 2")
		for i := range 2 {
			if a := c.request(get(ofAlice, "bob")).to(t, s.URL); a.status != 200 {
				t.Errorf("read %d within the budget: %s", i, a)
			}
		}
		expectLimited(t, c.request(get(ofAlice, "bob")).to(t, s.URL))
		if a := c.request(get(ofAlice, "alice")).to(t, s.URL); a.status != 200 {
			t.Errorf("alice, who has a budget of her own: %s", a)
		}
	})
}

func TestExemptUserIsNotLimited(t *testing.T) {
	hs := suite.Homeserver(t, "dendrite", homeserver.Options{})
	c := newCast(t, hs)
	s := proxy(t, hs.URL, "--write-limit", "1/1h burst 1", "--exempt", "@bob-*:*")
	for range 3 {
		if a := c.request(put(ofBob, "bob", online)).to(t, s.URL); a.status != 200 {
			t.Errorf("bob is exempt: %s", a)
		}
	}
	c.request(put(ofAlice, "alice", online)).to(t, s.URL)
	expectLimited(t, c.request(put(ofAlice, "alice", online)).to(t, s.URL))
}

// expectLimited fails unless a client is told, in both of the ways that clients
// read, how long to wait; and the header, in seconds, is never too early.
func expectLimited(t *testing.T, a answer) {
	t.Helper()
	expectOwn(t, a, http.StatusTooManyRequests, "M_LIMIT_EXCEEDED")
	var body struct {
		RetryAfter int64 `json:"retry_after_ms"`
	}
	if err := json.Unmarshal(a.body, &body); err != nil || body.RetryAfter <= 0 {
		t.Errorf("%s: want retry_after_ms", a)
	}
	seconds, err := strconv.ParseInt(a.header.Get("Retry-After"), 10, 64)
	if err != nil || seconds*1000 < body.RetryAfter {
		t.Errorf("Retry-After %q for %d ms", a.header.Get("Retry-After"), body.RetryAfter)
	}
}

// TestRefusalsDoNotReachTheHomeserver: what the sidecar can decide by itself
// costs the homeserver nothing.
func TestRefusalsDoNotReachTheHomeserver(t *testing.T) {
	eachProtocol(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver, p protocol.Protocol) {
		c := newCast(t, hs)
		up := newUpstream(t, hs.URL, nil)
		s := siteOver(t, p, up.URL, unlimitedSite...)
		for _, send := range []request{
			put(ofAlice, "bob", online),
			put(ofAlice+"/", "bob", online),
			put(ofBob, "bob", "nonsense"),
			put(ofBob, "bob", `{}`),
			put(ofBob, "", online),
			second(put(ofBob, "bob", online), "bob"),
			get(ofAlice, ""),
		} {
			c.request(send).to(t, s.URL)
		}
		if w, r := up.Counts().Writes, up.Counts().Reads; w+r != 0 {
			t.Errorf("%d writes and %d reads reached the homeserver", w, r)
		}
	})
}

// TestHomeserversOwnLimit: a 429 of Synapse's reaches the client as it is.
func TestHomeserversOwnLimit(t *testing.T) {
	hs := suite.Homeserver(t, "synapse", homeserver.Options{KeepPresenceLimit: true})
	c := newCast(t, hs)
	s := proxy(t, hs.URL, unlimited...)
	write := c.request(put(ofAlice, "alice", online))
	if a := write.to(t, s.URL); a.status != 200 {
		t.Fatal(a)
	}
	for name, base := range map[string]string{"direct": hs.URL, "sidecar": s.URL} {
		var a answer
		suite.Eventually(t, "too many", func() bool { // each ten seconds one isn't
			a = write.to(t, base)
			return a.status != http.StatusOK
		})
		if a.status != 429 || a.field("errcode") != "M_LIMIT_EXCEEDED" || a.field("error") != "Too many requests" {
			t.Errorf("%s: %s", name, a)
		}
		if after := a.header.Get("Retry-After"); after != "" {
			t.Errorf("%s: Retry-After %q, which Synapse doesn't send", name, after)
		}
	}
}

// offRows are the homeservers whose admins have turned presence off.
var offRows = []row{
	{"read", get(ofAlice, "bob"), expected{200, `{"presence":"","status_msg":"","currently_active":true}`}, expected{200, `{"presence":"offline"}`}, own{}},
	{"write of one's own", put(ofBob, "bob", online), taken, taken, own{}},
	// Dendrite checks whose it is only if it would tell others.
	{"write of another's", put(ofAlice, "bob", online), taken, synapseOthers, forbidden},
}

func TestPresenceOff(t *testing.T) {
	suite.EachHomeserver(t, homeserver.Options{PresenceOff: true}, func(t *testing.T, hs *homeserver.Homeserver) {
		c := newCast(t, hs)
		runRows(t, c, proxy(t, hs.URL, unlimited...), offRows)
	})
}
