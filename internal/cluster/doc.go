// Package cluster makes several processes before one homeserver agree: what one of them writes, no
// other answers from memory afterwards as it was before. It knows the log that they share only as
// a [Log], and what a process remembers only as a [Memory].
//
// A write's beginning is in the log before the write is sent to the homeserver, and a read that
// wants to believe its memory first pulls what the log has gained:
//
//	1 write at A: appends "begins", is sent on, is acknowledged
//	2 read at B:  pulls "begins", drops what it knows, asks the homeserver
//
// Nothing depends on clocks, on who else is there, or on another process answering.
//
//   - log.go: [Log], its entries, and budgets;
//   - node.go: [Node], one process of them, and what it does in the background;
//   - barrier.go: one pull for all readers who came before it was sent;
//   - pull.go: what is done with what was pulled, and when all that is known is dropped;
//   - writes.go: this process's writes in flight; remote.go: those of the others;
//   - turn.go: writes that wait at this node, and whether it is their turn;
//   - outbox.go: what may be told a moment later;
//   - contact.go: whether the log can be reached, and since when it can't; who else can.
package cluster
