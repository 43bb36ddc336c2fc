// Package differential holds the tests that the sidecar sees in a request what the
// homeserver behind it sees: whether it is a presence read or write, of whom, and
// by whom.
//
// A grammar spells paths, queries and credentials in thousands of ways, most of
// them wrong by a byte or two. Each goes, byte for byte, over a connection of its
// own to a real homeserver and to the sidecar before it. What the homeserver did is
// told by what has happened, not by what it answered: each write carries a number
// as its status message, which is then looked for. Three laws have to hold:
//
//   - What changes a presence on the homeserver was taken for a write of that user's
//     by the sidecar: with no budget left, no spelling of anything has an effect.
//   - What comes out of the sidecar's memory is what the homeserver answers to the
//     same bytes.
//   - A credential that the sidecar is sure of is the homeserver's user, and where
//     the sidecar sees none, neither does the homeserver.
//
// All else that differs is counted by class, and the classes that may be are
// listed with their reasons. The tests are tested too: a sidecar with the usual
// mistakes is caught by each of them.
//
// Sequences of writes by several devices, with bodies of every class, go directly to
// a real homeserver as one user and through the busy profile as another: in the end it
// shows the same of both (sequences_test.go).
//
// A seed makes the cases, so that a failure comes back:
//
//	go test ./differential -v -size full -seed 7
package differential
