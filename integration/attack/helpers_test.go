package attack_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/wire"
)

// farewell is a last request, after which the server ends the connection.
var farewell = string(wire.Request("GET", "/_matrix/client/versions", "Connection: close"))

// silence is after what time of it a server is taken to wait for more. To take a slow
// one for that makes its answers others, but none of them wrong.
const silence = 150 * time.Millisecond

// converse sends raw and a farewell, and returns all the answers until the server ends
// the connection. One that waits for more gets to know that there is none: not at
// once, because Caddy takes that for a client who went away.
func converse(t *testing.T, address, raw string) []reply {
	t.Helper()
	w := mustDial(t, address)
	defer w.Close()
	go w.Write([]byte(raw + farewell)) // the server may close before the end
	var replies []reply
	for waited := false; ; {
		w.SetReadDeadline(time.Now().Add(silence))
		_, err := w.Answers.Peek(1)
		if errors.Is(err, os.ErrDeadlineExceeded) && !waited {
			waited = true
			w.Conn.(*net.TCPConn).CloseWrite()
		}
		if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			w.SetReadDeadline(time.Now().Add(wire.Patience))
			var r reply
			if r, err = w.Receive(http.MethodGet); err == nil {
				replies = append(replies, r)
				continue
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
			return replies // also if the homeserver has broken its answer off
		}
		t.Fatalf("reading the answers to %.200q: %v (after %v)", raw, err, replies)
	}
}

func statusesOf(replies []reply) []int {
	statuses := make([]int, len(replies))
	for i, r := range replies {
		statuses[i] = r.Status
	}
	return statuses
}

// expectPlain checks that all that has come to the homeserver is written so that no two
// servers could read it differently, and that it has read what there is.
func expectPlain(t *testing.T, hs *homeserver) {
	t.Helper()
	requests, err := hs.recording.requests()
	if err != nil {
		t.Errorf("what came to the homeserver is not plain: %v", err)
		return
	}
	if len(requests) == 0 {
		t.Error("nothing came to the homeserver")
	}
	for _, r := range requests {
		if strings.Contains(fmt.Sprint(r.fields, r.trailer), marker) {
			t.Errorf("the marker of a smuggled request is in the fields of %q", r.line)
		}
	}
}

// marker is in all that is to be smuggled.
const marker = "SMUGGLED"
