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
