package differential_test

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/inprocess"
)

// front is the sidecar, or what stands in its place, before a homeserver.
type front struct {
	wire  *client
	relay *relay
	bare  *client // to a Go server that answers 204 to everything
}

func newBare(t *testing.T) *client {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	t.Cleanup(server.Close)
	return newClient(t, server.URL)
}

// options make the sidecar hold on to what it has seen, so that a wrong answer from
// memory is there to be given, and keep users to one write.
const options = `
matrix_presence {
	write_limit 1/1h burst 1
	read_limit off
	exempt @free*:hs.test
	cache {
		ttl 1h
		forbidden_ttl 1h
	}
	identity {
		ttl 1h
		rejected_ttl 1h
	}
}
reverse_proxy `

// newFront starts the sidecar.
func newFront(t *testing.T, c *cast) *front {
	t.Helper()
	return newFrontWith(t, c, options)
}

// newFrontWith starts the sidecar with other options.
func newFrontWith(t *testing.T, c *cast, options string) *front {
	t.Helper()
	relay := newRelay(t, c.hs.URL)
	// Caddy's files, should there be any, are the test's.
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Setenv("XDG_DATA_HOME", dir)
	s, err := inprocess.Start(options + relay.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return &front{newClient(t, s.URL), relay, newBare(t)}
}

// send sends a request through the front, and returns with its answer what went on to
// the homeserver because of it.
func (f *front) send(t *testing.T, r request) (answer, []forwarded) {
	t.Helper()
	f.relay.take()
	a := f.wire.send(t, r)
	return a, f.relay.take()
}

// spend makes the limited users use up their budgets.
func (f *front) spend(t *testing.T, c *cast) {
	t.Helper()
	for _, user := range c.limited {
		status := nextNumber()
		if a, _ := f.send(t, c.write(user, status)); a.Status != http.StatusOK {
			t.Fatalf("the first write of %s: %s", user.ID, a)
		}
		c.waitFor(t, user, status)
		if a, _ := f.send(t, c.write(user, nextNumber())); a.Status != http.StatusTooManyRequests {
			t.Fatalf("the second write of %s: %s", user.ID, a)
		}
	}
}

// notHTTP reports whether a request was refused by Go's HTTP server, so that no handler
// saw it: one without any handler of its own refuses it, too.
func (f *front) notHTTP(t *testing.T, r request, a answer, sent []forwarded) bool {
	t.Helper()
	if len(sent) > 0 || a.field("errcode") != "" || a.Status != 0 && a.Status < 400 {
		return false
	}
	return f.bare.send(t, r).Status != http.StatusNoContent
}

// elsewhere reports whether a request names another host than the sidecar's site, in a
// target in the absolute form. Caddy answers it with an empty 200.
func elsewhere(r request) bool {
	parsed, err := parsed(r)
	return err == nil && parsed.Host != host
}

// disowned reports whether a request names its Authorization as a field of its
// connection, so that a proxy has to take it away. It is the sender's own loss.
func disowned(r request) bool {
	parsed, err := parsed(r)
	return err == nil && strings.Contains(strings.ToLower(strings.Join(parsed.Header["Connection"], ",")), "authorization")
}
