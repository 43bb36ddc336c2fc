package differential_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"syscall"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/wire"
)

// request is one HTTP request as it goes over the wire. No library has a word in
// its spelling.
type request struct {
	method  string
	target  string   // of the request line; may hold anything but a line break
	headers []string // whole lines
	body    string
}

// host is the one that all requests are for.
const host = "127.0.0.1"

// bytes is the request as it is sent.
func (r request) bytes() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", r.method, r.target, host)
	for _, line := range r.headers {
		b.WriteString(line)
		b.WriteString("\r\n")
	}
	if r.body != "" {
		fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(r.body))
	}
	b.WriteString("\r\n")
	b.WriteString(r.body)
	return b.Bytes()
}

// parsed is the request as a handler in Go gets it.
func parsed(r request) (*http.Request, error) {
	return http.ReadRequest(bufio.NewReader(bytes.NewReader(r.bytes())))
}

// String is the request as a failed test shows it.
func (r request) String() string {
	target := r.target
	if len(target) > 400 {
		target = fmt.Sprintf("%s… (%d bytes)", target[:400], len(target))
	}
	return fmt.Sprintf("%s %q %q", r.method, target, r.headers)
}

// answer is what came back. A status of 0 says that the connection was closed
// without one.
type answer struct{ wire.Reply }

// field is one string of a JSON body.
func (a answer) field(name string) string {
	var object map[string]any
	_ = json.Unmarshal(a.Body, &object)
	text, _ := object[name].(string)
	return text
}

// short is the status and, of a Matrix error, its code.
func (a answer) short() string {
	if errcode := a.field("errcode"); errcode != "" {
		return fmt.Sprintf("%d %s", a.Status, errcode)
	}
	return fmt.Sprint(a.Status)
}

// client sends requests to one server.
type client struct{ wire.Client }

func newClient(t *testing.T, url string) *client {
	c := &client{wire.Client{Address: url}}
	t.Cleanup(c.Close)
	return c
}

// send sends a request and returns the answer. A server that doesn't answer at all fails the test.
func (c *client) send(t *testing.T, r request) answer {
	t.Helper()
	for {
		reply, used, err := c.Ask(r.bytes())
		switch {
		case err == nil:
			return answer{reply}
		case used:
			// An idle connection may be closed at any time. Once more on a new one.
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
			return answer{wire.Reply{Header: make(http.Header), Body: []byte(err.Error())}}
		default:
			t.Fatalf("%s: %v", r, err)
		}
	}
}
