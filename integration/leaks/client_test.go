package leaks_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/bubble"
)

// exchange is a request as it is written to the wire, and what came of it.
type exchange struct {
	id     int
	method string
	target string // the request target
	fields []string
	body   string

	// plain tells that the credential is one that all homeservers read alike.
	plain bool
	// in is what the homeserver takes it for; parsed is false of a request that no
	// server of Go's would take.
	in     reading
	parsed bool

	began, ended time.Time
	alone        bool // nothing else was under way
	status       int  // 0: no answer came
	header       http.Header
	answer       string
}

// wire is the request, byte for byte.
func (x *exchange) wire() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: example.com\r\n%s: %d\r\n", x.method, x.target, requestID, x.id)
	for _, field := range x.fields {
		b.WriteString(field + "\r\n")
	}
	if x.body != "" || x.method == http.MethodPost || x.method == http.MethodPut {
		b.WriteString("Content-Length: " + strconv.Itoa(len(x.body)) + "\r\n")
	}
	b.WriteString("\r\n" + x.body)
	return b.Bytes()
}

// understand reads the request in the way of a homeserver.
func (x *exchange) understand(d *dialect) {
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(x.wire())))
	if x.parsed = err == nil; x.parsed {
		x.in = d.read(r)
	}
}

func (x *exchange) cacheStatus() string { return x.header.Get("Cache-Status") }

func (x *exchange) String() string {
	outcome := "no answer"
	if x.status != 0 {
		outcome = fmt.Sprintf("%d %.300s (%s)", x.status, x.answer, x.cacheStatus())
	}
	return fmt.Sprintf("#%d %s %s %q %s\n\t%s to %s: %s", x.id, x.method, x.target, x.fields, x.body,
		x.began.Format("05.000000"), x.ended.Format("05.000000"), outcome)
}

// client is an address with a connection that it keeps, whoever uses it.
type client struct {
	from net.IP
	conn net.Conn
	in   *bufio.Reader
}

// send sends the request and waits for its answer, or until patience is over
// and the client goes away.
func (c *client) send(x *exchange, patience time.Duration) {
	x.began = time.Now()
	defer func() { x.ended = time.Now() }()
	for range 2 { // a connection that was kept may have been closed meanwhile
		kept := c.conn != nil
		if !kept {
			conn, err := bubble.Dial("80", &net.TCPAddr{IP: c.from, Port: 40000})
			if err != nil {
				return
			}
			c.conn, c.in = conn, bufio.NewReader(conn)
		}
		if c.exchange(x, patience) || !kept || patience > 0 {
			return
		}
	}
}

// exchange reports whether an answer came.
func (c *client) exchange(x *exchange, patience time.Duration) bool {
	conn := c.conn
	if patience > 0 {
		gone := time.AfterFunc(patience, func() { conn.Close() })
		defer gone.Stop()
	}
	written := make(chan error, 1)
	go func() {
		_, err := conn.Write(x.wire())
		written <- err
	}()
	keep := false
	defer func() {
		if !keep {
			c.close()
			<-written
		}
	}()
	var resp *http.Response
	for resp == nil || resp.StatusCode < http.StatusOK { // an interim answer is none
		var err error
		if resp, err = http.ReadResponse(c.in, &http.Request{Method: x.method}); err != nil {
			return false
		}
	}
	answer, err := io.ReadAll(resp.Body)
	if err != nil && resp.StatusCode < http.StatusBadRequest {
		return false // what is cut off is no answer
	}
	x.status, x.header, x.answer = resp.StatusCode, resp.Header, string(answer)
	select {
	case err = <-written:
		keep = err == nil && !resp.Close
		written <- err
	default:
	}
	return true
}

func (c *client) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// holdsToken looks for a token in all of an answer.
func (x *exchange) holdsToken() bool {
	var b strings.Builder
	_ = x.header.Write(&b)
	return bubble.HoldsToken([]byte(b.String() + x.answer))
}
