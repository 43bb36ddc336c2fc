package redisserver

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Relay is a network between clients and a server. It ends with its test.
type Relay struct {
	// Address is where clients connect to.
	Address string

	server atomic.Pointer[string]
	mute   atomic.Bool
	gate   sync.RWMutex // who holds it lets nothing pass
	delay  atomic.Int64 // of all that passes

	mu    sync.Mutex // guards open
	open  map[net.Conn]bool
	ended bool
}

// NewRelay returns a network to a server.
func NewRelay(t testing.TB, server string) *Relay {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &Relay{Address: listener.Addr().String(), open: make(map[net.Conn]bool)}
	r.server.Store(&server)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { r.serve(client) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		r.mu.Lock()
		r.ended = true
		r.mu.Unlock()
		r.Cut()
		running.Wait()
	})
	return r
}

// serve passes on what comes, in both directions.
func (r *Relay) serve(client net.Conn) {
	defer client.Close()
	r.gate.RLock()
	r.gate.RUnlock() //nolint:staticcheck // SA2001: it waits
	upstream, err := net.Dial("tcp", *r.server.Load())
	if err != nil {
		return
	}
	defer upstream.Close()
	r.mu.Lock()
	if r.ended {
		r.mu.Unlock()
		return
	}
	r.open[client], r.open[upstream] = true, true
	r.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { r.pass(upstream, client, nil); upstream.Close() })
	both.Go(func() { r.pass(client, upstream, &r.mute); client.Close() })
	both.Wait()
	r.mu.Lock()
	delete(r.open, client)
	delete(r.open, upstream)
	r.mu.Unlock()
}

// pass passes on what comes, when the gate is open, unless that is to get lost.
func (r *Relay) pass(to io.Writer, from io.Reader, lost *atomic.Bool) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && (lost == nil || !lost.Load()) {
			time.Sleep(time.Duration(r.delay.Load()))
			r.gate.RLock()
			_, _ = to.Write(buffer[:n])
			r.gate.RUnlock()
		}
		if err != nil {
			return
		}
	}
}

// Cut ends all connections.
func (r *Relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for conn := range r.open {
		conn.Close()
	}
}

// Hold has all that comes wait until release is called.
func (r *Relay) Hold() (release func()) {
	r.gate.Lock()
	return r.gate.Unlock
}

// Delay has all that comes take longer.
func (r *Relay) Delay(d time.Duration) { r.delay.Store(int64(d)) }

// Mute has what the server answers get lost, while it gets all that is sent, or ends that.
func (r *Relay) Mute(mute bool) { r.mute.Store(mute) }

// LeadTo has new connections lead to another server.
func (r *Relay) LeadTo(server string) { r.server.Store(&server) }
