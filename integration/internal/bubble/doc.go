// Package bubble runs all of Caddy inside a bubble of testing/synctest: its server, its
// logs, its handlers, over HTTP/1.1, HTTP/2, h2c and HTTP/3. So a test has minutes of
// lifetimes in no time, exact to the nanosecond.
//
// Nothing is a socket. Caddy listens on a network of its own, "pipe" (network.go): connections
// are buffers (conn.go), and for HTTP/3 datagrams go through channels. reverse_proxy has
// a transport "model" (upstream.go), which calls what a test stands behind an
// address, and a transport "wire" (wire.go), which is Caddy's own over such connections. Caddy's
// logs go to a [Journal], which looks for access tokens (journal.go). client.go speaks each
// protocol, raw.go what of HTTP/1 Go's client doesn't, and door.go says by which way clients get
// there. caddy.go starts Caddy, and scratch.go gives it folders.
//
// Caddy is one in a process, and so is what it is tied to here: one bubble at a time.
package bubble
