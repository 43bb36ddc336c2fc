package faults

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// TestUpstreamRestarts: the homeserver ends and comes back on the same port, over and
// over, under load. A client gets an answer or a 502, never one that breaks off;
// nobody reads a version from before an acknowledged write; a reader with a stale
// answer at hand doesn't notice at all; and at the end all is as before.
func TestUpstreamRestarts(t *testing.T) {
	s := newSite(t)
	done := s.watch(t)
	restarts := 10
	if suite.Full() {
		restarts = 100
	}

	var ok, failed, acknowledged, spared atomic.Int64
	var over atomic.Bool
	var wg sync.WaitGroup
	defer wg.Wait()
	defer over.Store(true)
	count := func(got seen) {
		switch {
		case got.status == 200 && !got.broken:
			ok.Add(1)
		case got.status == 502 && !got.broken:
			failed.Add(1)
		default:
			t.Errorf("got %v %s", got, got.excerpt())
		}
	}
	try := func(way string, what kind, user, target string) (seen, bool) {
		got, err := s.try(t.Context(), way, what, user, target)
		if err != nil {
			t.Error(err)
		}
		return got, err == nil
	}
	for range 4 {
		writer, reader := newUser("writer"), newUser("reader")
		var known atomic.Int64 // the newest version that was acknowledged
		s.ask(t, withUs, read, writer, writer)
		s.ask(t, withUs, read, reader, writer)
		wg.Go(func() {
			for version := int64(0); !over.Load(); {
				got, sent := try(withUs, write, writer, writer)
				if !sent {
					return
				}
				count(got)
				if got.status == 200 {
					version++ // at least: those that failed may count too
					known.Store(version)
					acknowledged.Add(1)
				}
			}
		})
		wg.Go(func() {
			for !over.Load() {
				least := known.Load()
				got, sent := try(withUs, read, reader, writer)
				if !sent {
					return
				}
				count(got)
				if got.status == 200 && versionIn(got.body) < least {
					t.Errorf("read %s, and version %d was acknowledged before", got.excerpt(), least)
				}
			}
		})
	}
	for range 2 {
		reader, target := newUser("reader"), newUser("target")
		s.ask(t, stale, read, reader, target)
		wg.Go(func() {
			for !over.Load() {
				got, sent := try(stale, read, reader, target)
				if !sent {
					return
				}
				if got.status != 200 || got.body != presence(0) {
					t.Errorf("with a stale answer at hand: got %v %s (%s)", got, got.excerpt(), got.cacheStatus())
				}
				if strings.HasSuffix(got.cacheStatus(), "stale-if-error") {
					spared.Add(1)
				}
			}
		})
	}
	down := &fault{down: true}
	more := func(what string, counter *atomic.Int64, by int64) {
		want := counter.Load() + by
		suite.EventuallyNil(t, fmt.Sprintf("%d more %s", by, what), func() error {
			if got := counter.Load(); got < want {
				return fmt.Errorf("there are %d, want %d", got, want)
			}
			return nil
		})
	}
	for range restarts {
		more("answers", &ok, 50)
		if err := s.main.set(down); err != nil {
			t.Fatal(err)
		}
		more("failures", &failed, 20)
		more("stale answers", &spared, 2)
		if err := s.main.set(nil); err != nil {
			t.Fatal(err)
		}
	}
	more("answers", &ok, 50)
	over.Store(true)
	wg.Wait()
	tr := &trial{t, s, nil, nil}
	reader, target := newUser("reader"), newUser("target")
	tr.expect("at last", s.ask(t, withUs, read, reader, target), 200, presence(0), "matrix_presence; fwd=miss; stored")
	tr.expect("at last", s.ask(t, withUs, read, reader, target), 200, presence(0), "matrix_presence; hit")
	done(t, false)
	t.Logf("%d restarts under load: %d answers, %d times 502, %d writes acknowledged and none lost from sight, %d stale answers in need",
		restarts, ok.Load(), failed.Load(), acknowledged.Load(), spared.Load())
}

// versionIn returns which version a presence is.
func versionIn(body string) (version int64) {
	fmt.Sscanf(body, `{"presence":"online","status_msg":"version %d"}`, &version)
	return version
}
