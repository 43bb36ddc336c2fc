package caddymodule

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/scripted"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// benchmarkHandler calls a handler alone, as often as asked, on one prepared request.
func benchmarkHandler(b *testing.B, handler caddyhttp.MiddlewareHandler, next caddyhttp.Handler, r *http.Request) {
	b.Helper()
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		w := scripted.NewDiscard()
		r := caddyhttp.PrepareRequest(r.Clone(r.Context()), caddy.NewReplacer(), w, new(caddyhttp.Server))
		for pb.Next() {
			clear(w.Header())
			if err := handler.ServeHTTP(w, r, next); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// These compare what the handler does alone with Caddy's own handlers, and with
// what would be done without it.

const benchBody = `{"presence":"unavailable","last_active_ago":123456,"status_msg":"away, back at noon"}`

// ok is a next handler that costs nothing.
var ok = caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })

// unreached is a limit that no benchmark reaches.
var unreached = &Limit{Events: 1 << 30, Window: caddy.Duration(time.Second)}

func newBenchProxy(t testing.TB) *handled {
	p := handle(t, &Handler{
		ReadLimit: unreached,
		Cache:     &Cache{TTL: caddy.Duration(500 * time.Second)},
		Identity:  &Identity{TTL: caddy.Duration(time.Hour)},
	})
	p.HS.Presence[alice] = benchBody
	return p
}

func BenchmarkHit(b *testing.B) { benchmarkHit(b, newBenchProxy(b)) }

// BenchmarkStaticResponse writes what a hit writes, from memory and nothing else.
func BenchmarkStaticResponse(b *testing.B) {
	p := newBenchProxy(b)
	p.Get("bob-token", alice)
	fields := p.Get("bob-token", alice).Header
	fields.Del("Content-Length") // it makes that itself
	benchmarkHandler(b, caddyhttp.StaticResponse{Headers: fields, Body: benchBody}, nil, httptest.NewRequest("GET", "/", nil))
}

// BenchmarkHitBare is a hit of an answer that has no field but Content-Type, which
// is what a StaticResponse without fields adds.
func BenchmarkHitBare(b *testing.B) {
	p := newBenchProxy(b)
	p.HS.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if r.URL.Path != statusPath(alice) {
			return false, nil
		}
		w.Header().Set("Content-Type", "application/json")
		_, err := io.WriteString(w, benchBody)
		return true, err
	}
	benchmarkHit(b, p)
}

func BenchmarkStaticResponseBare(b *testing.B) {
	benchmarkHandler(b, caddyhttp.StaticResponse{Body: benchBody}, nil, httptest.NewRequest("GET", "/", nil))
}

func benchmarkHit(b *testing.B, p *handled) {
	p.Get("bob-token", alice)
	p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; hit")
	benchmarkHandler(b, p.handler, p.HS, request("GET", statusPath(alice), "bob-token", ""))
}

// watchings are what an admin may have switched on, and what a hit should cost no more for: a page that
// nobody looks at, and a brown-out while the homeserver is quick.
var watchings = map[string]func(t testing.TB) *handled{
	"page, nobody looks": func(t testing.TB) *handled {
		p := newBenchProxy(t)
		provisionPage(t, &StatusPage{ShowUsers: true})
		return p
	},
	"brown_out on, quiet": func(t testing.TB) *handled {
		p := newBenchProxy(t)
		p.reload(&Handler{
			ReadLimit: unreached, BrownOut: "on",
			Cache: &Cache{TTL: caddy.Duration(500 * time.Second)}, Identity: &Identity{TTL: caddy.Duration(time.Hour)},
		})
		return p
	},
}

// hitter returns what makes a hit.
func hitter(t testing.TB, p *handled) (hit func()) {
	t.Helper()
	p.Get("bob-token", alice)
	p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; hit")
	w := scripted.NewDiscard()
	r := caddyhttp.PrepareRequest(request("GET", statusPath(alice), "bob-token", ""), caddy.NewReplacer(), w, new(caddyhttp.Server))
	return func() {
		clear(w.Header())
		if err := p.handler.ServeHTTP(w, r, p.HS); err != nil {
			t.Fatal(err)
		}
	}
}

// BenchmarkHitWatched makes hits with one of the watchings and without it in turns. The ratio is that of the quickest
// turns, which the machine's other work has left alone.
func BenchmarkHitWatched(b *testing.B) {
	for name, watched := range watchings {
		b.Run(name, func(b *testing.B) {
			without, with := hitter(b, newBenchProxy(b)), hitter(b, watched(b))
			b.ReportAllocs()
			const turn = 200
			quickest := [2]time.Duration{time.Hour, time.Hour}
			for b.Loop() {
				for i, hit := range []func(){without, with} {
					began := time.Now()
					for range turn {
						hit()
					}
					quickest[i] = min(quickest[i], time.Since(began))
				}
			}
			b.ReportMetric(float64(quickest[1])/float64(quickest[0]), "ratio")
			b.ReportMetric(testing.AllocsPerRun(1000, with)/testing.AllocsPerRun(1000, without), "alloc-ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// Time is for the benchmark: memory is the same each time.
func TestHitsTakeNoMoreMemoryWhileNobodyLooks(t *testing.T) {
	without := testing.AllocsPerRun(1000, hitter(t, newBenchProxy(t)))
	for name, watched := range watchings {
		if with := testing.AllocsPerRun(1000, hitter(t, watched(t))); with > without {
			t.Errorf("%s: a hit allocates %v times, and %v without", name, with, without)
		}
	}
}

// BenchmarkHitLarge is a hit with 90,000 states in memory, asked for in a scattered
// order, by one viewer on each processor. On two it shows whether hits wait for
// each other.
func BenchmarkHitLarge(b *testing.B) {
	p := newBenchProxy(b)
	p.HS.Hidden = nil
	const targets = 90_000
	paths := make([]string, targets)
	viewers := []struct{ userID, token string }{{bob, "bob-token"}, {carol, "carol-token"}}
	for _, viewer := range viewers {
		p.Get(viewer.token, alice)
		for i := range paths {
			target := fmt.Sprintf("@user%06d:example.com", i*7919%targets)
			paths[i] = statusPath(target)
			p.Get(viewer.token, target)
		}
	}
	b.ReportAllocs()
	var goroutines atomic.Int64
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		w := scripted.NewDiscard()
		n := int(goroutines.Add(1))
		token := viewers[n%len(viewers)].token
		r := caddyhttp.PrepareRequest(request("GET", paths[0], token, ""), caddy.NewReplacer(), w, new(caddyhttp.Server))
		for i := n * targets / 2; pb.Next(); i++ {
			clear(w.Header())
			r.URL.Path = paths[i%targets]
			if err := p.handler.ServeHTTP(w, r, p.HS); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkLimited(b *testing.B) {
	p := newBenchProxy(b)
	p.reload(&Handler{ReadLimit: &Limit{Events: 1, Window: caddy.Duration(1000 * time.Hour), Burst: 1}})
	p.Get("bob-token", alice)
	p.WantError(p.Get("bob-token", alice), 429, "M_LIMIT_EXCEEDED")
	benchmarkHandler(b, p.handler, p.HS, request("GET", statusPath(alice), "bob-token", ""))
}

func BenchmarkRefusedWrite(b *testing.B) {
	p := newBenchProxy(b)
	p.WantError(p.Put("bob-token", alice, `{}`), 403, "M_FORBIDDEN")
	benchmarkHandler(b, p.handler, p.HS, request("PUT", statusPath(alice), "bob-token", ""))
}

func BenchmarkPassThrough(b *testing.B) {
	p := newBenchProxy(b)
	benchmarkHandler(b, p.handler, ok, request("GET", "/_matrix/client/v3/sync?timeout=30000", "bob-token", ""))
}

// newMissingProxy returns a proxy in which nothing is fresh for longer than a nanosecond, and a next
// handler that does nothing but answer.
func newMissingProxy(t testing.TB) (*handled, caddyhttp.Handler) {
	p := newBenchProxy(t)
	p.reload(&Handler{ReadLimit: unreached, Cache: &Cache{TTL: 1}})
	p.Get("bob-token", alice)
	p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; fwd=miss; stored")
	return p, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		w.Header()["Content-Type"] = []string{"application/json"}
		_, err := w.Write([]byte(benchBody))
		return err
	})
}

// BenchmarkMiss is all that a miss costs beside the next handler's work.
func BenchmarkMiss(b *testing.B) {
	p, next := newMissingProxy(b)
	benchmarkHandler(b, p.handler, next, request("GET", statusPath(alice), "bob-token", ""))
}

// BenchmarkPreparedRequest is the part of a miss that is Caddy's own: each request of ours gets a
// context, variables and placeholders.
func BenchmarkPreparedRequest(b *testing.B) {
	r, w, server := request("GET", statusPath(alice), "bob-token", ""), scripted.NewDiscard(), new(caddyhttp.Server)
	b.ReportAllocs()
	for b.Loop() {
		caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, server)
	}
}

func TestMissAllocatesLittleMoreThanCaddyForARequest(t *testing.T) {
	if testkit.Race {
		t.Skip("the race detector allocates as well")
	}
	p, next := newMissingProxy(t)
	w := scripted.NewDiscard()
	r := caddyhttp.PrepareRequest(request("GET", statusPath(alice), "bob-token", ""), caddy.NewReplacer(), w, new(caddyhttp.Server))
	allocs := testing.AllocsPerRun(1000, func() {
		clear(w.Header())
		if err := p.handler.ServeHTTP(w, r, next); err != nil {
			t.Fatal(err)
		}
	})
	const most = 65 // of which Caddy has 24, see BenchmarkPreparedRequest
	if allocs > most {
		t.Errorf("a miss allocates %v times, want at most %v", allocs, most)
	}
}
