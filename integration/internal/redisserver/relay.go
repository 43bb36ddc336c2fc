package redisserver

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// Relay is a network between clients and a server. It ends with its test.
type Relay struct {
	// Address is where clients connect to.
	Address string

	server atomic.Pointer[string]
	mute   atomic.Bool

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
	both.Go(func() { _, _ = io.Copy(upstream, client); upstream.Close() })
	both.Go(func() { r.answers(client, upstream); client.Close() })
	both.Wait()
	r.mu.Lock()
	delete(r.open, client)
	delete(r.open, upstream)
	r.mu.Unlock()
}

// answers passes answers on, unless the relay is mute.
func (r *Relay) answers(client io.Writer, upstream io.Reader) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := upstream.Read(buffer)
		if n > 0 && !r.mute.Load() {
			_, _ = client.Write(buffer[:n])
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

// Mute has what the server answers get lost, while it gets all that is sent, or ends that.
func (r *Relay) Mute(mute bool) { r.mute.Store(mute) }

// LeadTo has new connections lead to another server.
func (r *Relay) LeadTo(server string) { r.server.Store(&server) }
