// Package policy decides what may happen on a homeserver's presence routes. It knows nothing of
// HTTP servers, and reads the wire by internal/matrix.
//
//   - read.go, write.go: what becomes of a presence request, as two tables to be read from top to
//     bottom, [DecideRead] and [DecideWrite], with the facts that both have in facts.go. They
//     are pure, and the same in mode enforce and in mode observe;
//   - limit.go: so many events in a window. limiter.go: is there budget left? [Limiter] keeps one
//     number per user, see budget.go: the theoretical arrival time of the generic cell rate
//     algorithm, and under which limit it was made. left.go: what an admin sees and resets of it; snapshot.go:
//     what is kept of it over a restart;
//   - client.go: which addresses are one client's;
//   - brownout.go: presence gives way while the homeserver is slow, [BrownOut]; level.go: how far;
//     relapse.go: for how long after it came back too soon; probe.go: what tells how slow the
//     homeserver is; slowness.go: how slow that is; pass.go: what lets a request go to it then;
//     entrants.go: which ones; trial.go: how many;
//   - repeat.go: which write only repeats the last;
//   - toplimited.go: who was over a budget most.
//
// Time is a parameter everywhere. There is no package-level clock and no
// background goroutine, and every table is bounded by its constructor.
package policy
