package gateway

import (
	"hash/maphash"
	"sync/atomic"
	"time"
)

// batches knows which batches of news users have asked for lately. Synapse may give the same answer
// again to a device that asks for the same, for two minutes (sync_response_cache_duration): that
// says what was true when it was given first. Whom a sync is for, if that isn't known, may be anybody,
// so then nobody learns from that batch.
//
//	1 sync:  asks for what came since s5, is shown alice
//	2 kick:  the viewer may no longer see alice
//	3 sync:  asks for what came since s5, and is shown alice once more
//
// Times are by Go's monotonic clock, and not by the one by which memory ages: a wall clock that is set forward makes
// Synapse forget nothing.
//
// It is an array of fixed size by a hash. Who shares a place with another learns nothing, which
// costs a question.
type batches struct {
	seed  maphash.Seed
	epoch time.Time
	// began is since when all syncs are noted, in nanoseconds since the epoch.
	began atomic.Int64
	// until is when the last of the answers to what is kept here can't be given again any more, in
	// seconds since the epoch.
	until [batchSlots]atomic.Uint32
}

const (
	// batchSlots take 1 MiB. With 1,000 syncs a second a third of them learns nothing.
	batchSlots = 1 << 18
	// batchLasts is for how long Synapse may give an answer again, and as much more.
	batchLasts = 4 * time.Minute
	// batchUnknown is for how long after a start it isn't known what was asked before.
	batchUnknown = 5 * time.Minute
	// maxBatchTimeout bounds for how long it is noted that a sync is under way. One that may take longer teaches nothing:
	// Synapse goes on with it when its client has left, and gives the answer to who asks with the same timeout.
	maxBatchTimeout = time.Hour
)

func newBatches(now time.Time) *batches { return &batches{seed: maphash.MakeSeed(), epoch: now} }

// begin says that from now on all syncs are noted: before, some gateway may have passed one on that didn't look at it.
func (b *batches) begin(now time.Time) { b.began.Store(int64(now.Sub(b.epoch))) }

// repeats notes that a user asks for what has come since a batch, which may take for a timeout. It
// reports whether the answer may be one that the homeserver has given before.
func (b *batches) repeats(userID, since string, now time.Time, timeout time.Duration) bool {
	lasts, unknown := min(timeout, maxBatchTimeout)+batchLasts, batchUnknown
	until := now.Add(lasts)
	repeated := b.note("", since, now, until, userID == "")
	if userID != "" {
		repeated = b.note(userID, since, now, until, true) || repeated
	}
	if since != "" { // else it waits for nothing, and has no timeout
		repeated, unknown = repeated || timeout > maxBatchTimeout, max(unknown, lasts)
	}
	return repeated || now.Sub(b.epoch)-time.Duration(b.began.Load()) < unknown
}

// note reports whether a user's batch may be answered again, and if write says so, that it may be
// until a time.
func (b *batches) note(userID, since string, now, until time.Time, write bool) (repeated bool) {
	seconds := func(at time.Time) uint32 { return uint32(max(0, at.Sub(b.epoch)/time.Second)) } //nolint:gosec // G115: 136 years
	place := &b.until[maphash.Comparable(b.seed, [2]string{userID, since})%batchSlots]
	for {
		known := place.Load()
		repeated = known > seconds(now)
		if !write || known >= seconds(until) || place.CompareAndSwap(known, seconds(until)) {
			return repeated
		}
	}
}
