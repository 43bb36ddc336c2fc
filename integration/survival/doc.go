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
// "go test" makes a small number of reloads and rounds, "go test -size full" many.
package survival
