// Package cache remembers what a homeserver answered to presence reads, and
// never shows an answer to a viewer who may not see it or after a write has
// made it untrue.
//
// The body of an answer is the same for every permitted viewer; whether a
// viewer is permitted is not. So there are two tables, never one:
//
//   - states (presence.go): target → the last answer, when it was true, and how it ages;
//   - permissions (permission.go): (viewer, target) → allowed, or a denial: the homeserver's 403 or 404.
//
// A read is a hit only if both are fresh (lookup.go). A viewer is a Matrix user, not a
// token. Where a homeserver shapes bodies per viewer, [Rules.PerViewer] gives
// each viewer a state of their own that dies with the target's.
//
// A permission is also given by what passes by, see learned.go: by a list of a room's members, for
// all who are joined to it (room.go), once that room has been on trial (trial.go); and by a sync,
// which tells too that a state has changed.
//
// Whether a viewer may see a target changes when one of them joins or leaves a room:
// [Presence.MembershipChanged] ends all that is known of that (membership.go).
//
// A feed tells of changes by itself: [Presence.Apply] takes in what it says of a user's presence
// (row.go), and while it is whole, what is known lives for longer (live.go).
//
// A read that is no hit takes a [Ticket] when its request departs and hands it
// back with the answer; a write is between [Presence.BeginWrite] and
// [Write.End] or [Write.Acknowledge]. fence.go says why an answer that a write overtook
// is never stored, and proof.go which one shows that a write was applied.
//
// A state is immutable. It is served with last_active_ago grown by the time
// that it spent in memory, and not past the moment at which currently_active
// would flip (answer.go). States with the same header fields share them (fields.go).
//
// What else ends a state is in invalidate.go: it may have changed, an admin has it dropped, or changes may have
// been missed. An admin may look a user up, too (inspect.go).
//
// The package knows nothing of HTTP servers or Caddy. Time is a parameter, no
// goroutine is started, and memory is bounded by the three table sizes, since
// states with a body above [MaxBody] are not kept.
package cache
