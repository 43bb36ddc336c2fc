package cache

import (
	"math"
	"time"
)

// fence keeps answers that a write has overtaken out of the table. It is
// guarded by its shard's lock.
//
//	1 read:  departs for the homeserver, with a ticket of generation 4
//	1 read:  the homeserver reads the old state
//	2 write: begins; generation 5, the stored state is dropped
//	2 write: the homeserver applies it and acknowledges
//	2 write: ends; generation 6
//	1 read:  its answer, the old state, arrives, and is not stored: 4 is not 6
//
// The second invalidation is for a read that departs between the two, with a ticket of
// generation 5: it may have read either state. Its ticket is not good for storing
// anyway, because a write was in flight; but nobody who comes after the write
// may share its answer either, even where nothing has to settle. A read that
// departs within the settle time is stored only if it shows what was written, see
// [Write.Acknowledge], because some homeservers acknowledge a write before they
// apply it (Dendrite publishes it to a queue).
//
// A cancelled or failed write ends like any other: it may have been applied.
//
// Fences are striped, many targets to one, so their memory is fixed and none
// is ever forgotten while an answer is on its way. A write to one target
// then keeps an answer about another from being stored now and then. It never
// drops a stored state of another.
type fence struct {
	generation uint64
	writes     int           // in flight
	settled    int64         // nothing that departs before is stored, unless it gives the proof
	proof      expectedState // that the write was applied, or the row holds, that made this generation
	stamp      int64         // the highest of the rows
	row        uint64        // the digest of the last row that came while a write was in flight
}

// invalidate voids the tickets that were given out.
func (f *fence) invalidate() {
	f.generation++
	f.proof, f.row = expectedState{}, 0
}

// fencesPerShard makes 16,384 fences in a large table, 56 bytes each. At 100 writes a
// second and a second of settling, fewer than one read in a hundred finds its
// fence invalidated by another target.
const fencesPerShard = 256

// isSettled reports whether an answer to a request that departs now may be stored.
func (f *fence) isSettled(now int64) bool { return f.writes == 0 && now >= f.settled }

// Ticket is taken when a request for a target's presence departs, and says
// under which circumstances its answer may be stored.
type Ticket struct {
	target     string
	departed   int64
	generation uint64
	settled    bool
	settling   bool
}

// Generation changes whenever a write to the target begins or ends. Readers may
// share an answer only if they came in the same generation.
func (t Ticket) Generation() uint64 { return t.generation }

// Settled tells whether no write to the target was in flight or settling.
// While that isn't so, a reader may only share the answer to a request that
// departs after the reader came: two that departed one after the other may read
// the new state and then the old.
func (t Ticket) Settled() bool { return t.settled }

// Settling tells whether the settle time of a write was not over. Who comes after it
// may not share the answer to a request that departed within: unlike a write in
// flight, that has an end which changes no generation.
func (t Ticket) Settling() bool { return t.settling }

// Doubted returns a ticket that tells only when its request departs: its answer isn't stored, and nobody may share one that departs before.
func (t Ticket) Doubted() Ticket {
	t.settled = false
	return t
}

// Overtaken tells that a write of the target may have begun or ended since a request with
// this ticket departed. Its answer says nothing about such a write.
func (p *Presence) Overtaken(t Ticket) bool {
	shard, f := p.shardOf(t.target)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	return f.generation != t.generation
}

// ticket returns one for a request that leaves now. It needs the shard's lock.
func (p *Presence) ticket(shard *stateShard, f *fence, target string, at int64) Ticket {
	return Ticket{
		target: target, departed: at, generation: f.generation,
		settled: f.isSettled(at) && !shard.waiting[target], settling: at < f.settled,
	}
}

// Write is a write to a target's presence that is in flight, or waits.
type Write struct {
	presence   *Presence
	target     string
	waits      bool
	generation uint64 // that it began

	// alone is from when on the writes before it can't be applied any more: never, if
	// one of them is in flight.
	alone int64

	// before is the digest of what the state showed that the write took the place of, if
	// that was live, else 0.
	before uint64
}

// Ticket returns the ticket of a request for the target's presence that departs now.
func (p *Presence) Ticket(target string, now time.Time) Ticket {
	shard, f := p.shardOf(target)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	return p.ticket(shard, f, target, p.clock(now))
}

// BeginWrite must be called before a write to the target is sent. What is known
// about the target is dropped. The caller must call [Write.End] whatever
// becomes of the write.
func (p *Presence) BeginWrite(target string) Write {
	shard, f := p.shardOf(target)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	alone := f.settled
	if f.writes > 0 || shard.waiting[target] {
		alone = math.MaxInt64
	}
	before := p.awaitWrite(shard, target)
	f.invalidate()
	f.writes++
	p.drop(shard, stateKey{target: target})
	return Write{presence: p, target: target, generation: f.generation, alone: alone, before: before}
}

// BeginDeferred is [Presence.BeginWrite] for a write that is to be sent later. It may wait for
// long, with many others, so it doesn't keep other targets of its stripe from being
// stored, and takes some memory of its own. A target may have one at a time.
func (p *Presence) BeginDeferred(target string) Write {
	shard, f := p.shardOf(target)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	f.invalidate()
	if shard.waiting == nil {
		shard.waiting = make(map[string]bool)
	}
	shard.waiting[target] = true
	p.drop(shard, stateKey{target: target})
	return Write{presence: p, target: target, waits: true}
}

// End must be called when a write was answered, failed or was given up, or instead
// [Write.Acknowledge]. For the time of settle from now on nothing is stored for the target.
func (w Write) End(now time.Time, settle time.Duration) {
	shard, f := w.presence.shardOf(w.target)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	w.end(shard, f, now, settle)
	w.endAwaiting(shard, false, now)
}

// end needs the lock.
func (w Write) end(shard *stateShard, f *fence, now time.Time, settle time.Duration) {
	f.invalidate()
	if w.waits {
		delete(shard.waiting, w.target)
	} else {
		f.writes--
	}
	f.settled = max(f.settled, w.presence.clock(now)+int64(settle))
}

// Acknowledge is [Write.End] for a write of this body, which had begun by then, and which
// the homeserver says to have taken. An answer that shows it is stored before the time
// of settle is over: if it was applied, nothing is left that would have to settle.
//
// That is so if no other write could be applied after it: none was in flight with it,
// those before it had settled when it began, and none has begun since; and if no row of a feed
// has come since that says something else.
//
//	1 write: begins, is acknowledged, and not applied yet
//	2 write: begins, is acknowledged and applied
//	3 read:  shows the second write, and must not be stored
//	1 write: is applied
func (w Write) Acknowledge(body []byte, began, now time.Time, settle time.Duration) {
	var expects expectedState
	if settle > 0 || w.before != 0 {
		expects = w.presence.expectedStateOf(w.target, body, began)
	}
	shard, f := w.presence.shardOf(w.target)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	alone := f.generation == w.generation && w.presence.clock(began) >= w.alone && (f.row == 0 || f.row == expects.digest)
	w.end(shard, f, now, settle)
	if alone && settle > 0 {
		f.proof = expects
	}
	w.endAwaiting(shard, expects.digest != 0 && expects.digest != w.before, now)
}
