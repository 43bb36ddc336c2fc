package traffic

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Conn is a kept-alive connection of a client that sends one request after the
// other.
type Conn struct {
	addr   string
	conn   net.Conn
	reader *bufio.Reader
}

// Dial connects to a server.
func Dial(ctx context.Context, addr string) (*Conn, error) {
	c := &Conn{addr: addr}
	return c, c.dial(ctx)
}

func (c *Conn) dial(ctx context.Context) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", c.addr)
	if err != nil {
		return fmt.Errorf("connecting a client: %w", err)
	}
	c.conn, c.reader = conn, bufio.NewReader(conn)
	return nil
}

// answerTimeout ends a run whose server hangs.
const answerTimeout = 30 * time.Second

// Do sends a request and returns the answer with its body. The server may close
// the connection after an answer; the next request then dials anew.
func (c *Conn) Do(ctx context.Context, request []byte) (*http.Response, []byte, error) {
	if c.conn == nil {
		if err := c.dial(ctx); err != nil {
			return nil, nil, err
		}
	}
	resp, body, err := c.exchange(request)
	if err != nil || resp.Close {
		c.Close()
	}
	return resp, body, err
}

func (c *Conn) exchange(request []byte) (*http.Response, []byte, error) {
	if err := c.conn.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return nil, nil, err
	}
	if _, err := c.conn.Write(request); err != nil {
		return nil, nil, fmt.Errorf("sending a request: %w", err)
	}
	resp, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("reading an answer: %w", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, nil, fmt.Errorf("reading an answer's body: %w", err)
	}
	return resp, body, nil
}

// Close ends the connection.
func (c *Conn) Close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}
