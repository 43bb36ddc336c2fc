// Package integration holds the tests that need the outside world: real
// homeservers, real clients and the finished binary between them.
//
// Its law is that a client can't tell whether the sidecar is there. Each row of
// the tables sends one request twice, to the homeserver and through the sidecar,
// and expects the same status, the same body and the same headers that a client
// acts upon. Where the design says that the sidecar answers by itself, the row
// names that answer. The rows hold the homeservers' answers in full, so that a
// new version that answers otherwise is noticed here and not by a user.
//
// Homeservers are started when the first test asks for them and shared by all;
// every test makes users and sidecars of its own. Synapse takes a never-syncing
// user offline after half a minute, so states that must hold still are offline
// ones. Dendrite applies a write after it has acknowledged it, so a test that
// reads a write polls for it.
package integration
