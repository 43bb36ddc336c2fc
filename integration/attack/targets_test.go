package attack_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/wire"
)

// connectionTakes is how much memory a connection takes that is being served:
// buffers, header fields and a stack, on both sides of the proxy.
const connectionTakes = 64 << 10

// viewer is somebody with an account who means harm.
var viewer = bearer(tokenOf("mallory", 0))

// only expects one of these statuses.
func only(statuses ...int) func(int, reply) error {
	return func(i int, r reply) error {
		for _, status := range statuses {
			if r.Status == status {
				return nil
			}
		}
		return fmt.Errorf("request %d was answered with %s, want one of %d", i, r, statuses)
	}
}

// again is n lookups, and as many whenever the two minutes are over for which the
// answer is kept.
func again(n int, seconds float64) int { return n * (1 + int(seconds/120)) }

// longID is the user ID number i, of so many bytes.
func longID(prefix string, i, bytes int) string {
	id := fmt.Sprintf("@%s%d-", prefix, i)
	return id + strings.Repeat("x", bytes-len(id)-len(":hs")) + ":hs"
}

// TestManyTargets: one viewer asks for everybody there is, and for more.
func TestManyTargets(t *testing.T) {
	const unlimited = "read_limit off"
	everything := func(reads int) func(float64) limits {
		return func(seconds float64) limits {
			return limits{count: [kinds]int{whoami: again(1, seconds), read: reads}}
		}
	}
	for _, tt := range []struct {
		name    string
		n       int
		options options
		target  func(i int) string
		judge   func(int, reply) error
		work    func(seconds float64) limits
		entries entries
	}{
		{
			"distinct targets of one viewer, default read_limit", scale.targets, options{},
			func(i int) string { return fmt.Sprintf("@user%d:hs", i) },
			only(http.StatusOK, http.StatusTooManyRequests),
			func(seconds float64) limits {
				n := min(scale.targets, 5_000+int(100*seconds)+1)
				return limits{count: [kinds]int{whoami: again(1, seconds), read: n}}
			},
			entries{},
		},
		{
			"distinct targets of one viewer, no read_limit", scale.targets, options{module: []string{unlimited}},
			func(i int) string { return fmt.Sprintf("@user%d:hs", i) },
			only(http.StatusOK),
			everything(scale.targets),
			entries{},
		},
		{
			"distinct targets who may not be seen, no read_limit", scale.hidden, options{module: []string{unlimited}},
			func(i int) string { return fmt.Sprintf("@hidden%d:hs", i) },
			only(http.StatusForbidden),
			everything(scale.hidden),
			entries{},
		},
		{
			"distinct targets with IDs of 255 bytes, no read_limit", scale.hidden, options{module: []string{unlimited}},
			func(i int) string { return longID("user", i, 255) },
			only(http.StatusOK),
			everything(scale.hidden),
			entries{userID: 255},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			siege{
				name:    tt.name,
				options: tt.options,
				flood: flood{
					connections: 32, requests: tt.n, judge: tt.judge,
					request: func(i int) []byte { return wire.Request("GET", presencePath(tt.target(i)), viewer, from("192.0.2.1")) },
				},
				work: tt.work, entries: tt.entries,
			}.run(t)
		})
	}
}

// TestForeignWritesCostTheHomeserverNothing: one user tries to write everybody's
// presence.
func TestForeignWritesCostTheHomeserverNothing(t *testing.T) {
	siege{
		name: "writes to distinct other users",
		flood: flood{
			connections: 32, requests: scale.targets / 4, judge: only(http.StatusForbidden),
			request: func(i int) []byte {
				return wire.RequestWith(online("x"), "PUT", presencePath(fmt.Sprintf("@user%d:hs", i)), viewer, from("192.0.2.1"))
			},
		},
		work: func(seconds float64) limits { return limits{count: [kinds]int{whoami: again(1, seconds)}} },
	}.run(t)
}

// TestManyUserIDsOnOneToken: user_id and device_id mean nothing on an ordinary token,
// so however many there are, it is looked up once, or as often as it came at the same
// time when it was new.
func TestManyUserIDsOnOneToken(t *testing.T) {
	const connections = 32
	siege{
		name:    "distinct user_id= and device_id= on an ordinary token",
		options: options{module: []string{"read_limit off"}},
		flood: flood{
			connections: connections, requests: scale.userIDs,
			request: func(i int) []byte {
				target := presencePath(bob)
				switch i % 4 {
				case 0:
					target += fmt.Sprintf("?user_id=@u%d:hs", i)
				case 1:
					target += fmt.Sprintf("?user_id=@u%d:hs&device_id=D%d", i, i)
				case 2:
					target += fmt.Sprintf("?user_id=@u%d:hs&org.matrix.msc3202.device_id=D%d", i, i)
				case 3:
					target = presencePath(alice) + fmt.Sprintf("?user_id=%%40alice%%3Ahs&x=%d", i)
					return wire.RequestWith(online("x"), "PUT", target, viewer, from("192.0.2.1"))
				}
				return wire.Request("GET", target, viewer, from("192.0.2.1"))
			},
			judge: func(i int, r reply) error {
				if i%4 == 3 {
					return only(http.StatusForbidden)(i, r)
				}
				if r.Status != http.StatusOK || string(r.Body) != presenceOf(statusOf(bob)) {
					return fmt.Errorf("request %d was answered with %s", i, r)
				}
				return nil
			},
		},
		work: func(seconds float64) limits {
			n := again(connections, seconds)
			// A state is asked for again when its 30 seconds are over.
			return limits{count: [kinds]int{whoami: n, read: connections * (1 + int(seconds/30))}, each: lookupsEach}
		},
	}.run(t)
}

// TestVeryLongUserIDs: 100,000 bytes, in the path and in user_id. Caddy lets a request
// have 16 KiB of header; an admin may have raised that.
func TestVeryLongUserIDs(t *testing.T) {
	const length, connections = 100_000, 16
	ask := func(i int) []byte {
		id := longID("long", i, length)
		switch i % 4 {
		case 0:
			return wire.Request("GET", presencePath(id), viewer, from("192.0.2.1"))
		case 1:
			return wire.RequestWith(online("x"), "PUT", presencePath(id), viewer, from("192.0.2.1"))
		case 2:
			return wire.Request("GET", presencePath(bob)+"?user_id="+id, viewer, from("192.0.2.1"))
		default:
			return wire.RequestWith(online("x"), "PUT", presencePath(bob)+"?user_id="+id, viewer, from("192.0.2.1"))
		}
	}
	t.Run("default header size", func(t *testing.T) {
		s := newSite(t, newHomeserver(t, false), options{})
		siege{
			name:  "user IDs of 100,000 bytes",
			site:  s,
			flood: flood{connections: connections, requests: scale.long, request: ask, judge: only(http.StatusRequestHeaderFieldsTooLarge)},
			work:  func(float64) limits { return limits{} },
		}.run(t)
	})
	t.Run("header of a megabyte", func(t *testing.T) {
		s := newSite(t, newHomeserver(t, false), options{servers: []string{"max_header_size 1MB"}})
		siege{
			name: "user IDs of 100,000 bytes, Caddy's max_header_size 1MB",
			site: s,
			flood: flood{
				connections: connections, requests: scale.long, request: ask,
				judge: func(i int, r reply) error {
					// A target of that size is passed on, to be the homeserver's to judge, and so
					// is a reader; a writer can't be asked about.
					return only([]int{http.StatusOK, http.StatusForbidden, http.StatusOK, http.StatusUnauthorized}[i%4])(i, r)
				},
			},
			work: func(seconds float64) limits {
				return limits{count: [kinds]int{whoami: again(connections, seconds), read: scale.long/2 + connections*(1+int(seconds/30))}}
			},
			inFlight: connections * 20 * length, // the request, its copies, and those of its parts
		}.run(t)
	})
}
