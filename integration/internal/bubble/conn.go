package bubble

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// window is how many bytes a connection takes before whoever writes has to wait, as a socket
// does. net.Pipe has none, so that two ends that both write first would wait for each other
// for ever, as HTTP/2 does.
const window = 256 << 10

// newConn returns the ends of a connection.
func newConn(client, server net.Addr) (atClient, atServer net.Conn) {
	up, down := newStream(), newStream()
	return &conn{in: down, out: up, local: client, remote: server}, &conn{in: up, out: down, local: server, remote: client}
}

// conn is an end of a connection.
type conn struct {
	in, out       *stream
	local, remote net.Addr
}

func (c *conn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *conn) Write(p []byte) (int, error) { return c.out.write(p) }
func (c *conn) LocalAddr() net.Addr         { return c.local }
func (c *conn) RemoteAddr() net.Addr        { return c.remote }

// Close lets the other end read what has been written before.
func (c *conn) Close() error {
	c.out.end(io.EOF)
	c.in.end(net.ErrClosed)
	return nil
}

func (c *conn) SetDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.readBy, t)
	c.out.setDeadline(&c.out.writeBy, t)
	return nil
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.readBy, t)
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.out.setDeadline(&c.out.writeBy, t)
	return nil
}

// stream is one direction of a connection.
type stream struct {
	mu              sync.Mutex // guards all below
	buffered        []byte
	ended           error // what is read when nothing is buffered any more
	readBy, writeBy time.Time
	changed         chan struct{} // closed when something above has changed
}

func newStream() *stream { return &stream{changed: make(chan struct{})} }

// change must be called with the lock held.
func (s *stream) change() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// wait lets go of the lock until something has changed, or a deadline is over.
func (s *stream) wait(by time.Time) error {
	changed := s.changed
	s.mu.Unlock()
	defer s.mu.Lock()
	if by.IsZero() {
		<-changed
		return nil
	}
	left := time.Until(by)
	if left <= 0 {
		return os.ErrDeadlineExceeded
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-changed:
		return nil
	case <-timer.C:
		return os.ErrDeadlineExceeded
	}
}

func (s *stream) read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.buffered) == 0 || errors.Is(s.ended, net.ErrClosed) {
		if s.ended != nil {
			return 0, s.ended
		}
		if err := s.wait(s.readBy); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.buffered)
	s.buffered = s.buffered[n:]
	s.change()
	return n, nil
}

func (s *stream) write(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(p) > 0 {
		if s.ended != nil {
			return n, net.ErrClosed
		}
		room := min(len(p), window-len(s.buffered))
		if room == 0 {
			if err := s.wait(s.writeBy); err != nil {
				return n, err
			}
			continue
		}
		s.buffered = append(s.buffered, p[:room]...)
		p, n = p[room:], n+room
		s.change()
	}
	return n, nil
}

// end ends the stream. Its writer's end comes after what is buffered, its reader's at once.
func (s *stream) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil || errors.Is(err, net.ErrClosed) {
		s.ended = err
	}
	s.change()
}

func (s *stream) setDeadline(deadline *time.Time, t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*deadline = t
	s.change()
}
