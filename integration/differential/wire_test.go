package differential_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
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
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) String() string {
	body := a.body
	if len(body) > 200 {
		body = append(bytes.Clone(body[:200]), "…"...)
	}
	return fmt.Sprintf("%d %s", a.status, bytes.TrimSpace(body))
}

// field is one string of a JSON body.
func (a answer) field(name string) string {
	var object map[string]any
	_ = json.Unmarshal(a.body, &object)
	text, _ := object[name].(string)
	return text
}

// short is the status and, of a Matrix error, its code.
func (a answer) short() string {
	if errcode := a.field("errcode"); errcode != "" {
		return fmt.Sprintf("%d %s", a.status, errcode)
	}
	return fmt.Sprint(a.status)
}

// cacheStatus is what the sidecar says about where an answer comes from.
func (a answer) cacheStatus() string { return a.header.Get("Cache-Status") }

// hit says whether the answer came from the sidecar's memory.
func (a answer) hit() bool { return strings.Contains(a.cacheStatus(), "matrix_presence; hit") }

// wire is a connection to a server, made anew when that has closed it.
type wire struct {
	address string
	conn    net.Conn
	buffer  *bufio.Reader
}

func newWire(t *testing.T, url string) *wire {
	w := &wire{address: strings.TrimPrefix(url, "http://")}
	t.Cleanup(w.close)
	return w
}

func (w *wire) close() {
	if w.conn != nil {
		w.conn.Close()
		w.conn = nil
	}
}

// send sends a request and returns the answer. A server that doesn't answer at all
// within half a minute fails the test.
func (w *wire) send(t *testing.T, r request) answer {
	t.Helper()
	for {
		used := w.conn != nil
		a, err := w.try(r)
		if err == nil {
			return a
		}
		w.close()
		switch {
		case used:
			// An idle connection may be closed at any time. Once more on a new one.
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
			return answer{header: make(http.Header), body: []byte(err.Error())}
		default:
			t.Fatalf("%s: %v", r, err)
		}
	}
}

func (w *wire) try(r request) (answer, error) {
	if w.conn == nil {
		conn, err := net.Dial("tcp", w.address)
		if err != nil {
			return answer{}, err
		}
		w.conn, w.buffer = conn, bufio.NewReader(conn)
	}
	if err := w.conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return answer{}, err
	}
	// A server may answer before it has read everything, and close.
	_, writeErr := w.conn.Write(r.bytes())
	resp, err := http.ReadResponse(w.buffer, &http.Request{Method: r.method})
	if err != nil {
		return answer{}, errors.Join(err, writeErr)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	if resp.Close || writeErr != nil {
		w.close()
	}
	return answer{resp.StatusCode, resp.Header, body}, nil
}
