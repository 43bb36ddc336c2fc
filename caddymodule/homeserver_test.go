package caddymodule

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/scripted"
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// homeserver is a scripted one with what the tests of this package need besides.
type homeserver struct{ *scripted.Homeserver }

func newHomeserver() *homeserver { return &homeserver{scripted.New()} }

const (
	Alice = scripted.Alice
	bob   = scripted.Bob
	carol = scripted.Carol
)

func answer(w http.ResponseWriter, status int, body string) { scripted.Answer(w, status, body) }

// proxy is a provisioned handler in front of a scripted homeserver.
type proxy struct {
	t       testing.TB
	handler *Handler
	hs      *homeserver
}

// newProxy provisions handler, with a memory of its own.
func newProxy(t testing.TB, handler *Handler) *proxy {
	t.Helper()
	p := &proxy{t: t, handler: handler, hs: newHomeserver()}
	provision(t, handler)
	return p
}

func provision(t testing.TB, handler *Handler) {
	t.Helper()
	if handler.Cache == nil {
		handler.Cache = new(Cache)
	}
	if handler.Cache.Name == "" {
		handler.Cache.Name = t.Name()
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := handler.Provision(ctx); err != nil {
		t.Fatalf("provisioning: %v", err)
	}
	t.Cleanup(func() {
		if err := handler.Cleanup(); err != nil {
			t.Errorf("cleaning up: %v", err)
		}
	})
}

// do sends a request as Caddy's server would. A handler's error becomes the
// response's status, as there.
func (p *proxy) do(r *http.Request) *http.Response {
	p.t.Helper()
	recorder := httptest.NewRecorder()
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), recorder, new(caddyhttp.Server))
	if err := p.handler.ServeHTTP(recorder, r, p.hs); err != nil {
		handlerErr, ok := err.(caddyhttp.HandlerError)
		if !ok {
			p.t.Fatalf("%s %s: an error without a status: %v", r.Method, r.URL, err)
		}
		recorder.WriteHeader(handlerErr.StatusCode)
	}
	return recorder.Result()
}

func request(method, target, token, body string) *http.Request {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if body == "" {
		r = httptest.NewRequest(method, target, nil)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}

func statusPath(userID string) string {
	return "/_matrix/client/v3/presence/" + userID + "/status"
}

func (p *proxy) get(token, userID string) *http.Response {
	p.t.Helper()
	return p.do(request("GET", statusPath(userID), token, ""))
}

func (p *proxy) put(token, userID, body string) *http.Response {
	p.t.Helper()
	return p.do(request("PUT", statusPath(userID), token, body))
}

// want fails unless the response has the status and, if they aren't empty, the
// body and a Cache-Status that begins so.
func (p *proxy) want(resp *http.Response, status int, body, cacheStatus string) {
	p.t.Helper()
	got := bodyOf(resp)
	if resp.StatusCode != status {
		p.t.Errorf("status %d, want %d (%s)", resp.StatusCode, status, got)
	}
	if body != "" && got != body {
		p.t.Errorf("body %s, want %s", got, body)
	}
	if value := resp.Header.Get("Cache-Status"); !strings.HasPrefix(value, cacheStatus) {
		p.t.Errorf("Cache-Status %q, want it to begin with %q", value, cacheStatus)
	}
}

// wantError fails unless the response is a Matrix error with what browsers need.
func (p *proxy) wantError(resp *http.Response, status int, errcode string) {
	p.t.Helper()
	body := bodyOf(resp)
	var object struct {
		Errcode, Error string
	}
	if err := json.Unmarshal([]byte(body), &object); err != nil || resp.StatusCode != status || object.Errcode != errcode || object.Error == "" {
		p.t.Errorf("got %d %s, want %d with errcode %s", resp.StatusCode, body, status, errcode)
	}
	if origin := resp.Header.Get("Access-Control-Allow-Origin"); origin != "*" {
		p.t.Errorf("%d %s: Access-Control-Allow-Origin is %q", status, errcode, origin)
	}
	if contentType := resp.Header.Get("Content-Type"); contentType != "application/json" {
		p.t.Errorf("%d %s: Content-Type is %q", status, errcode, contentType)
	}
}

func (p *proxy) wantCounts(want map[string]int) {
	p.t.Helper()
	for what, n := range want {
		if got := p.hs.Count(what); got != n {
			p.t.Errorf("the homeserver got %d requests of %s, want %d", got, what, n)
		}
	}
}

// bodyOf reads the body and puts it back.
func bodyOf(resp *http.Response) string {
	body, _ := io.ReadAll(resp.Body)
	resp.Body = io.NopCloser(strings.NewReader(string(body)))
	return string(body)
}

func ptr(d time.Duration) *caddy.Duration {
	duration := caddy.Duration(d)
	return &duration
}
