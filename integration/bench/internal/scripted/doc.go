// Package scripted is a homeserver that knows presence and nothing else. It answers
// like Synapse, with Synapse's header fields and no Content-Length, and counts what
// it is asked.
//
// It exists because a real Synapse is too slow to load a cache to its limit, and
// because of a real one nobody knows what the right answer is. Here a status says
// when it was true: whoever reads it can tell a stale answer and a wrong
// last_active_ago from a right one (see package freshness).
//
// Two options make it the homeserver of the freshness table. With cost, each
// request burns as much CPU time as one of Synapse's did when it was measured, one
// request at a time, as Synapse has one interpreter. With hidden, every second
// viewer may not see every second target.
//
// It runs in a process of its own, the same program with a hidden subcommand, so
// that its CPU time can be told from everybody else's.
package scripted
