package attack_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// patience is after what time a server that doesn't answer has failed. It is many
// times what anything here takes.
const patience = time.Minute

// wire is a connection on which requests go out byte for byte as a test wrote them.
type wire struct {
	net.Conn
	answers *bufio.Reader
}

func dial(address string) (*wire, error) {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(patience))
	return &wire{conn, bufio.NewReader(conn)}, nil
}

func mustDial(t *testing.T, address string) *wire {
	t.Helper()
	w, err := dial(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// reply is what came back.
type reply struct {
	status int
	header http.Header
	body   []byte
	last   bool // the connection is of no more use
}

func (r reply) String() string {
	body := r.body
	if len(body) > 200 {
		body = append(bytes.Clone(body[:200]), "…"...)
	}
	return fmt.Sprintf("%d %s", r.status, body)
}

func (r reply) hit() bool { return strings.Contains(r.header.Get("Cache-Status"), "; hit") }

// receive reads the answer to a request with this method. Interim answers are
// skipped.
func (w *wire) receive(method string) (reply, error) {
	for {
		resp, err := http.ReadResponse(w.answers, &http.Request{Method: method})
		if err != nil {
			return reply{}, err
		}
		if resp.StatusCode < http.StatusOK && resp.StatusCode != http.StatusSwitchingProtocols {
			continue
		}
		body, err := io.ReadAll(resp.Body)
		return reply{resp.StatusCode, resp.Header, body, resp.Close}, err
	}
}

// ask sends a request and waits for its answer.
func (w *wire) ask(request []byte) (reply, error) {
	w.SetDeadline(time.Now().Add(patience))
	if _, err := w.Write(request); err != nil {
		return reply{}, err
	}
	method, _, _ := bytes.Cut(request, []byte(" "))
	return w.receive(string(method))
}

// request writes a request without a body. Fields are "Name: value".
func request(method, target string, fields ...string) []byte {
	return append(head(method, target, fields...), "\r\n"...)
}

// requestWith writes a request with a body and its length.
func requestWith(body, method, target string, fields ...string) []byte {
	fields = append(fields, fmt.Sprintf("Content-Length: %d", len(body)))
	return append(request(method, target, fields...), body...)
}

// head is all of a request but the empty line that ends its fields.
func head(method, target string, fields ...string) []byte {
	b := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\n", method, target)
	for _, field := range fields {
		b = append(append(b, field...), "\r\n"...)
	}
	return b
}

// bearer is the field that carries a token, and from the one that says, to a server
// that trusts us, which client a request is of.
func bearer(token string) string { return "Authorization: Bearer " + token }
func from(address string) string { return "X-Forwarded-For: " + address }

// presencePath is where a user's presence is.
func presencePath(userID string) string { return "/_matrix/client/v3/presence/" + userID + "/status" }

// online is the body of a write.
func online(status string) string {
	return fmt.Sprintf(`{"presence":"online","status_msg":%q}`, status)
}

// flood is an attack: so many requests over so many connections, each sent as soon as
// the one before it was answered.
type flood struct {
	connections int
	requests    int
	until       time.Time // zero: no end but that of the requests
	request     func(i int) []byte

	// judge, unless nil, says what is wrong with an answer.
	judge func(i int, r reply) error
}

// tally is what attackers got.
type tally struct {
	sent   int
	status map[int]int
	broken int   // no answer
	wrong  error // the first that a judge said
}

// run sends the flood and returns when all is answered.
func (f flood) run(address string) tally {
	var next atomic.Int64
	var mu sync.Mutex // guards sum
	sum := tally{status: make(map[int]int)}
	var all sync.WaitGroup
	for range f.connections {
		all.Go(func() {
			own := tally{status: make(map[int]int)}
			defer func() {
				mu.Lock()
				defer mu.Unlock()
				sum.add(own)
			}()
			var w *wire
			defer func() {
				if w != nil {
					w.Close()
				}
			}()
			for {
				i := int(next.Add(1) - 1)
				if i >= f.requests || !f.until.IsZero() && time.Now().After(f.until) {
					return
				}
				own.sent++
				if w == nil {
					var err error
					if w, err = dial(address); err != nil {
						own.broken++
						w = nil
						continue
					}
				}
				r, err := w.ask(f.request(i))
				if err != nil {
					own.broken++
				} else {
					own.status[r.status]++
					if f.judge != nil && own.wrong == nil {
						own.wrong = f.judge(i, r)
					}
				}
				if err != nil || r.last {
					w.Close()
					w = nil
				}
			}
		})
	}
	all.Wait()
	return sum
}

func (t *tally) add(other tally) {
	t.sent += other.sent
	t.broken += other.broken
	for status, n := range other.status {
		t.status[status] += n
	}
	if t.wrong == nil {
		t.wrong = other.wrong
	}
}
