package differential_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// relay stands between the sidecar and the homeserver. It notes what the sidecar
// sends and changes no byte of it.
type relay struct {
	URL string

	upstream string
	conns    sync.WaitGroup

	mu   sync.Mutex // guards all below
	seen []forwarded
	open map[net.Conn]bool // nil at the end
}

// forwarded is a request that went upstream.
type forwarded struct{ method, target string }

// whoAmI tells the sidecar's own question, or a client's: both change nothing.
func (f forwarded) whoAmI() bool {
	return f.method == http.MethodGet && strings.HasPrefix(f.target, whoAmI)
}

func newRelay(t *testing.T, upstream string) *relay {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{
		URL: "http://" + listener.Addr().String(), upstream: strings.TrimPrefix(upstream, "http://"),
		open: make(map[net.Conn]bool),
	}
	r.conns.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			r.mu.Lock()
			closed := r.open == nil
			if !closed {
				r.open[conn] = true
			}
			r.mu.Unlock()
			if closed {
				conn.Close()
				return
			}
			r.conns.Go(func() { r.serve(conn) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		r.mu.Lock()
		for conn := range r.open { // Caddy keeps idle ones after its end
			conn.Close()
		}
		r.open = nil
		r.mu.Unlock()
		r.conns.Wait()
	})
	return r
}

func (r *relay) serve(client net.Conn) {
	defer func() {
		client.Close()
		r.mu.Lock()
		delete(r.open, client)
		r.mu.Unlock()
	}()
	server, err := net.Dial("tcp", r.upstream)
	if err != nil {
		return
	}
	defer server.Close()
	r.conns.Go(func() {
		// An answer's end may be that of the connection.
		_, _ = io.Copy(client, server)
		client.Close()
	})

	// A request is noted before the homeserver can answer it.
	var raw bytes.Buffer
	reader := bufio.NewReader(io.TeeReader(client, &raw))
	for {
		seen, length, chunked, err := readHead(reader)
		if err != nil {
			return
		}
		r.note(seen)
		body := io.LimitReader(reader, length)
		if chunked {
			body = httputil.NewChunkedReader(reader)
		}
		if _, err = io.Copy(io.Discard, body); err == nil && chunked {
			_, err = reader.ReadString('\n') // nobody sends trailers here
		}
		if err != nil {
			return
		}
		if _, err := raw.WriteTo(server); err != nil {
			return
		}
	}
}

// readHead reads a request up to its body. It takes all that Go's client sends, and
// that is more than Go's server takes.
func readHead(reader *bufio.Reader) (seen forwarded, length int64, chunked bool, err error) {
	for first := true; ; first = false {
		line, err := reader.ReadString('\n')
		line = strings.TrimRight(line, "\r\n")
		switch {
		case err != nil || line == "":
			return seen, length, chunked, err
		case first:
			seen.method, line, _ = strings.Cut(line, " ")
			seen.target = strings.TrimSuffix(line, " HTTP/1.1")
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimSpace(value); strings.ToLower(name) {
		case "content-length":
			if length, err = strconv.ParseInt(value, 10, 64); err != nil {
				return seen, 0, false, err
			}
		case "transfer-encoding":
			chunked = value == "chunked"
		}
	}
}

func (r *relay) note(f forwarded) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, f)
}

// take returns what was sent since the last call, without the questions whose a
// token is.
func (r *relay) take() (seen []forwarded) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.seen {
		if !f.whoAmI() {
			seen = append(seen, f)
		}
	}
	r.seen = nil
	return seen
}
