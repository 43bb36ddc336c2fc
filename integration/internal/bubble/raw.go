package bubble

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
)

// raw speaks HTTP/1 as Go's own client doesn't: by another version, behind another request of the
// same connection, or with a body that ends too early.
type raw struct {
	client  *Client
	version string // "HTTP/1.0"
	ahead   bool   // a request for the versions comes first on the connection
}

// Truncated is a body that ends before the length that is announced. Only HTTP/1 can
// do that, and then the connection is closed.
type Truncated struct{ io.Reader }

// Close implements io.Closer.
func (Truncated) Close() error { return nil }

// RoundTrip implements http.RoundTripper, on a connection of its own.
func (w raw) RoundTrip(r *http.Request) (*http.Response, error) {
	conn, err := w.client.dial(cmp.Or(r.URL.Port(), "80"))
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(r.Context(), func() { conn.Close() })
	end := func() { stop(); conn.Close() }
	go w.write(conn, r)
	answers := bufio.NewReader(conn)
	if w.ahead {
		first, err := http.ReadResponse(answers, nil)
		if err == nil {
			_, err = io.Copy(io.Discard, first.Body)
		}
		if err != nil {
			end()
			return nil, fmt.Errorf("reading the answer before: %w", err)
		}
	}
	resp, err := http.ReadResponse(answers, r)
	for err == nil && resp.StatusCode == http.StatusContinue {
		resp, err = http.ReadResponse(answers, r)
	}
	if err != nil {
		end()
		if gone := r.Context().Err(); gone != nil {
			err = gone
		}
		return nil, err
	}
	resp.Body = &closing{resp.Body, end}
	return resp, nil
}

// write writes the request, its head and what comes ahead of it at once.
func (w raw) write(conn net.Conn, r *http.Request) {
	var head bytes.Buffer
	if w.ahead {
		prefix, _, _ := strings.Cut(r.URL.EscapedPath(), "/_")
		fmt.Fprintf(&head, "GET %s/_matrix/client/versions %s\r\nHost: %s\r\n\r\n", strings.TrimSuffix(prefix, "/"), w.version, r.Host)
	}
	fmt.Fprintf(&head, "%s %s %s\r\nHost: %s\r\n", r.Method, r.URL.RequestURI(), w.version, r.Host)
	body, chunked, cutOff := r.Body, r.ContentLength < 0, false
	_, cutOff = body.(Truncated)
	if chunked && w.version == "HTTP/1.0" {
		content, err := io.ReadAll(body)
		if err != nil {
			return
		}
		body, chunked, r.ContentLength = io.NopCloser(bytes.NewReader(content)), false, int64(len(content))
	}
	if err := r.Header.Write(&head); err != nil {
		return
	}
	switch {
	case body == nil:
	case chunked:
		head.WriteString("Transfer-Encoding: chunked\r\n")
	default:
		fmt.Fprintf(&head, "Content-Length: %d\r\n", r.ContentLength)
	}
	head.WriteString("\r\n")
	if _, err := conn.Write(head.Bytes()); err != nil || body == nil {
		return
	}
	defer body.Close()
	out := io.Writer(conn)
	if chunked {
		chunks := httputil.NewChunkedWriter(conn)
		out = chunks
		defer io.WriteString(conn, "\r\n")
		defer chunks.Close()
	}
	_, _ = io.Copy(out, body) // the answer tells what came of it
	if cutOff {
		conn.Close()
	}
}

// closing is a body whose connection is closed with it.
type closing struct {
	io.ReadCloser
	end func()
}

func (c *closing) Close() error {
	defer c.end()
	return c.ReadCloser.Close()
}
