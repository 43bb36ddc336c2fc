package attack_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/wire"
)

// TestHeaderBombs: fields that are too many, too large, repeated or malformed. Each is
// answered at once, and nobody becomes somebody else by it.
func TestHeaderBombs(t *testing.T) {
	hs := newHomeserver(t, true)
	s := newSite(t, hs, options{})
	repeat := func(n int, field func(i int) string) []string {
		fields := make([]string, n)
		for i := range fields {
			fields[i] = field(i)
		}
		return fields
	}
	aliceToken := bearer(tokenOf("alice", 0))
	for _, tt := range []struct {
		name   string
		fields []string
		read   int // the status of a read of bob, and of a write of alice
		write  int
	}{
		{"ordinary", []string{aliceToken}, 200, 200},
		{"one field of 15,000 bytes", []string{aliceToken, "X-A: " + strings.Repeat("x", 15_000)}, 200, 200},
		{"one field of 30,000 bytes", []string{aliceToken, "X-A: " + strings.Repeat("x", 30_000)}, 431, 431},
		{"one field of 4 MB", []string{aliceToken, "X-A: " + strings.Repeat("x", 4<<20)}, 431, 431},
		{"a name of 30,000 bytes", []string{aliceToken, strings.Repeat("X", 30_000) + ": x"}, 431, 431},
		{"1,000 fields", append(repeat(1_000, func(i int) string { return fmt.Sprintf("X%d: %d", i, i) }), aliceToken), 200, 200},
		{"10,000 fields", append(repeat(10_000, func(i int) string { return fmt.Sprintf("X%d: %d", i, i) }), aliceToken), 431, 431},
		{"1,000 times the same field", append(repeat(1_000, func(int) string { return "X-A: x" }), aliceToken), 200, 200},
		{"100 Authorizations, all the same", repeat(100, func(int) string { return aliceToken }), 200, 401},
		{"100 Authorizations of different users", repeat(100, func(i int) string { return bearer(tokenOf(fmt.Sprint("u", i), 0)) }), 200, 401},
		{"Authorization, and one that is empty", []string{aliceToken, "Authorization:"}, 200, 401},
		{"Authorization by another case, twice", []string{aliceToken, "aUTHORIZATION: Bearer " + tokenOf("bob", 0)}, 200, 401},
		{"a list in one Authorization", []string{aliceToken + ", Bearer " + tokenOf("bob", 0)}, 401, 401},
		{"a token of 4,096 bytes", []string{bearer(tokenOf(strings.Repeat("a", 4096-len("known..0")), 0))}, 200, 403},
		{"a token of 5,000 bytes", []string{bearer(tokenOf(strings.Repeat("a", 5_000), 0))}, 200, 401},
		{"a token of 15,000 bytes", []string{bearer(tokenOf(strings.Repeat("a", 15_000), 0))}, 200, 401},
		{"a token with a NUL", []string{"Authorization: Bearer known.alice.0\x00"}, 400, 400},
		{"a token with a DEL", []string{"Authorization: Bearer known.alice.0\x7f"}, 400, 400},
		{"a token that is not ASCII", []string{"Authorization: Bearer known.al\u00efce.0"}, 200, 401},
		{"a token behind a tab", []string{"Authorization: Bearer\tknown.alice.0"}, 401, 401},
		{"a folded token", []string{"Authorization: Bearer\r\n known.alice.0"}, 200, 200},
		{"a token that is folded in two", []string{"Authorization: Bearer known.alice\r\n .0"}, 401, 401},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := askWhileSending(t, s.URL, wire.Request("GET", presencePath(bob), append(tt.fields, from("192.0.2.1"))...))
			if err != nil {
				t.Fatalf("read: %v", err)
			}
			if r.Status != tt.read {
				t.Errorf("read: %s, want %d", r, tt.read)
			}
			hs.takeSeen()
			r, err = askWhileSending(t, s.URL, wire.RequestWith(online("x"), "PUT", presencePath(alice), append(tt.fields, from("192.0.2.1"))...))
			if err != nil {
				t.Fatalf("write: %v", err)
			}
			if r.Status != tt.write {
				t.Errorf("write: %s, want %d", r, tt.write)
			}
			for _, seen := range hs.takeSeen() {
				if seen.method == http.MethodPut && tt.write != http.StatusOK {
					t.Errorf("the write got to the homeserver: %s", seen)
				}
			}
		})
	}
	expectPlain(t, hs)
}

// TestManyHeaderBombs: the same without a pause.
func TestManyHeaderBombs(t *testing.T) {
	const connections = 64
	s := newSite(t, newHomeserver(t, false), options{module: []string{"read_limit off"}})
	large := "X-A: " + strings.Repeat("x", 15_000)
	bombs := [][]byte{
		wire.Request("GET", presencePath(bob), viewer, large, from("192.0.2.1")),
		wire.Request("GET", presencePath(bob), viewer, "X-B: "+strings.Repeat("x", 100_000), from("192.0.2.1")),
		wire.Request("GET", presencePath(bob), append(strings.Split(strings.Repeat("X-A: x\n", 1_000)+viewer, "\n"), from("192.0.2.1"))...),
		wire.Request("GET", presencePath(bob)+"?"+strings.Repeat("a&", 6_000), viewer, from("192.0.2.1")),
		wire.Request("GET", presencePath(bob)+"?"+strings.Repeat("%61ccess_token=x;", 700), viewer, from("192.0.2.1")),
	}
	siege{
		name: "header fields of 15 KB and 100 KB, 1,000 fields, 6,000 parameters",
		site: s,
		flood: flood{
			connections: connections, requests: scale.bodies * 4, judge: only(200, 431),
			request: func(i int) []byte { return bombs[i%len(bombs)] },
		},
		work: func(seconds float64) limits {
			// The last has a doubtful credential of somebody with an account, and is
			// passed on, when both of its tokens have been looked up: the one that isn't known
			// again after each rejected_ttl.
			return limits{count: [kinds]int{whoami: again(1, seconds) + 1 + int(seconds/10), read: scale.bodies*4/len(bombs) + connections*(1+int(seconds/30))}}
		},
		inFlight: connections * (connectionTakes + 6*16<<10),
	}.run(t)
}

// TestHeadersThatNeverEnd: clients that send a byte of a header and then nothing.
func TestHeadersThatNeverEnd(t *testing.T) {
	neverEnd(t, "headers", 0, func(int) []byte { return wire.Head("GET", presencePath(bob), viewer, "X-A:") })
}
