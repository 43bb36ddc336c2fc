package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-matrix/caddy-matrix-presence/caddymodule"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
)

// How a homeserver hangs: each keeps a request for longer than anybody waits.
var hanging = map[string]func(w http.ResponseWriter, r *http.Request){
	"before the head": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	"after 103": func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		<-r.Context().Done()
	},
	"before the body": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusOK)
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	},
	"in the body": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"presence":"online"`)
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	},
	"with a byte a second": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for r.Context().Err() == nil {
			io.WriteString(w, " ")
			http.NewResponseController(w).Flush()
			time.Sleep(time.Second)
		}
	},
}

// TestHangs: how long whom a homeserver that hangs keeps waiting, to the nanosecond, and
// what they get then. Time is made up, connections are pipes, Caddy's reverse_proxy and
// both sides of HTTP are real. The bubble doesn't end while a goroutine is left.
//
// A homeserver that hangs in the body was reported as broken (502) instead of slow (504), because
// caddyhttp.Error keeps the status of a HandlerError anywhere in the chain.
func TestHangs(t *testing.T) {
	const (
		fetch    = 30 * time.Second // a read that several may be waiting for
		slow     = 5 * time.Second  // a reader who has a stale answer
		identity = 10 * time.Second // whose token it is
		leaves   = time.Minute      // a client who is passed on
	)
	trials := 0
	for how, hang := range hanging {
		for _, tc := range []struct {
			role   string
			what   kind // that hangs
			method string
			path   string
			known  bool
			stale  bool // there is an answer that is no longer fresh
			crowd  int  // how many ask at once
			status int  // 0: whatever it is, the client has left
			within time.Duration
		}{
			{"read", read, "GET", statusPath(alice), true, false, 1, 504, fetch},
			{"readers", read, "GET", statusPath(alice), true, false, 8, 504, fetch},
			{"stale read", read, "GET", statusPath(alice), true, true, 1, 200, slow},
			{"stale readers", read, "GET", statusPath(alice), true, true, 8, 200, slow},
			{"write", write, "PUT", statusPath(bob), true, false, 1, 0, leaves},
			{"logout", logout, "POST", logoutPath, true, false, 1, 0, leaves},
			{"other", other, "GET", syncPath, true, false, 1, 0, leaves},
			{"whoami of a read", whoami, "GET", statusPath(alice), false, false, 1, 200, identity},
			{"whoami of readers", whoami, "GET", statusPath(alice), false, false, 8, 200, identity},
			{"whoami of a write", whoami, "PUT", statusPath(bob), false, false, 1, 504, identity},
		} {
			trials++
			t.Run(tc.role+" "+how, func(t *testing.T) {
				ctx, proxy := newReverseProxy(t)
				synctest.Test(t, func(t *testing.T) {
					p := newPipes(t, ctx, proxy)
					if tc.known {
						p.want(t, p.ask(t.Context(), "GET", statusPath(bob)), 200, "matrix_presence; fwd=miss; stored")
					}
					if tc.stale {
						p.want(t, p.ask(t.Context(), "GET", statusPath(alice)), 200, "matrix_presence; fwd=miss; stored")
						time.Sleep(time.Minute)
					}
					p.set(tc.what, hang)
					began := time.Now()
					ctx, cancel := context.WithTimeout(t.Context(), leaves)
					defer cancel()
					var wg sync.WaitGroup
					for range tc.crowd {
						wg.Go(func() {
							got := p.ask(ctx, tc.method, tc.path)
							if took := time.Since(began); took != tc.within {
								t.Errorf("it took %v, want %v", took, tc.within)
							}
							cacheStatus := map[string]string{
								"stale read": "matrix_presence; hit; ttl=-", "stale readers": "matrix_presence; hit; ttl=-",
								"whoami of a read": "matrix_presence; fwd=bypass", "whoami of readers": "matrix_presence; fwd=bypass",
							}[tc.role]
							if tc.status != 0 {
								p.want(t, got, tc.status, cacheStatus)
							}
						})
					}
					wg.Wait()

					// When the time of what was left behind is over too, all is as before.
					time.Sleep(fetch)
					p.set(tc.what, nil)
					version := p.hs.presence(bob)
					questions := p.hs.count(whoami)
					switch tc.what {
					case write:
						got := p.ask(t.Context(), "GET", statusPath(bob))
						p.want(t, got, 200, "matrix_presence; fwd=miss")
						if body := got.Body.String(); body != version {
							t.Errorf("after the write the reader got %s, want %s", body, version)
						}
					case logout:
						p.want(t, p.ask(t.Context(), "GET", statusPath(bob)), 401, "")
						if n := p.hs.count(whoami) - questions; n != 1 {
							t.Errorf("after the logout it was asked %d times whose token it is, want once", n)
						}
					default:
						p.want(t, p.ask(t.Context(), "GET", statusPath(alice)), 200, "matrix_presence; fwd=miss; stored")
						p.want(t, p.ask(t.Context(), "GET", statusPath(alice)), 200, "matrix_presence; hit")
					}
				})
			})
		}
	}
	t.Logf("%d trials of a homeserver that hangs: readers wait %v, with a stale answer %v, for whose token it is %v; nothing is left after that",
		trials, fetch, slow, identity)
}

const alice, bob = "@alice:example.com", "@bob:example.com"

// pipes is the module before reverse_proxy before a homeserver, without a socket.
type pipes struct {
	hs      *homeserver
	handler *caddymodule.Handler
	proxy   *reverseproxy.Handler

	mu   sync.Mutex // guards all below
	hang map[kind]func(http.ResponseWriter, *http.Request)
}

// newReverseProxy is to be called outside of the bubble: what Caddy begins with it has
// no end.
func newReverseProxy(t *testing.T) (caddy.Context, *reverseproxy.Handler) {
	t.Helper()
	config, err := caddy.ProvisionContext(&caddy.Config{
		Admin:   &caddy.AdminConfig{Disabled: true, Config: &caddy.ConfigSettings{Persist: new(bool)}},
		Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output":"discard"}`)}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(config)
	t.Cleanup(cancel)
	proxy := &reverseproxy.Handler{
		Transport: new(piped),
		Upstreams: reverseproxy.UpstreamPool{{Dial: "homeserver:8008"}},
	}
	if err := proxy.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := proxy.Cleanup(); err != nil {
			t.Error(err)
		}
	})
	return ctx, proxy
}

// piped is reverse_proxy's transport. The one of the bubble is put in there.
type piped struct{ *http.Transport }

func (p *piped) RoundTrip(r *http.Request) (*http.Response, error) {
	r.URL.Scheme = "http"
	return p.Transport.RoundTrip(r)
}

func newPipes(t *testing.T, ctx caddy.Context, proxy *reverseproxy.Handler) *pipes {
	t.Helper()
	p := &pipes{
		hs:    newHomeserver(),
		proxy: proxy,
		handler: &caddymodule.Handler{
			WriteLimit: &caddymodule.Limit{Off: true},
			Cache:      &caddymodule.Cache{Name: t.Name(), StaleIfError: caddy.Duration(time.Hour)},
			Identity:   &caddymodule.Identity{TTL: caddy.Duration(time.Hour)},
		},
		hang: make(map[kind]func(http.ResponseWriter, *http.Request)),
	}
	listener := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	server := &http.Server{Handler: http.HandlerFunc(p.serve)}
	go server.Serve(listener)
	transport := &http.Transport{DialContext: listener.dial}
	proxy.Transport.(*piped).Transport = transport

	if err := p.handler.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.handler.Cleanup(); err != nil {
			t.Error(err)
		}
		transport.CloseIdleConnections()
		server.Close()
	})
	return p
}

// set makes what hang, or with nil not.
func (p *pipes) set(what kind, hang func(http.ResponseWriter, *http.Request)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hang[what] = hang
}

// serve is the homeserver.
func (p *pipes) serve(w http.ResponseWriter, r *http.Request) {
	what, _ := scripted.RouteOf(r)
	p.mu.Lock()
	hang := p.hang[what]
	p.mu.Unlock()
	text, _ := io.ReadAll(r.Body)
	status, body := p.hs.Reply(r, string(text), false)
	if hang != nil {
		hang(w, r)
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	io.WriteString(w, body)
}

// ask sends a request of bob's as Caddy's server does. Of an answer that breaks off the
// recorder has what came before.
func (p *pipes) ask(ctx context.Context, method, path string) *httptest.ResponseRecorder {
	body := ""
	switch method {
	case "PUT":
		body = `{"presence":"online"}`
	case "POST":
		body = `{}`
	}
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	r := httptest.NewRequestWithContext(ctx, method, path, content)
	r.Header.Set("Authorization", "Bearer "+tokenOf(bob))
	recorder := httptest.NewRecorder()
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), recorder, new(caddyhttp.Server))
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		return p.proxy.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil }))
	})
	defer func() {
		if reason := recover(); reason != nil && reason != http.ErrAbortHandler {
			panic(reason)
		}
	}()
	if err := p.handler.ServeHTTP(recorder, r, next); err != nil {
		var handlerErr caddyhttp.HandlerError
		if !errors.As(err, &handlerErr) {
			panic(fmt.Sprintf("%s %s: an error without a status: %v", method, path, err))
		}
		recorder.WriteHeader(handlerErr.StatusCode)
	}
	return recorder
}

func (p *pipes) want(t *testing.T, got *httptest.ResponseRecorder, status int, cacheStatus string) {
	t.Helper()
	if value := got.Header().Get("Cache-Status"); got.Code != status || !strings.HasPrefix(value, cacheStatus) {
		t.Errorf("got %d %.100s (%s), want %d (%s)", got.Code, got.Body, value, status, cacheStatus)
	}
}

// pipeListener is a listener whose connections are pipes.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }
