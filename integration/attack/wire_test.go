package attack_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/wire"
)

type reply = wire.Reply

func mustDial(t *testing.T, address string) *wire.Conn {
	t.Helper()
	w, err := wire.Dial(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
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
			client := wire.Client{Address: address}
			defer func() {
				client.Close()
				mu.Lock()
				defer mu.Unlock()
				sum.add(own)
			}()
			for {
				i := int(next.Add(1) - 1)
				if i >= f.requests || !f.until.IsZero() && time.Now().After(f.until) {
					return
				}
				own.sent++
				r, _, err := client.Ask(f.request(i))
				if err != nil {
					own.broken++
					continue
				}
				own.status[r.Status]++
				if f.judge != nil && own.wrong == nil {
					own.wrong = f.judge(i, r)
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
