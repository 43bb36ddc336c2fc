package policy

import (
	"bytes"
	"encoding/json"
	"hash/maphash"
	"strings"
	"sync"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/sampled"
)

// Repeats remembers what each user last wrote, to tell writes that change nothing. It
// is safe for use by several goroutines.
//
// A write repeats another if the same credential, and so the same device, sent the same
// JSON, and nothing that may have changed the user's presence has begun since. What
// a missing status_msg means differs (Synapse clears the status, Dendrite keeps
// it), but to say the same twice is to say it once for all homeservers.
//
// An answer to a reader that shows something else than what was written ends it too, see
// [Repeats.Observe].
//
// Whoever writes while another write of the user is in flight leaves nothing to repeat:
// nobody knows which of the two came last.
//
//	1 write: begins; what was remembered is dropped
//	2 write: begins
//	1 write: succeeds, 2 write: succeeds; neither is remembered
type Repeats struct {
	epoch  time.Time
	seed   maphash.Seed
	shards [repeatShards]repeatShard
}

const repeatShards = 64

type repeatShard struct {
	mu sync.Mutex // guards all below
	// writing holds the users with writes in flight, last the others. Both are
	// keyed by a keyed hash of the user ID: two users with the same hash would need
	// the same digest too to be mixed up.
	writing map[uint64]*writing
	last    *sampled.Map[uint64, wrote]
}

// writing is what there is of a user while writes are in flight.
type writing struct {
	n         int
	disturbed bool // more than one, or something else has changed the presence
}

// wrote is the last write of a user.
type wrote struct {
	digest   uint64 // of credential and body
	departed int64  // for the homeserver
	repeated int64  // when it was last repeated, or departed

	// What a read shows then: the state, by the homeserver's dialect, and the hash of a
	// message, or 0 if the body gives none.
	states  [matrix.Tuwunel + 1]matrix.Presence
	message uint32
}

// staysOnline is for how long Synapse takes a device that doesn't sync for online after
// a write (presence.sync_online_timeout, 30s), less what a request may take to come
// there.
const staysOnline = 28 * time.Second

// NewRepeats returns a table of at most users users, rounded up to one in each of
// its shards. Of now only differences matter.
func NewRepeats(users int, now time.Time) *Repeats {
	r := &Repeats{epoch: now, seed: maphash.MakeSeed()}
	for i := range r.shards {
		r.shards[i].writing = make(map[uint64]*writing)
		r.shards[i].last = sampled.New[uint64](users/repeatShards, func(a, b wrote) bool { return a.departed < b.departed })
	}
	return r
}

// Resize changes how many users are remembered.
func (r *Repeats) Resize(users int) {
	for i := range r.shards {
		shard := &r.shards[i]
		shard.mu.Lock()
		shard.last.Resize(users / repeatShards)
		shard.mu.Unlock()
	}
}

// PresenceWrite is what a device writes.
type PresenceWrite struct {
	UserID string
	// Fingerprint tells the device that writes from others, as identity.Table.DeviceOf does.
	Fingerprint [16]byte
	// Body is valid JSON.
	Body []byte
}

func (r *Repeats) digest(w *PresenceWrite) uint64 {
	var hash maphash.Hash
	hash.SetSeed(r.seed)
	_, _ = hash.Write(w.Fingerprint[:]) // never fails
	var compact bytes.Buffer
	if json.Compact(&compact, w.Body) != nil {
		compact.Reset()
		compact.Write(w.Body)
	}
	_, _ = hash.Write(compact.Bytes())
	return hash.Sum64()
}

func (r *Repeats) shard(userID string) (uint64, *repeatShard) {
	hash := maphash.String(r.seed, userID)
	return hash, &r.shards[hash%repeatShards]
}

// Absorb reports whether w repeats what the user last wrote successfully, and need not go
// to the homeserver: that has heard it less than refresh ago and, if the next repeat
// takes as long as this one did, will hear it before it takes the user for offline.
func (r *Repeats) Absorb(w *PresenceWrite, refresh time.Duration, now time.Time) bool {
	digest, at := r.digest(w), int64(now.Sub(r.epoch))
	user, shard := r.shard(w.UserID)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	last, ok := shard.last.Get(user)
	if !ok || last.digest != digest {
		return false
	}
	heard, gap := time.Duration(at-last.departed), time.Duration(at-last.repeated)
	if heard >= refresh || heard+gap >= staysOnline {
		return false
	}
	last.repeated = at
	shard.last.Put(user, last)
	return true
}

// Attempt is a write that is in flight.
type Attempt struct {
	repeats  *Repeats
	userID   string
	departed int64
}

// Begin must be called before a write of the user's is sent, and [Attempt.End] when it is
// over.
func (r *Repeats) Begin(userID string, now time.Time) Attempt {
	user, shard := r.shard(userID)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	shard.last.Delete(user)
	w := shard.writing[user]
	if w == nil {
		w = new(writing)
		shard.writing[user] = w
	}
	w.n++
	w.disturbed = w.disturbed || w.n > 1
	return Attempt{r, userID, int64(now.Sub(r.epoch))}
}

// End remembers the write, or nothing if that is nil: it has failed, or nobody knows.
func (a Attempt) End(succeeded *PresenceWrite) {
	user, shard := a.repeats.shard(a.userID)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	w := shard.writing[user]
	if w.n--; w.n > 0 {
		return
	}
	delete(shard.writing, user)
	if succeeded != nil && !w.disturbed {
		last := wrote{digest: a.repeats.digest(succeeded), departed: a.departed, repeated: a.departed}
		for d, r := range matrix.ReadEach(succeeded.Body) {
			last.states[d] = r.State
			if r.Status != "" {
				message, _ := matrix.DecodeString(r.Status)
				last.message = a.repeats.hashMessage(message)
			}
		}
		shard.last.Put(user, last)
	}
}

// hashMessage returns what tells status messages apart, never 0. Dendrite changes white space.
func (r *Repeats) hashMessage(message string) uint32 {
	return uint32(maphash.String(r.seed, strings.Join(strings.Fields(message), " "))) | 1 //nolint:gosec // G115: half of it will do
}

// Observe compares what the user last wrote with the body of a presence that the homeserver
// has shown since. If that is something else, a repeat would change it: the homeserver
// has lost the write, or its timers or another device have changed the presence.
//
// Synapse loses one that it has acknowledged like this (synapse/handlers/presence.py):
//
//	1 read:  the first of a user; is about to keep their presence, offline
//	2 write: the first of that user; online, 200
//	1 read:  keeps offline
//
// An answer that was asked for before the write was acknowledged must not be given.
func (r *Repeats) Observe(userID string, answer []byte, d matrix.Dialect) {
	user, shard := r.shard(userID)
	shard.mu.Lock()
	last, ok := shard.last.Get(user)
	shard.mu.Unlock()
	if !ok {
		return
	}
	shown, message, isPresence := matrix.ReadShown(answer)
	state := last.states[d]
	if !isPresence || state != matrix.NoPresence && state == shown && r.maySay(&last, message, d) {
		return
	}
	shard.mu.Lock()
	defer shard.mu.Unlock()
	// Not one that was written meanwhile.
	if now, ok := shard.last.Get(user); ok && now.digest == last.digest && now.departed == last.departed {
		shard.last.Delete(user)
	}
}

// maySay tells whether a message is the one that was written.
func (r *Repeats) maySay(last *wrote, message string, d matrix.Dialect) bool {
	switch {
	case last.message != 0:
		return last.message == r.hashMessage(message)
	case d == matrix.Synapse:
		return message == ""
	}
	return true // Dendrite's from before, or that of another device on tuwunel
}

// Disturb forgets what the user last wrote, because their presence may have changed by
// something else.
func (r *Repeats) Disturb(userID string) {
	user, shard := r.shard(userID)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	shard.last.Delete(user)
	if w := shard.writing[user]; w != nil {
		w.disturbed = true
	}
}

// Clear forgets what all users last wrote, as [Repeats.Disturb] does of one.
func (r *Repeats) Clear() {
	for i := range r.shards {
		shard := &r.shards[i]
		shard.mu.Lock()
		shard.last.Clear()
		for _, w := range shard.writing {
			w.disturbed = true
		}
		shard.mu.Unlock()
	}
}

// Len returns how many users are remembered.
func (r *Repeats) Len() int {
	n := 0
	for i := range r.shards {
		r.shards[i].mu.Lock()
		n += r.shards[i].last.Len()
		r.shards[i].mu.Unlock()
	}
	return n
}

// Evicted returns how many users were forgotten because there were too many.
func (r *Repeats) Evicted() uint64 {
	var n uint64
	for i := range r.shards {
		r.shards[i].mu.Lock()
		n += r.shards[i].last.Evicted()
		r.shards[i].mu.Unlock()
	}
	return n
}
