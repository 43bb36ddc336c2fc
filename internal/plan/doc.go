// Package plan answers what the module would save a homeserver and what it would cost: it plays
// a load that is described, or that another source tells of, through the tables and decisions that
// serve real requests, in virtual time.
//
//   - load.go: [Load], what is known of a server; people.go: the clients that make it, by the block:
//     whole rooms and all who are in them;
//   - request.go: what a client sends; agenda.go: virtual time; world.go: the nodes before a
//     homeserver, and beside them the same homeserver without them;
//   - player.go: [Player], which plays requests that come from elsewhere; accesslog.go: an
//     access log, whose lines logline.go reads, and metricspage.go:
//     a metrics page, and which load that was; source.go: which of the two a file is;
//   - node.go: a process with the module; owner.go: whose tokens are; read.go, write.go, sync.go: the
//     life of a request in it. They follow internal/gateway, with the waiting left out: decisions are
//     those of policy, and what is remembered is in the tables of cache, policy, internal/identity and
//     internal/devices;
//   - homeserver.go: what becomes of a user's presence;
//   - settings.go: the configurations that have a name;
//   - counts.go: what happened; costs.go: what that costs, as it was measured, in one place;
//   - estimate.go: [Question], which part of a server is simulated, and how sure that is; answer.go: [Answer],
//     ranges with what they assume; advice.go: what to change; table.go: the same for people.
package plan
