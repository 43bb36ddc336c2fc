// Package history tests that reads through the sidecar are linearizable: hundreds
// of clients read and write presence through the real handler chain, what each of
// them did and saw is written down, and porcupine looks for an order of all that in
// which every read returns what was written last.
//
// A user's presence is a register, and its value the number in status_msg, which
// is another one in each write. The homeserver behind the sidecar is the test's own: it
// keeps that register, takes its time, and fails as homeservers do.
//
// Each history is judged twice. As the clients know it: a write that was acknowledged
// happened before that, and one that failed, was cancelled or timed out may have happened
// at any time since, or not at all. And as the homeserver knows it: whatever it applied
// happened when it did that, or when the client was told, if that came later, and nothing
// else did. The second is what SECURITY.md promises of a homeserver that applies writes
// late, and docs/operations.md of clients that go away.
//
// What the homeserver promises in turn, to apply a write within the settle time after it
// ended or never, it keeps by the clock and not by being quick, so a
// slow machine makes no difference.
//
// In the scenarios of nodes there are three, which share a real Redis or Valkey, and to that happens
// all that does happen. They are in one process: their caches have different names, and their
// prefixes of keys make the same keys of them.
//
// The figures of a run, and more of it:
//
//	go test ./history -v
//	go test ./history -size full -timeout 30m -v
package history
