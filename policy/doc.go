// Package policy decides what may happen on a homeserver's presence routes.
//
// It answers five questions, mostly each in a file of its own, and knows nothing of
// HTTP servers, of Caddy or of what a cache holds:
//
//   - Is this path a presence route, and whose? (route.go) The answer is the
//     homeserver's, not a router's: paths are matched escaped, raw segment by
//     raw segment, exactly as Synapse matches them, because a spelling that we
//     miss and Synapse serves is a way around every rule below.
//   - Which access token does this request carry? (credential.go) Homeservers
//     disagree about requests that carry several, so these are [ErrUncertain]:
//     a read of that kind is for the homeserver to judge, a write is refused.
//   - Whose token is it? (identity.go) [Identities] remembers what the
//     homeserver answered. Tokens are kept as keyed hashes only, and a
//     revocation takes effect on the next lookup, and on those of the same token or
//     user that are under way.
//   - Is there budget left? (limit.go) [Limiter] keeps one number per user, the
//     theoretical arrival time of the generic cell rate algorithm, and under which
//     limit it was made.
//   - What becomes of the presence that a sync sets? (sync.go, devices.go)
//     [Devices] remembers what each device asked for; what a homeserver makes of it
//     is its [Dialect] (dialect.go).
//
// What becomes of a presence request by all of that is decided in two tables to be read from top
// to bottom: [DecideRead] (read.go) and [DecideWrite] (write.go), with the facts that both have in
// decision.go. They are pure, and the same in both modes.
//
// body.go holds what each homeserver makes of the body of a write, and which of several may
// be sent for all of them, repeat.go which write only repeats the last, revocation.go
// the requests after which tokens are no longer good, activity.go those by which a homeserver
// takes a user for active, client.go which addresses are one client's, and pattern.go the user
// ID patterns of the configuration. talkers.go tells who was over a budget most.
//
// Time is a parameter everywhere. There is no package-level clock and no
// background goroutine, and every table is bounded by its constructor.
package policy
