package faults

import (
	"fmt"
	"io"
	"net/http"
	"runtime/metrics"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// TestEndlessBodiesTakeNoMemory: each reader takes many times more of an endless body
// than the heap may grow by.
func TestEndlessBodiesTakeNoMemory(t *testing.T) {
	s := newSite(t)
	const bound = 64 << 20
	clients, each := 16, int64(8<<20)
	if suite.Full() {
		each = 64 << 20
	}
	for _, tc := range []struct {
		name  string
		what  kind
		fails *upstream
	}{
		{"reads", read, s.main}, {"writes", write, s.main}, {"others", other, s.main},
	} {
		t.Run(tc.name, func(t *testing.T) {
			done := s.watch(t)
			user, target := newUser("user"), newUser("target")
			s.ask(t, withUs, read, user, user)
			if tc.what == write {
				target = user
			}
			if err := tc.fails.set(&fault{strike: goesOn("", `{"presence":`)}); err != nil {
				t.Fatal(err)
			}
			peak := sampleHeap(t)
			var taken atomic.Int64
			var wg sync.WaitGroup
			for range clients {
				wg.Go(func() {
					resp, err := client.Do(s.request(withUs, tc.what, user, target).WithContext(t.Context()))
					if err != nil {
						t.Error(err)
						return
					}
					defer resp.Body.Close()
					n, err := io.CopyN(io.Discard, resp.Body, each)
					if err != nil {
						t.Errorf("after %d bytes: %v", n, err)
					}
					taken.Add(n)
				})
			}
			wg.Wait()
			grown := peak()
			if err := tc.fails.set(nil); err != nil {
				t.Fatal(err)
			}
			if grown > bound {
				t.Errorf("the heap grew by %d MB at its peak, with a bound of %d MB", grown>>20, bound>>20)
			}
			done(t, false)
			t.Logf("%d clients took %d MB; the heap, of both sides and the upstream, grew by %d MB at its peak, bound %d MB",
				clients, taken.Load()>>20, grown>>20, bound>>20)
		})
	}
	t.Run("whoami", func(t *testing.T) {
		done := s.watch(t)
		if err := s.whoami.set(&fault{strike: goesOn("", `{"user_id":`)}); err != nil {
			t.Fatal(err)
		}
		peak := sampleHeap(t)
		for range 50 {
			if got := s.ask(t, withUs, read, newUser("reader"), newUser("target")); got.status != 200 {
				t.Errorf("got %v", got)
			}
		}
		grown := peak()
		if err := s.whoami.set(nil); err != nil {
			t.Fatal(err)
		}
		if grown > bound {
			t.Errorf("the heap grew by %d MB at its peak, with a bound of %d MB", grown>>20, bound>>20)
		}
		done(t, false)
	})
}

// TestLargeFieldsAreNotKept: the header fields that are kept with an answer are bounded, as
// its body is. They are the homeserver's own, or those of a proxy on the way; one that
// repeats the client's Origin lets anybody choose them.
//
// Each answer has fields of its own, so none can share another's.
func TestLargeFieldsAreNotKept(t *testing.T) {
	const answers, length = 100, 64 << 10
	var n atomic.Int64
	field := func() string {
		return fmt.Sprintf("Access-Control-Allow-Origin: https://%d.%s\r\n", n.Add(1), strings.Repeat("x", length))
	}
	reply := func(status int, body string) *fault {
		return &fault{strike: func(w *wire) bool {
			return replies(fmt.Sprint(status, " ", http.StatusText(status)), isJSON+field(), body)(w)
		}}
	}
	for name, fault := range map[string]*fault{
		"states":     {strike: func(w *wire) bool { return replies("200 OK", isJSON+field(), w.right)(w) }},
		"refusals":   reply(403, `{"errcode":"M_FORBIDDEN","error":"no"}`),
		"rejections": reply(401, `{"errcode":"M_UNKNOWN_TOKEN","error":"no"}`),
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			reader := newUser("reader")
			s.ask(t, withUs, read, reader, reader)
			fails := s.main
			if name == "rejections" {
				fails = s.whoami
			}
			if err := fails.set(fault); err != nil {
				t.Fatal(err)
			}
			before := heapInUse()
			for range answers {
				if name == "rejections" {
					reader = newUser("random")
				}
				s.ask(t, withUs, read, reader, newUser("target"))
			}
			s.quiet(t)
			kept := (int64(heapInUse()) - int64(before)) / answers
			if kept > 8<<10 {
				t.Errorf("an answer with a field of %d KB takes %d KB in memory, want at most 8", length>>10, kept>>10)
			}
			t.Logf("%d answers with a field of %d KB each: %d bytes each are kept", answers, length>>10, kept)
		})
	}
}

// sampleHeap watches the heap until peak is called, which returns by how much it has
// grown at the most.
func sampleHeap(t *testing.T) (peak func() int64) {
	t.Helper()
	heapInUse()
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	now := func() int64 {
		metrics.Read(sample)
		return int64(sample[0].Value.Uint64())
	}
	before := now()
	highest := before
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				highest = max(highest, now())
			case <-stop:
				return
			}
		}
	}()
	return func() int64 {
		close(stop)
		<-stopped
		return highest - before
	}
}
