// Package pending holds writes that were answered with 200 and wait for their user's budget, and has
// them delivered.
//
//   - writes.go: [Writes], all that wait, by user; source.go: [Source], a configuration that has
//     writes wait and may end;
//   - write.go: [Write], one of them, with the [Sender] that it needs to be sent, and the older
//     ones whose place it has taken;
//   - deliver.go: the delivery of a user's queue; flush.go: of all that wait when a configuration ends.
//
// It knows nothing of HTTP. Memory is bounded by [Rules] and a few constants.
package pending
