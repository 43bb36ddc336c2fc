// Package gateway is the life of a request in front of a homeserver: what is answered from
// memory, what is refused, and what goes on, perhaps changed. It knows its web server only by
// the interfaces of server.go, so its tests don't need one.
//
// A [Gateway] serves requests under one configuration, its [Settings]. What it remembers is in a
// [Store], which other gateways may share and which outlives it. [Gateway.Serve] in gateway.go is
// the way in, and tells requests apart:
//
//   - read.go: a GET of a presence, and reading.go: what is found out about one; write.go: a PUT;
//     observe.go: both in mode observe, and observation.go: what becomes of one there;
//   - sync.go: a sync that sets a presence; preflight.go: an OPTIONS;
//   - revoke.go: requests by which tokens end, and sender.go: who has sent one, or a leave;
//   - learn.go: what is learned from answers while they pass, by hearer.go; batches.go: which syncs may
//     be answered again; membership.go: requests by which memberships change;
//   - inhand.go: that a request is in hand already; stray.go: a handler that stands in the wrong place,
//     and says so;
//   - protocol.go: what a request is, whatever protocol brought it; body.go: its body; early.go: one
//     that comes before it is known where it comes from.
//
// Every other request goes to the next handler as it came, and waits for nothing; what gives
// tokens out goes without its Accept-Encoding, for its answer to be read.
//
// What they need:
//
//   - whoami.go: whose an access token is, asked of the homeserver; owner.go: what is known of that;
//     firstread.go: a read that tells it; claim.go: whose the token says that it is; faults.go: why
//     the homeserver can't be asked, in the log;
//   - client.go, budgets.go: who may ask, and how often;
//   - fetch.go: a read that goes to the homeserver; share.go: who may have its answer; retrial.go: what
//     becomes of those who shared one that failed;
//   - subrequest.go: requests of our own; head.go: what they carry; fields.go: what of that is the
//     site's; subresponse.go: what they bring; outage.go: whether the homeserver fails, or a client
//     makes it fail;
//   - delivery.go: what a write needs to be sent that was answered 200 and waits;
//   - brownout.go: what gives way while the homeserver is slow;
//   - dialect.go: which homeserver it is;
//   - feed.go: what the homeserver tells by itself; follower.go: who takes it in; pace.go: how late it is;
//   - cluster.go: other nodes before the same homeserver; announcement.go: writes that they are told of;
//     chunks.go: reads that their shared budget gave;
//   - needs.go: what all gateways of a store watch for because one needs to know it;
//   - respond.go: the answers that we write ourselves; writer.go and watch.go: looking at
//     others' answers while they pass, without holding them up;
//   - outcome.go, counters.go, metrics.go: what became of requests, in logs and metrics;
//   - inspect.go: what an admin sees of a user, and may have forgotten;
//   - snapshot.go: what of it survives a restart;
//   - heirs.go: the stores that take a gateway's place;
//   - store.go: what is remembered; settings.go: what is configured, with its defaults.
package gateway
