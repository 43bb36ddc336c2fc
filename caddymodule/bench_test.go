package caddymodule

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// discard is a response writer that costs as little as one can.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }

// benchmarkHandler calls a handler alone, as often as asked, on one prepared request.
func benchmarkHandler(b *testing.B, handler caddyhttp.MiddlewareHandler, next caddyhttp.Handler, r *http.Request) {
	b.Helper()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		w := &discard{header: make(http.Header)}
		r := caddyhttp.PrepareRequest(r.Clone(r.Context()), caddy.NewReplacer(), w, new(caddyhttp.Server))
		for pb.Next() {
			clear(w.header)
			if err := handler.ServeHTTP(w, r, next); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkHit(b *testing.B) {
	p := newProxy(b, &Handler{ReadLimit: &Limit{Events: 1 << 30, Window: caddy.Duration(1e9)}, Cache: &Cache{TTL: caddy.Duration(500e9)}, Identity: &Identity{TTL: caddy.Duration(1e15)}})
	p.hs.presence[alice] = `{"presence":"unavailable","last_active_ago":123456,"status_msg":"away, back at noon"}`
	r := request("GET", statusPath(alice), "bob-token", "")
	for range 2 {
		p.do(r)
	}
	if got := p.do(r).Header.Get("Cache-Status"); got[:20] != "matrix_presence; hit" {
		b.Fatal(got)
	}
	benchmarkHandler(b, p.handler, p.hs, r)
}

func BenchmarkStaticResponse(b *testing.B) {
	static := caddyhttp.StaticResponse{Body: `{"presence":"unavailable","last_active_ago":123456,"status_msg":"away, back at noon"}`}
	benchmarkHandler(b, static, nil, httptest.NewRequest("GET", "/", nil))
}
