// Package freshness compares contenders that are equally fresh, on a homeserver
// that lets not everybody see everybody.
//
// Throughput says what a hit costs, and not what a hit is worth: a cache that
// shows a presence to whom it is none of their business, or a status that its
// user has replaced, is fast too. Here a client checks each answer against what
// the homeserver would have said. Targets write their presence through the
// contender while viewers read, and a status carries its version and the time of
// the user's last activity. An answer is wrong if it shows
//
//   - anything to a viewer whom the homeserver refuses (a leak),
//   - a version older than one whose write was acknowledged before the read was
//     sent (stale),
//   - a last_active_ago that is off by more than two seconds,
//   - a refusal to a viewer who may see the target.
//
// The peers' caches know nothing of writes, so a time to live is all that bounds
// how stale they get: contenders are given one of a second, or don't cache at
// all, which is the only way in which they are as fresh as ours. What a contender
// saves is then what still reaches the homeserver, and the CPU time of both
// together.
//
// All contenders get the same reads in the same order, as fast as they answer,
// until all are done or the time is up.
package freshness
