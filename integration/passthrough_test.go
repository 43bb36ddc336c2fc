package integration_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/protocol"
)

// TestOtherRoutesPassUnchanged: everything that is not presence passes through
// the sidecar as it is, whatever the answer is.
func TestOtherRoutesPassUnchanged(t *testing.T) {
	eachProtocol(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver, p protocol.Protocol) {
		c := newCast(t, hs)
		s := siteOver(t, p, hs.URL, unlimitedSite...)
		for name, send := range map[string]request{
			"versions":                get("/_matrix/client/versions", ""),
			"joined rooms":            get("/_matrix/client/v3/joined_rooms", "alice"),
			"joined rooms, bad token": get("/_matrix/client/v3/joined_rooms", "nonsense"),
			"whoami":                  get("/_matrix/client/v3/account/whoami", "alice"),
			"whoami without a token":  get("/_matrix/client/v3/account/whoami", ""),
			"no such path":            get("/_matrix/client/v3/nothing", "alice"),
			"a body that is no JSON":  {method: http.MethodPost, path: "/_matrix/client/v3/createRoom", token: "alice", body: "nonsense"},
			"a preflight":             {method: http.MethodOptions, path: "/_matrix/client/v3/sync"},
			"sync":                    get("/_matrix/client/v3/sync?timeout=0&set_presence=offline", "bob"),
		} {
			t.Run(name, func(t *testing.T) {
				send := c.request(send)
				direct, through := send.to(t, hs.URL), send.to(t, s.URL)
				if name == "sync" {
					direct.body, through.body = withoutPosition(t, direct), withoutPosition(t, through)
				}
				expectSame(t, direct, through)
				if through.cacheStatus() != "" {
					t.Errorf("Cache-Status %q on what is not presence", through.cacheStatus())
				}
			})
		}
	})
}

// withoutPosition is a sync's body without what depends on when one asks: the
// positions, how old each event is, and the presence of others.
func withoutPosition(t *testing.T, a answer) []byte {
	t.Helper()
	if a.status != http.StatusOK {
		t.Fatalf("sync: %s", a)
	}
	var forget func(any)
	forget = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, key := range []string{"next_batch", "prev_batch", "age", "presence"} {
				delete(v, key)
			}
			for _, child := range v {
				forget(child)
			}
		case []any:
			for _, child := range v {
				forget(child)
			}
		}
	}
	body := a.json()
	forget(body)
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestLongSyncEndsWithTheEvent: a sync that waits is answered when something
// happens, not when a buffer is full or its time is over.
func TestLongSyncEndsWithTheEvent(t *testing.T) {
	eachProtocol(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver, p protocol.Protocol) {
		c := newCast(t, hs)
		// Also where the sync itself may be rewritten.
		s := siteOver(t, p, hs.URL, "write_limit off", "sync_presence limit", "homeserver "+hs.Name)
		since := get("/_matrix/client/v3/sync?timeout=0", c.alice.AccessToken).to(t, s.URL).field("next_batch")

		type result struct {
			a   answer
			err error
		}
		synced := make(chan result, 1)
		go func() {
			// Presence, too, ends a sync, so follow it until the message is there.
			for {
				a, err := get("/_matrix/client/v3/sync?timeout=300000&since="+url.QueryEscape(since), c.alice.AccessToken).try(t.Context(), s.URL)
				if err != nil || a.status != http.StatusOK || bytes.Contains(a.body, []byte("good morning")) {
					synced <- result{a, err}
					return
				}
				since = a.field("next_batch")
			}
		}()
		message := request{method: http.MethodPut, token: c.bob.AccessToken,
			path: "/_matrix/client/v3/rooms/" + url.PathEscape(c.room) + "/send/m.room.message/1",
			body: `{"msgtype":"m.text","body":"good morning"}`}
		if a := message.to(t, s.URL); a.status != http.StatusOK {
			t.Fatal(a)
		}
		if r := <-synced; r.err != nil || r.a.status != http.StatusOK {
			t.Errorf("sync: %s, %v", r.a, r.err)
		}
	})
}

func TestMediaPassesUnchanged(t *testing.T) {
	eachProtocol(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver, p protocol.Protocol) {
		c := newCast(t, hs)
		s := siteOver(t, p, hs.URL, unlimitedSite...)
		file := make([]byte, 3<<20)
		rand.Read(file)

		upload := request{method: http.MethodPost, path: "/_matrix/media/v3/upload?filename=noise.bin", token: c.alice.AccessToken, body: string(file)}
		uploaded := upload.to(t, s.URL)
		media, ok := strings.CutPrefix(uploaded.field("content_uri"), "mxc://")
		if !ok {
			t.Fatalf("upload: %s", uploaded)
		}
		download := get("/_matrix/client/v1/media/download/"+media, c.alice.AccessToken)
		direct, through := download.to(t, hs.URL), download.to(t, s.URL)
		if direct.status != http.StatusOK || through.status != http.StatusOK {
			t.Fatalf("download: %d by the homeserver, %d through the sidecar", direct.status, through.status)
		}
		if !bytes.Equal(through.body, file) {
			t.Error("what came back is not what was sent")
		}
		if d, s := direct.header.Get("Content-Length"), through.header.Get("Content-Length"); d != s {
			t.Errorf("Content-Length %q through the sidecar, %q by the homeserver", s, d)
		}
	})
}
