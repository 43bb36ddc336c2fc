// Package caddymodule is the Caddy face of caddy-matrix-presence: the HTTP
// handler http.handlers.matrix_presence, its Caddyfile directive
// matrix_presence and the command presence-proxy.
//
// The decisions are made elsewhere: whose request it is, whether it may write and
// whether it is within its budget in package policy, what may be answered
// from memory in package cache. This package carries them out:
//
//   - handler.go: the handler, its configuration's life, and the way in; protocol.go: what a
//     request is, whatever protocol brought it;
//   - config.go, class.go, caddyfile.go: the options, in JSON and in the Caddyfile;
//   - read.go and write.go: the life of a GET and of a PUT, preflight.go that of an
//     OPTIONS, pending.go: writes that wait for their budget, and observe.go: all of it in
//     mode observe;
//   - sync.go: the life of a sync whose presence is looked at, and dialect.go: which
//     homeserver it is, as that decides what it and a write mean;
//   - identify.go: asking the homeserver whose token it is; client.go and fairqueue.go: who
//     may ask, and when; refusal.go: whom the homeserver refuses though it knows the token;
//     seats.go: how much is asked that nobody waits for;
//   - revoke.go: requests after which a token is no longer good, and watch.go: looking at
//     answers while they pass;
//   - upstream.go: requests of our own through the next handler, head.go: what they
//     carry, sitefields.go: what of that the site's handlers need, and flight.go, by
//     which concurrent ones become one;
//   - retrial.go: what becomes of those who shared a request that failed, and outage.go:
//     whether the homeserver fails, or a client makes it fail;
//   - respond.go: the answers that we write ourselves;
//   - outcome.go, counters.go, metrics.go: what became of requests, in logs and metrics;
//     admin.go: who is limited most, at Caddy's admin endpoint;
//   - memory.go: what survives a reload, and clock.go: the time by which it ages;
//   - plan.go: which handlers of a configuration have one memory, by the homeserver that each
//     fronts, see site.go, as walk.go follows a request through the routes of routing.go;
//   - needs.go: what all handlers of a memory watch for because one needs to know it;
//   - stray.go: a handler in the wrong place says so;
//   - command.go: presence-proxy.
//
// Every other request goes to the next handler as it came, and waits for nothing; what gives
// tokens out goes without its Accept-Encoding, for its answer to be read. Only where
// a status or a small answer has to be seen, on presence writes, passed-on reads and preflights,
// some syncs and messages, logins and revocations, is there a writer around the client's, and
// that one doesn't buffer.
package caddymodule
