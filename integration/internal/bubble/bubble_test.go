package bubble_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/bubble"
)

func TestMain(m *testing.M) { os.Exit(bubble.Run(m)) }

const caddyfile = `{
	%s
	servers {
		protocols h1 h2 h2c h3
	}
}
(site) {
	bind pipe/site
	reverse_proxy localhost:8008 {
		transport model
	}
}
http://example.com {
	import site
}
https://example.com {
	import site
	tls %s %s
}
`

type slow time.Duration

func (s slow) RoundTrip(r *http.Request) (*http.Response, error) {
	time.Sleep(time.Duration(s))
	return &http.Response{
		StatusCode: 200, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r, ContentLength: -1,
		Header: http.Header{"Content-Type": {"text/plain"}}, Body: io.NopCloser(strings.NewReader("hello")),
	}, nil
}

// Each protocol is spoken in made-up time, with all of Caddy in between.
func TestEachProtocolInMadeUpTime(t *testing.T) {
	certificate, key, err := bubble.Certificate(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, protocol := range bubble.Protocols {
		t.Run(string(protocol), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bubble.Behind("localhost:8008", slow(time.Minute))
				journal := new(bubble.Journal)
				err := bubble.Load(fmt.Sprintf(caddyfile, bubble.Options, certificate, key), journal)
				if err != nil {
					t.Fatal(err)
				}
				client := &bubble.Client{From: net.IPv4(192, 0, 2, 1)}
				began := time.Now()
				r, _ := http.NewRequest("GET", "http://example.com/", nil)
				if protocol.Secure() {
					r.URL.Scheme = "https"
				}
				resp, err := client.Send(protocol, r)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if string(body) != "hello" || err != nil {
					t.Errorf("%d %q %v", resp.StatusCode, body, err)
				}
				t.Log(resp.Proto, time.Since(began))
				client.Close()
				if err := bubble.Stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Caddy's own transport, with each of its protocols, and each door of a client.
func TestEachWayThroughInMadeUpTime(t *testing.T) {
	for _, versions := range []string{"", "keepalive off", "versions h2c", "compression off"} {
		for door := bubble.Internet; door <= bubble.Unix; door++ {
			t.Run(fmt.Sprint(versions, door), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					seen := ""
					bubble.Behind("localhost:8008", roundTrip(func(r *http.Request) (*http.Response, error) {
						seen = r.Header.Get("X-Forwarded-For")
						return slow(time.Minute).RoundTrip(r)
					}))
					err := bubble.Load(fmt.Sprintf("{\n%s\nservers {\n%s\n}\n}\nhttp://example.com {\nbind pipe/site\nreverse_proxy localhost:8008 {\ntransport wire {\n%s\n}\n}\n}\n", bubble.Options, door.Options(), versions), new(bubble.Journal))
					if err != nil {
						t.Fatal(err)
					}
					client := &bubble.Client{From: net.IPv4(192, 0, 2, 1), Door: door}
					for _, protocol := range []bubble.Protocol{bubble.HTTP1, bubble.HTTP10, bubble.Pipelined} {
						r, _ := http.NewRequest("GET", "http://example.com/", nil)
						resp, err := client.Send(protocol, r)
						if err != nil {
							t.Fatal(protocol, err)
						}
						if body, err := io.ReadAll(resp.Body); string(body) != "hello" || err != nil {
							t.Errorf("%s: %d %q %v", protocol, resp.StatusCode, body, err)
						}
						resp.Body.Close()
						if told := strings.Contains(seen, "192.0.2.1"); told == (door == bubble.Unix) {
							t.Errorf("%s: Caddy takes the client's address for %q", protocol, seen)
						}
					}
					client.Close()
					if err := bubble.Stop(); err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}

type roundTrip func(r *http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
