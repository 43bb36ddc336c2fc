package faults

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/inprocess"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// The ways through the site, by the header field X-Way.
const (
	withUs  = ""      // the module as most have it
	stale   = "stale" // nothing is fresh for long, and anything is good enough in need
	without = "bare"  // Caddy alone
)

// directives make a site of three ways. Whoami goes to an upstream of its own, as in a
// deployment with workers, so that each can fail without the other.
const directives = `
	@whoami path /_matrix/client/v3/account/whoami
	@bare header X-Way bare
	@stale header X-Way stale
	handle @bare {
		reverse_proxy @whoami WHOAMI
		reverse_proxy MAIN
	}
	handle @stale {
		matrix_presence {
			write_limit off
			cache {
				name stale
				ttl 1ms
				stale_if_error 1h
				settle 0s
			}
			identity {
				timeout 1m
			}
		}
		reverse_proxy @whoami WHOAMI
		reverse_proxy MAIN
	}
	handle {
		matrix_presence {
			write_limit off
			cache {
				name fresh
				ttl 1h
				settle 0s
			}
			identity {
				timeout 1m
			}
		}
		reverse_proxy @whoami WHOAMI
		reverse_proxy MAIN
	}
`

// site is a Caddy between clients and a homeserver that has two upstreams.
type site struct {
	hs           *homeserver
	main, whoami *upstream
	url          string
	log          string // the path of Caddy's log
	read         int    // how much of it has been looked at
}

var users atomic.Int64

// newUser returns a user whom nobody has seen before, so that no trial meets what
// another has left in memory.
func newUser(name string) string {
	return fmt.Sprintf("@%s-%d:example.com", name, users.Add(1))
}

// newSite starts all of it. Before the test ends, it looks for what is left.
func newSite(t *testing.T) *site {
	t.Helper()
	for _, name := range []string{"XDG_CONFIG_HOME", "XDG_DATA_HOME"} {
		t.Setenv(name, t.TempDir())
	}
	s := &site{hs: newHomeserver(), log: filepath.Join(t.TempDir(), "caddy.log")}
	for _, u := range []**upstream{&s.main, &s.whoami} {
		up, err := newUpstream(s.hs)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(up.close)
		*u = up
	}
	config := strings.NewReplacer("MAIN", s.main.address, "WHOAMI", s.whoami.address).Replace(directives)
	server, err := inprocess.Start(config, inprocess.LogTo(s.log))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	s.url = server.URL
	// Whatever Caddy does once, it has done then.
	for _, way := range []string{withUs, stale, without} {
		s.ask(t, way, read, newUser("first"), newUser("first"))
	}
	return s
}

func (s *site) request(way string, what kind, user, target string) *http.Request {
	var r *http.Request
	switch token := tokenOf(user); what {
	case read:
		r = newRequest(s.url, "GET", statusPath(target), token, "")
	case write:
		r = newRequest(s.url, "PUT", statusPath(target), token, `{"presence":"online"}`)
	case logout:
		r = newRequest(s.url, "POST", logoutPath, token, `{}`)
	default:
		r = newRequest(s.url, "GET", syncPath, token, "")
	}
	if way != "" {
		r.Header.Set("X-Way", way)
	}
	return r
}

// ask sends a request of a user about a target.
func (s *site) ask(t *testing.T, way string, what kind, user, target string) seen {
	t.Helper()
	got, err := s.try(t.Context(), way, what, user, target)
	if err != nil {
		t.Fatalf("%v\n%s", err, stacks())
	}
	return got
}

// try is ask for goroutines, which must not end the test.
func (s *site) try(ctx context.Context, way string, what kind, user, target string) (seen, error) {
	return ask(ctx, s.request(way, what, user, target))
}

// watch notes how things are, and returns what looks at the end of a trial whether they
// are so again: no goroutine more, no request under way, no panic and no
// token in the log. Panics are those of Caddy itself that the trial brings about.
func (s *site) watch(t *testing.T) (done func(t *testing.T, panics bool)) {
	t.Helper()
	s.quiet(t)
	s.news(t)
	before := goleak.IgnoreCurrent()
	return func(t *testing.T, panics bool) {
		t.Helper()
		s.quiet(t)
		suite.EventuallyNil(t, "goroutines are as they were", func() error {
			// An upstream that was down listens again, by a new goroutine.
			return goleak.Find(before, goleak.IgnoreAnyFunction("github.com/caddy-matrix/caddy-matrix-presence/integration/faults.(*upstream).accept"))
		})
		news := s.news(t)
		if !panics {
			for line := range strings.Lines(news) {
				if strings.Contains(line, "panic") {
					t.Errorf("a panic is in the log: %.2000s", line)
				}
			}
		}
		if strings.Contains(news, tokenPrefix) {
			t.Errorf("a token is in the log: %.4000s", news)
		}
	}
}

// quiet waits until no request is under way, and closes the connections that are idle,
// with the goroutines that belong to them.
func (s *site) quiet(t *testing.T) {
	t.Helper()
	for _, u := range []*upstream{s.main, s.whoami} {
		suite.EventuallyNil(t, "no request is under way", func() error {
			if busy, _, _, _, _ := u.state(); busy > 0 {
				return fmt.Errorf("%d requests are", busy)
			}
			return nil
		})
		u.hangUp()
		suite.EventuallyNil(t, "no connection is open", func() error {
			if _, open, _, _, _ := u.state(); open > 0 {
				return fmt.Errorf("%d connections are", open)
			}
			return nil
		})
	}
}

// news returns what is new in Caddy's log.
func (s *site) news(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(s.log)
	if err != nil {
		t.Fatal(err)
	}
	news := text[s.read:]
	s.read = len(text)
	return string(news)
}

// stacks returns those of all goroutines.
func stacks() string {
	for size := 256 << 10; ; size *= 2 {
		buffer := make([]byte, size)
		if n := runtime.Stack(buffer, true); n < size {
			return string(buffer[:n])
		}
	}
}

// inHandler returns how many requests our handler has under way.
func inHandler() int {
	return strings.Count(stacks(), "/caddymodule.(*Handler).ServeHTTP(")
}

// Where those wait who share a request of ours with another.
const (
	inFetch  = "gateway.(*Gateway).fetch"
	inLookup = "identity.(*Lookups[...]).Ask"
)

// waitingIn returns how many goroutines wait in such a method of a package, and not in what it calls,
// for what another one brings.
func waitingIn(method string) (n int) {
	for stack := range strings.SplitSeq(stacks(), "\n\n") {
		head, frames, _ := strings.Cut(stack, "\n")
		top, _, _ := strings.Cut(frames, "\n")
		if strings.Contains(head, "[select") && strings.Contains(top, "/"+method+"(") {
			n++
		}
	}
	return n
}
