// Package faults puts an upstream before Caddy that does on the wire whatever it
// likes, and looks at what becomes of it.
//
// The upstream is a listener with a script: one side of it behaves as a homeserver,
// the other breaks connections, lies about lengths, never ends, answers in HTML.
// Each [fault] meets each role: a read that asks for itself, readers who share a
// fetch, a read with a stale answer at hand, a write, a logout, a question whose
// token it is, any other request. Caddy runs in the test's own process, with its real
// reverse_proxy, and beside the site with the module there is one without it.
//
// The laws are few, and no row of the table may be an exception that it doesn't name:
//
//   - What passes through is, to the byte, what Caddy alone would have passed on.
//   - A read that we make ourselves has the answer that Caddy alone would have had, or
//     502 where Caddy alone breaks off in the middle of it.
//   - Nothing is kept of an answer that wasn't whole and a presence. After a write,
//     whatever became of it, the next read is the homeserver's to answer, and after
//     a logout that may have happened so is whose token it was.
//   - Afterwards there is no goroutine more than before, no request that waits, no
//     panic and no token in the log.
//
// The homeserver's half is a register of versions: each write, and each change
// behind our back, makes a new one, so an answer tells how old it is.
package faults
