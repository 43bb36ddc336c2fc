// Package identity remembers whose access tokens are, as the homeserver's /account/whoami told it.
//
//   - table.go: [Table], which is asked on whose behalf a credential acts, and session.go: as which
//     device; key.go: the keyed hashes by which it knows tokens;
//   - lookups.go: [Lookups], the questions that are under way, and whose answers several share;
//     inquiry.go: [Inquiry], what one of them learns, unless a revocation has overtaken it;
//   - unknown.go: tokens that the homeserver doesn't know; refusals.go: tokens that it knows,
//     and whose account it refuses;
//   - revoke.go: tokens that end. A revocation takes effect on the next lookup, and on those of the same
//     token or user that are under way;
//   - settling.go: from when on answers about them are remembered again;
//   - ending.go: who is told that something has ended; snapshot.go: what is kept of the table over a restart,
//     and what ends while it is being read;
//   - issued.go: to whom a token was given out, and which other ends by that;
//   - inspect.go: how many tokens of each user are known, for an admin.
//
// Time is a parameter, no goroutine is started but for a lookup, and every table is bounded by its constructor.
package identity
