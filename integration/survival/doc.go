// Package survival holds the tests in which the sidecar ends, is killed or is
// reloaded while it is being used. The built binary stands in front of a scripted
// homeserver and is signalled as an admin's service manager would do it.
//
// What they hold it to:
//
//   - Told to leave by SIGTERM, or reloaded, it answers every request that it has
//     accepted, and every write that was acknowledged is at the homeserver.
//   - Killed, it loses what it remembers and nothing else: started again it
//     answers as the homeserver does, from its first request on.
//   - A reload keeps what is remembered, a reload that fails changes nothing, and
//     many reloads leave nothing behind.
//
// "Accepted" needs care. A connection that the kernel has taken but Caddy has not is
// reset when its listener closes, and a client may send a request on a kept
// connection at the moment at which the server closes it for being idle; both are
// in the nature of HTTP/1.1 and of listening sockets, and clients try again. So the
// tests don't guess by time. Each request has a name, which goes into Caddy's access
// log and to the homeserver. A request that the client got no answer to must be in
// neither: then nobody has acted on it. A request that is in the log must have been
// answered, with the status that is there.
//
// The soak (soak_test.go) is all at once, for long, and looks for what only time shows:
// memory, goroutines or file descriptors that grow, answers that go wrong once in a million,
// counts that drift apart. Hundreds of people read, write, sync and log out, go over their
// limits and away before the answer, show tokens that don't exist and write what isn't theirs.
// The sidecar is reloaded every few seconds, with other limits, lifetimes and table sizes, and
// the homeserver goes away and comes back, every other time in the middle of its answers.
// What it decides at the end:
//
//   - No answer was wrong (judge_test.go). Each is held against what is known at the client:
//     which writes were acknowledged before the read began, who may see whom, which
//     tokens are good.
//   - The counts agree (books_test.go). Each request has a kind, which goes into Caddy's
//     access log and to the homeserver. What the clients saw, what the log says was
//     decided, and what the homeserver was asked must fit, to the last request.
//   - It is flat (flat_test.go). What the process holds is sampled each second from Caddy's
//     own metrics; the last third of the time is compared with the second. And when the
//     traffic is over, goroutines and file descriptors are back where they were before it.
//
// "go test" makes a small number of reloads and rounds, and a soak of 15 seconds;
// "go test -size full" many, and one of ten minutes, or -duration.
package survival
