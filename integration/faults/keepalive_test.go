package faults

import (
	"sync"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// TestConnectionThatEndsWhenItIsReused: a homeserver closes a connection that has been
// idle, just as the next request goes out on it. A read goes out again, on another
// connection. A write can't: it may have been applied, so the client gets 502, and the
// next read is not from before it.
func TestConnectionThatEndsWhenItIsReused(t *testing.T) {
	s := newSite(t)
	done := s.watch(t)
	rounds := 200
	if suite.Full() {
		rounds = 5000
	}
	tr := &trial{t, s, nil, nil}
	ends := &fault{strike: func(w *wire) bool {
		if w.reused {
			return closes
		}
		w.answer("")
		return keep
	}}
	writer, reader := newUser("writer"), newUser("reader")
	s.ask(t, withUs, read, writer, writer)
	s.ask(t, withUs, read, reader, writer)
	if err := s.main.set(ends); err != nil {
		t.Fatal(err)
	}
	failed, alone := 0, 0
	for range rounds {
		s.ask(t, without, read, reader, writer)
		if got := s.ask(t, without, write, writer, writer); got.status == 502 {
			alone++
		}
		switch got := s.ask(t, withUs, write, writer, writer); got.status {
		case 502:
			failed++
		default:
			tr.expect("a write", got, 200, `{}`, "matrix_presence; fwd=method")
		}
		tr.expect("the read after it", s.ask(t, withUs, read, reader, writer), 200, s.hs.presence(writer), "matrix_presence; fwd=miss; stored")
	}
	if failed == 0 {
		t.Error("no connection ended")
	}
	if err := s.main.set(nil); err != nil {
		t.Fatal(err)
	}
	tr.expect("at last", s.ask(t, withUs, read, reader, writer), 200, s.hs.presence(writer), "matrix_presence; hit")
	done(t, false)
	t.Logf("%d writes on connections that end when they are reused: %d got 502, and %d through Caddy alone; all reads after them were right", rounds, failed, alone)
}

// TestIdleConnectionsThatEndAnyTime: connections are closed while they are idle, over and
// over, and no read notices.
func TestIdleConnectionsThatEndAnyTime(t *testing.T) {
	s := newSite(t)
	done := s.watch(t)
	rounds := 200
	if suite.Full() {
		rounds = 5000
	}
	reader := newUser("reader")
	s.ask(t, withUs, read, reader, reader)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				s.main.hangUpIdle()
			}
		}
	})
	tr := &trial{t, s, nil, nil}
	for range rounds {
		target := newUser("target")
		tr.expect("a read", s.ask(t, withUs, read, reader, target), 200, presence(0), "matrix_presence; fwd=miss; stored")
	}
	close(stop)
	wg.Wait()
	_, _, accepted, _, _ := s.main.state()
	done(t, false)
	t.Logf("%d reads over %d connections, each closed when it was idle: all were right", rounds, accepted)
}

// TestConnectionsAreUsedAgain: after each fault requests go out on one connection again. The
// transport dials ahead where it isn't sure of one, so there may be a few more.
func TestConnectionsAreUsedAgain(t *testing.T) {
	s := newSite(t)
	done := s.watch(t)
	tr := &trial{t, s, nil, nil}
	reader := newUser("reader")
	s.ask(t, withUs, read, reader, reader)
	for i := range faults {
		f := &faults[i]
		tr.fault = f
		tr.under(func() seen { return s.ask(t, withUs, read, reader, newUser("target")) }, s.main)
		_, _, before, _, _ := s.main.state()
		for range 10 {
			tr.expect(f.name, s.ask(t, withUs, read, reader, newUser("target")), 200, presence(0), "matrix_presence; fwd=miss; stored")
		}
		if _, _, after, _, _ := s.main.state(); after > before+3 {
			t.Errorf("%s: 10 reads after it opened %d connections", f.name, after-before)
		}
	}
	done(t, false)
}
