package faults

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// upstream is a listener that speaks for a homeserver, or as its fault has it.
type upstream struct {
	hs      *homeserver
	address string

	mu       sync.Mutex // guards all below
	listener net.Listener
	conns    map[*net.TCPConn]*connection
	fault    *fault
	gate     chan struct{} // requests wait for it, unless nil
	arrived  int           // how many came to the gate since it was set
	struck   int           // how often the fault was let loose
	accepted int
}

// connection is the state of one.
type connection struct {
	busy   bool // a request is being answered
	served int  // how many have been
}

func newUpstream(hs *homeserver) (*upstream, error) {
	u := &upstream{hs: hs, address: "127.0.0.1:0", conns: make(map[*net.TCPConn]*connection)}
	return u, u.listen()
}

// listen begins to listen, on the same address as before if there was one.
func (u *upstream) listen() error {
	var l net.Listener
	var err error
	// Between two of our listeners the port may be a client's for a moment.
	for deadline := time.Now().Add(time.Minute); ; {
		if l, err = net.Listen("tcp", u.address); err == nil {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("listening as upstream: %w", err)
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.listener, u.address = l, l.Addr().String()
	go u.accept(l)
	return nil
}

// close ends the listener and all connections, as the end of a process does.
func (u *upstream) close() {
	u.mu.Lock()
	u.listener.Close()
	u.mu.Unlock()
	u.hangUp()
}

// hangUp closes all connections.
func (u *upstream) hangUp() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for c := range u.conns {
		c.Close()
	}
}

// hangUpIdle closes the connections that wait for another request, as a homeserver does
// after its keep-alive time.
func (u *upstream) hangUpIdle() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for c, state := range u.conns {
		if !state.busy && state.served > 0 {
			c.Close()
		}
	}
}

func (u *upstream) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		conn := c.(*net.TCPConn)
		u.mu.Lock()
		u.accepted++
		u.conns[conn] = new(connection)
		fault := u.fault
		if fault != nil && fault.greet != nil {
			u.struck++
		}
		u.mu.Unlock()
		go func() {
			defer u.forget(conn)
			if fault != nil && fault.greet != nil {
				fault.greet(conn)
				return
			}
			u.serve(conn)
		}()
	}
}

func (u *upstream) forget(conn *net.TCPConn) {
	conn.Close()
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.conns, conn)
}

// serve answers the requests of one connection.
func (u *upstream) serve(conn *net.TCPConn) {
	in := bufio.NewReader(conn)
	for n := 0; ; n++ {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		text, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		fault := u.begin(conn)
		status, right := u.hs.Reply(r, string(text), fault != nil && fault.refuses)
		w := &wire{conn: conn, in: in, request: r, reused: n > 0, status: status, right: right}
		keep := true
		if fault == nil {
			w.answer("")
		} else {
			keep = fault.strike(w)
		}
		u.mu.Lock()
		u.conns[conn].busy = false
		u.conns[conn].served++
		u.mu.Unlock()
		if !keep {
			return
		}
	}
}

// begin notes a request and waits until it may be answered.
func (u *upstream) begin(conn *net.TCPConn) *fault {
	u.mu.Lock()
	u.conns[conn].busy = true
	u.arrived++
	gate := u.gate
	u.mu.Unlock()
	if gate != nil {
		<-gate
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.fault == nil || u.fault.strike == nil {
		return nil
	}
	u.struck++
	return u.fault
}

// set makes the upstream faulty, or with nil sound again.
func (u *upstream) set(f *fault) error {
	u.mu.Lock()
	before := u.fault
	u.fault, u.struck = f, 0
	u.mu.Unlock()
	switch {
	case f != nil && f.down:
		u.close()
	case f != nil && f.greet != nil:
		u.hangUp() // it greets on new connections
	case before != nil && before.down:
		return u.listen()
	}
	return nil
}

// hold makes requests wait until release is called.
func (u *upstream) hold() (release func()) {
	gate := make(chan struct{})
	u.mu.Lock()
	defer u.mu.Unlock()
	u.gate, u.arrived = gate, 0
	return sync.OnceFunc(func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.gate = nil
		close(gate)
	})
}

// state returns how many requests are being answered, how many connections are open, how
// many there have been, how often the fault was let loose and how many requests have
// come since the gate was set.
func (u *upstream) state() (busy, open, accepted, struck, arrived int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, c := range u.conns {
		if c.busy {
			busy++
		}
	}
	return busy, len(u.conns), u.accepted, u.struck, u.arrived
}
