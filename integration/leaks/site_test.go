package leaks_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"      // the Caddyfile adapter
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy" // reverse_proxy
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"            // the default storage
	_ "github.com/caddyserver/caddy/v2/modules/logging"                // the formats of logs

	_ "github.com/caddy-matrix/caddy-matrix-presence/caddymodule" // what is tested
)

// The modules that tie Caddy to the test are registered once in a process, so what they
// are tied to is found here.
var (
	behind atomic.Pointer[homeserver]
	front  atomic.Pointer[pipes]
	logged atomic.Pointer[journal]
)

func init() {
	caddy.RegisterModule(transport{})
	caddy.RegisterModule(logWriter{})
	caddy.RegisterNetwork("pipe", func(context.Context, string, string, string, uint, net.ListenConfig) (any, error) {
		p := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		front.Store(p)
		return p, nil
	})
}

// transport is reverse_proxy's way to the model.
type transport struct{}

func (transport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport.model",
		New: func() caddy.Module { return new(transport) },
	}
}

func (transport) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

func (transport) RoundTrip(r *http.Request) (*http.Response, error) {
	return behind.Load().RoundTrip(r)
}

// pipes is a listener whose connections are pipes.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }

// dial connects from an address.
func (p *pipes) dial(from net.IP) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- addressed{server, from}:
		return client, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

type addressed struct {
	net.Conn
	from net.IP
}

func (a addressed) RemoteAddr() net.Addr { return &net.TCPAddr{IP: a.from, Port: 40000} }

// logWriter is where all of Caddy's logs go.
type logWriter struct{}

func (logWriter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.logging.writers.journal",
		New: func() caddy.Module { return new(logWriter) },
	}
}

func (logWriter) String() string                                { return "journal" }
func (logWriter) WriterKey() string                             { return "journal" }
func (logWriter) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }
func (logWriter) OpenWriter() (io.WriteCloser, error)           { return logWriter{}, nil }
func (logWriter) Close() error                                  { return nil }
func (logWriter) Write(line []byte) (int, error)                { return logged.Load().write(line) }

// journal looks for tokens in what is logged.
type journal struct {
	lines atomic.Int64

	mu     sync.Mutex // guards tokens
	tokens []string   // lines with one
	panics []string
}

func (j *journal) write(line []byte) (int, error) {
	j.lines.Add(1)
	if holdsToken(line) {
		j.mu.Lock()
		j.tokens = append(j.tokens, string(line))
		j.mu.Unlock()
	}
	if bytes.Contains(line, []byte("panic")) {
		j.mu.Lock()
		j.panics = append(j.panics, string(line))
		j.mu.Unlock()
	}
	return len(line), nil
}

func (j *journal) found() (tokens, panics []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.tokens), slices.Clone(j.panics)
}

// tokenMark is in every access token.
const tokenMark = "sEcReT"

var escapes = regexp.MustCompile(`(?:%[0-9A-Fa-f]{2})+`)

// holdsToken finds tokens also where they are percent-encoded.
func holdsToken(b []byte) bool {
	if bytes.Contains(b, []byte(tokenMark)) {
		return true
	}
	if bytes.IndexByte(b, '%') < 0 {
		return false
	}
	decoded := escapes.ReplaceAllFunc(b, func(escaped []byte) []byte {
		s, _ := url.PathUnescape(string(escaped))
		return []byte(s)
	})
	return bytes.Contains(decoded, []byte(tokenMark))
}

// site is what the Caddyfile says. The logs are those of Caddyfile.example, and more
// is logged.
const site = `{
	admin off
	persist_config off
	storage_check off
	storage_clean_interval off
	auto_https off
	grace_period 1m
	log {
		output journal
		level DEBUG
		format filter {
			wrap json
			request>uri query {
				replace access_token REDACTED
			}
		}
	}
}
http://example.com {
	bind pipe/site
	log {
		output journal
		format filter {
			wrap json
			request>uri query {
				replace access_token REDACTED
			}
		}
	}
	matrix_presence {
		DIRECTIVES
	}
	reverse_proxy localhost:8008 {
		transport model
	}
}
`

// open starts Caddy before a homeserver, until the test is over. It must be called in a
// bubble.
func open(t interface {
	Cleanup(func())
	Errorf(string, ...any)
	Fatal(...any)
}, hs *homeserver, directives string) *journal {
	j := new(journal)
	behind.Store(hs)
	logged.Store(j)
	if err := load(directives); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		hs.rest()
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping Caddy: %v", err)
		}
		time.Sleep(10 * time.Minute) // for what Caddy does by and by
	})
	return j
}

// load starts Caddy, or reloads it.
func load(directives string) error {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(strings.Replace(site, "DIRECTIVES", directives, 1)), nil)
	if err != nil {
		return fmt.Errorf("adapting the Caddyfile: %w", err)
	}
	if err := caddy.Load(config, true); err != nil {
		return fmt.Errorf("loading the Caddyfile: %w", err)
	}
	return nil
}
