package caddymodule

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/scripted"
)

const (
	alice = scripted.Alice
	bob   = scripted.Bob
	carol = scripted.Carol
)

var (
	request    = scripted.Request
	statusPath = scripted.StatusPath
	bodyOf     = scripted.Body
	answer     = scripted.Answer
)

// handled is a provisioned handler in front of a scripted homeserver.
type handled struct {
	*scripted.Client
	t       testing.TB
	handler *Handler
}

// handle provisions handler, with a memory of its own.
func handle(t testing.TB, handler *Handler) *handled {
	t.Helper()
	h := &handled{Client: &scripted.Client{T: t, HS: scripted.New()}, t: t, handler: handler}
	h.Do = func(r *http.Request) *http.Response {
		t.Helper()
		recorder := httptest.NewRecorder()
		r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), recorder, new(caddyhttp.Server))
		if err := h.handler.ServeHTTP(recorder, r, h.HS); err != nil {
			handlerErr, ok := err.(caddyhttp.HandlerError)
			if !ok {
				t.Fatalf("%s %s: an error without a status: %v", r.Method, r.URL, err)
			}
			recorder.WriteHeader(handlerErr.StatusCode)
		}
		return recorder.Result()
	}
	provision(t, handler)
	return h
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

// reload provisions handler in the place of the one before, as Caddy does: the new one
// before the old one is cleaned up.
func (h *handled) reload(handler *Handler) {
	h.t.Helper()
	if handler.Cache == nil {
		handler.Cache = new(Cache)
	}
	handler.Cache.Name = h.handler.Cache.Name
	old := h.handler
	provision(h.t, handler)
	if err := old.Cleanup(); err != nil {
		h.t.Fatalf("cleaning up: %v", err)
	}
	old.gateway = nil // its test's cleanup has nothing more to do
	h.handler = handler
}
