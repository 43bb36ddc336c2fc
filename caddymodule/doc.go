// Package caddymodule is the Caddy face of caddy-matrix-presence: the HTTP
// handler http.handlers.matrix_presence, its Caddyfile directive
// matrix_presence and the command presence-proxy.
//
// The decisions are made elsewhere: whose request it is, whether it may write and
// whether it is within its budget in package policy, what may be answered
// from memory in package cache. This package carries them out:
//
//   - handler.go: the handler, its configuration's life, and the way in;
//   - config.go, caddyfile.go: the options, in JSON and in the Caddyfile;
//   - read.go and write.go: the life of a GET and of a PUT, preflight.go that of an
//     OPTIONS, and pending.go: writes that wait for their budget;
//   - sync.go: the life of a sync whose presence is looked at, and dialect.go: which
//     homeserver it is, as that decides what to write into one;
//   - protocol.go: what a request is, whatever protocol brought it;
//   - identify.go: asking the homeserver whose token it is; client.go and turnstile.go: who
//     may ask, and when; refusal.go: whom the homeserver refuses though it knows the token;
//     seats.go: how much is asked that nobody waits for;
//   - revoke.go: requests after which a token is no longer good, and watch.go: looking at
//     answers while they pass;
//   - upstream.go: requests of our own through the next handler, head.go: what they
//     carry, sitefields.go: what of that the site's handlers need, and flight.go, by
//     which concurrent ones become one;
//   - retrial.go: what becomes of those who shared a request that failed;
//   - outage.go: by what host the homeserver is known, and whether the homeserver fails, or a
//     client makes it fail;
//   - stray.go: a handler in the wrong place says so;
//   - respond.go: the answers that we write ourselves;
//   - memory.go: what survives a reload, and metrics.go, which shows how full it is;
//   - plan.go: which handlers of a configuration have one memory, by which homeserver each
//     fronts, see site.go, as walk.go follows a request through the routes of routing.go;
//   - needs.go: what all handlers of a memory watch for because one needs to know it;
//   - admin.go: who is limited most, at Caddy's admin endpoint;
//   - command.go: presence-proxy.
//
// Every other request goes to the next handler as it came, and waits for nothing. Only where
// a status or a small answer has to be seen, on presence writes, passed-on reads and preflights,
// some syncs, logins and revocations, is there a writer around the client's, and that one
// doesn't buffer.
package caddymodule
