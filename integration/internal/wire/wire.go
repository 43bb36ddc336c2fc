// Package wire is a client of HTTP/1.1 that sends requests byte for byte as somebody wrote
// them: no library has a word in their spelling.
package wire

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// Patience is after what time a server that doesn't answer has failed. It is many
// times what anything takes.
const Patience = time.Minute

// Conn is a connection.
type Conn struct {
	net.Conn
	// Answers is what comes back.
	Answers *bufio.Reader
}

// Dial connects to a server, at an address or a URL.
func Dial(address string) (*Conn, error) {
	conn, err := net.DialTimeout("tcp", strings.TrimPrefix(address, "http://"), Patience)
	if err != nil {
		return nil, fmt.Errorf("connecting a client: %w", err)
	}
	return &Conn{conn, bufio.NewReader(conn)}, conn.SetDeadline(time.Now().Add(Patience))
}

// Reply is what came back.
type Reply struct {
	Status int
	Header http.Header
	Body   []byte
	// Last says that the connection is of no more use.
	Last bool
}

// String is what a failed test shows.
func (r Reply) String() string {
	body := bytes.TrimSpace(r.Body)
	if len(body) > 200 {
		body = append(bytes.Clone(body[:200]), "…"...)
	}
	return fmt.Sprintf("%d %s", r.Status, body)
}

// CacheStatus is what the sidecar says about where the answer comes from.
func (r Reply) CacheStatus() string { return r.Header.Get("Cache-Status") }

// Hit tells that the answer came from the sidecar's memory.
func (r Reply) Hit() bool { return strings.Contains(r.CacheStatus(), "matrix_presence; hit") }

// Receive reads the answer to a request with this method. Interim answers are
// skipped.
func (c *Conn) Receive(method string) (Reply, error) {
	for {
		resp, err := http.ReadResponse(c.Answers, &http.Request{Method: method})
		if err != nil {
			return Reply{}, fmt.Errorf("reading an answer: %w", err)
		}
		if resp.StatusCode < http.StatusOK && resp.StatusCode != http.StatusSwitchingProtocols {
			continue
		}
		body, err := io.ReadAll(resp.Body)
		return Reply{resp.StatusCode, resp.Header, body, resp.Close}, err
	}
}

// Ask sends a request and waits for its answer. A server may answer before it has read everything,
// and close: then the answer is the last one.
func (c *Conn) Ask(request []byte) (Reply, error) {
	if err := c.SetDeadline(time.Now().Add(Patience)); err != nil {
		return Reply{}, err
	}
	_, writeErr := c.Write(request)
	method, _, _ := bytes.Cut(request, []byte(" "))
	r, err := c.Receive(string(method))
	if err != nil {
		return r, errors.Join(err, writeErr)
	}
	r.Last = r.Last || writeErr != nil
	return r, nil
}

// Client is a client that connects anew when the server has closed its connection.
type Client struct {
	Address string
	conn    *Conn
}

// Ask sends a request and waits for its answer. Used tells that it went out on a connection that
// had been used before, which a server may close at any time.
func (c *Client) Ask(request []byte) (r Reply, used bool, err error) {
	used = c.conn != nil
	if !used {
		if c.conn, err = Dial(c.Address); err != nil {
			c.conn = nil
			return r, false, err
		}
	}
	if r, err = c.conn.Ask(request); err != nil || r.Last {
		c.Close()
	}
	return r, used, err
}

// Close ends the connection.
func (c *Client) Close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// Request writes a request without a body. Fields are "Name: value".
func Request(method, target string, fields ...string) []byte {
	return append(Head(method, target, fields...), "\r\n"...)
}

// RequestWith writes a request with a body and its length.
func RequestWith(body, method, target string, fields ...string) []byte {
	fields = append(fields, fmt.Sprintf("Content-Length: %d", len(body)))
	return append(Request(method, target, fields...), body...)
}

// Head is all of a request but the empty line that ends its fields.
func Head(method, target string, fields ...string) []byte {
	b := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\n", method, target)
	for _, field := range fields {
		b = append(append(b, field...), "\r\n"...)
	}
	return b
}
