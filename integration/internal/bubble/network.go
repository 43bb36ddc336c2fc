package bubble

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterNetwork("pipe", func(_ context.Context, _, _, port string, _ uint, _ net.ListenConfig) (any, error) {
		if port == Taken {
			return nil, errors.New("bind: address already in use")
		}
		p := newPipes()
		listening.set("tcp "+port, p)
		return p, nil
	})
	caddy.RegisterNetwork("pipegram", func(_ context.Context, _, _, port string, _ uint, _ net.ListenConfig) (any, error) {
		end := newGram(&net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443})
		listening.set("udp "+port, end)
		return end, nil
	})
	caddyhttp.RegisterNetworkHTTP3("pipe", "pipegram")
}

// listening is what Caddy listens on, the newest configuration's last. One that fails goes again.
var listening = registry{on: make(map[string][]listener)}

// listener is one of ours.
type listener interface{ isClosed() bool }

type registry struct {
	mu sync.Mutex // guards on
	on map[string][]listener
}

func (r *registry) set(port string, l listener) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.on[port] = append(slices.DeleteFunc(r.on[port], listener.isClosed), l)
}

// get returns the newest, or nil.
func (r *registry) get(port string) listener {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range slices.Backward(r.on[port]) {
		if !l.isClosed() {
			return l
		}
	}
	return nil
}

func (p *pipes) isClosed() bool { return p.over.Load() }
func (g *gram) isClosed() bool  { return g.over.Load() }

// Taken is a port on which nothing can listen. A configuration that names it fails at its very end.
const Taken = "1"

// Dial connects to a port of Caddy's from an address.
func Dial(port string, from net.Addr) (net.Conn, error) {
	p, ok := listening.get("tcp " + port).(*pipes)
	if !ok {
		return nil, errors.New("nothing listens on port " + port)
	}
	client, server := newConn(from, p.Addr())
	select {
	case p.conns <- server:
		return client, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// pipes is a listener whose connections are in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	over   atomic.Bool // it is closed, also for whom the channel isn't: another bubble
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { p.over.Store(true); close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }

// gram is an end of a network of datagrams, which loses none as long as they are read.
type gram struct {
	addr   net.Addr
	in     chan datagram
	closed chan struct{}
	once   sync.Once
	over   atomic.Bool

	mu       sync.Mutex // guards all below
	peers    map[string]*gram
	deadline time.Time
	moved    chan struct{} // closed when the deadline is another
}

type datagram struct {
	payload []byte
	from    net.Addr
	peer    *gram
}

func newGram(addr net.Addr) *gram {
	return &gram{
		addr: addr, in: make(chan datagram, 1024), closed: make(chan struct{}),
		peers: make(map[string]*gram), moved: make(chan struct{}),
	}
}

func (g *gram) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		g.mu.Lock()
		deadline, moved := g.deadline, g.moved
		g.mu.Unlock()
		var late <-chan time.Time
		if !deadline.IsZero() {
			left := time.Until(deadline)
			if left <= 0 {
				return 0, nil, os.ErrDeadlineExceeded
			}
			timer := time.NewTimer(left)
			defer timer.Stop()
			late = timer.C
		}
		select {
		case d := <-g.in:
			if d.peer != nil {
				g.mu.Lock()
				g.peers[d.from.String()] = d.peer
				g.mu.Unlock()
			}
			return copy(p, d.payload), d.from, nil
		case <-moved:
		case <-late:
			return 0, nil, os.ErrDeadlineExceeded
		case <-g.closed:
			return 0, nil, net.ErrClosed
		}
	}
}

func (g *gram) WriteTo(p []byte, to net.Addr) (int, error) {
	g.mu.Lock()
	peer := g.peers[to.String()]
	g.mu.Unlock()
	if peer == nil {
		return len(p), nil // nobody is there, as with UDP
	}
	select {
	case peer.in <- datagram{append([]byte(nil), p...), g.addr, g}:
	case <-peer.closed:
	default: // lost
	}
	return len(p), nil
}

func (g *gram) Close() error {
	g.once.Do(func() { g.over.Store(true); close(g.closed) })
	return nil
}

func (g *gram) LocalAddr() net.Addr              { return g.addr }
func (g *gram) SetWriteDeadline(time.Time) error { return nil }
func (g *gram) SetDeadline(t time.Time) error    { return g.SetReadDeadline(t) }
func (g *gram) SetReadDeadline(t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.deadline = t
	close(g.moved)
	g.moved = make(chan struct{})
	return nil
}

// dialGram returns an end from which Caddy's port can be reached.
func dialGram(port string, from net.IP, fromPort int) (*gram, net.Addr, error) {
	server, ok := listening.get("udp " + port).(*gram)
	if !ok {
		return nil, nil, errors.New("nothing listens on port " + port)
	}
	end := newGram(&net.UDPAddr{IP: from, Port: fromPort})
	end.peers[server.addr.String()] = server
	return end, server.addr, nil
}
