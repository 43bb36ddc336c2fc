// Command soak lets the built sidecar run for a long time under everything at once, and
// looks for what only time shows: memory, goroutines or file descriptors that grow, answers
// that go wrong once in a million, counts that drift apart.
//
// In front of a scripted homeserver of its own, hundreds of people read and write, log
// out and in again, go over their limits, show tokens that don't exist, write what isn't
// theirs, say the same again and again, write in such haste that they have to wait, sync, act
// through an appservice, go away before the answer, and do what is no presence at all. Meanwhile the sidecar is reloaded every few seconds, with other limits, lifetimes
// and table sizes each time, and the homeserver goes away and comes back, every other time
// in the middle of its answers.
//
// Three things are decided at the end, and the exit status says whether all hold:
//
//   - No answer was wrong (judge.go). Each is held against what is known at the client:
//     which writes were acknowledged before the read began, who may see whom, which
//     tokens are good.
//   - The counts agree (equations.go). Each request has a kind, which goes into Caddy's
//     access log and to the homeserver. What the clients saw, what the log says was
//     decided, and what the homeserver was asked must fit, to the last request.
//   - It is flat (flat.go). What the process holds is sampled each second from Caddy's own
//     metrics; the last third of the time is compared with the second. And when the
//     traffic is over, goroutines and file descriptors are back where they were before it.
package main
