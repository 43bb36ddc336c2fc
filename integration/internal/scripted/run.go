package scripted

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// run is the time from a start to an end.
type run struct {
	server *http.Server
	served chan struct{} // closed when the listener is

	cut bool // guarded by the homeserver's lock

	mu     sync.Mutex // guards unused
	unused map[net.Conn]bool
}

// note keeps in mind which connections have brought no request yet. A proxy may open more
// than it needs, and http.Server waits five seconds for each of them before it ends.
func (r *run) note(conn net.Conn, state http.ConnState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if state == http.StateNew {
		r.unused[conn] = true
	} else {
		delete(r.unused, conn)
	}
}

// closeUnused closes them, until done is closed.
func (r *run) closeUnused(done <-chan struct{}) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		r.mu.Lock()
		for conn := range r.unused {
			_ = conn.Close()
		}
		r.mu.Unlock()
	}
}

// Start begins to listen: the first time on a port that the kernel picks, later on the
// same one.
func (h *Homeserver) Start() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.run != nil {
		return errors.New("starting the scripted homeserver: it runs")
	}
	l, err := listen(h.addr)
	if err != nil {
		return fmt.Errorf("starting the scripted homeserver: %w", err)
	}
	h.addr = l.Addr().String()
	if h.options.Listener != nil {
		l = h.options.Listener(l)
	}
	r := &run{served: make(chan struct{}), unused: make(map[net.Conn]bool)}
	r.server = &http.Server{
		Handler:        http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) { h.serve(r, w, request) }),
		ErrorLog:       log.New(io.Discard, "", 0),
		MaxHeaderBytes: 2 << 20,
		ConnState:      r.note,
	}
	h.run = r
	go func() {
		defer close(r.served)
		_ = r.server.Serve(l)
	}()
	return nil
}

// listen waits for an address that a connection of somebody's happens to use.
func listen(addr string) (net.Listener, error) {
	if addr == "" {
		return net.Listen("tcp", "127.0.0.1:0")
	}
	for patience := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		l, err := net.Listen("tcp", addr)
		if err == nil || !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(patience) {
			return l, err
		}
	}
}

// Stop answers what has come, and ends.
func (h *Homeserver) Stop(ctx context.Context) error {
	r := h.end(false)
	if r == nil {
		return nil
	}
	done := make(chan struct{})
	defer func() {
		close(done)
		<-r.served
	}()
	go r.closeUnused(done)
	if err := r.server.Shutdown(ctx); err != nil {
		_ = r.server.Close()
		return fmt.Errorf("stopping the scripted homeserver: %w", err)
	}
	return nil
}

// Cut breaks off what is under way, and ends.
func (h *Homeserver) Cut() {
	if r := h.end(true); r != nil {
		_ = r.server.Close()
		<-r.served
	}
}

// end takes the run that is to be ended.
func (h *Homeserver) end(cut bool) *run {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.run
	if r != nil {
		r.cut = cut
	}
	h.run = nil
	return r
}

// Gate holds requests until it is opened.
type Gate struct {
	match   func(*http.Request) bool
	opened  chan struct{}
	waiting atomic.Int64
}

// Hold makes requests that match wait, those that come from now on.
func (h *Homeserver) Hold(match func(*http.Request) bool) *Gate {
	g := &Gate{match: match, opened: make(chan struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gates = append(h.gates, g)
	return g
}

// Waiting is how many requests have come to the gate.
func (g *Gate) Waiting() int { return int(g.waiting.Load()) }

// Open lets all requests pass, now and later. It may be called once.
func (g *Gate) Open() { close(g.opened) }

func (g *Gate) pass(ctx context.Context) bool {
	g.waiting.Add(1)
	select {
	case <-g.opened:
		return true
	case <-ctx.Done():
		return false
	}
}
