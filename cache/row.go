package cache

import (
	"cmp"
	"math"
	"strings"
	"time"
)

// Row is what a feed says of a user's presence.
type Row struct {
	Target string

	// Answer is what a read would have been answered when the row was made. It has no fields.
	Answer *Answer

	// Stamp is when the homeserver says that the presence changed, in milliseconds by its clock.
	// A row may repeat an older state with its older stamp, after the row of a newer one.
	Stamp int64

	// Late tells that the row may have been made longer ago than the time of settle.
	Late bool
}

// ofRow is since when what an expectedState of a row shows may have been so: no activity is too old.
const ofRow = math.MinInt64

// isRows tells that a row expects this, and not a write.
func (e expectedState) isRows() bool { return e.digest != 0 && e.since == ofRow }

// unclear is the digest of a row that isn't clear about what it shows.
const unclear = 1

// RowResult is what became of a row.
type RowResult int

const (
	// RowUnread: nobody has read the user's presence, so there is nothing to change.
	RowUnread RowResult = iota
	// RowSame: the row says what is known.
	RowSame
	// RowUpdated: the state has been replaced by what the row says.
	RowUpdated
	// RowDropped: the state has been dropped, because it isn't certain which is newer.
	RowDropped
)

// Apply takes a row in. A state that the row contradicts is replaced by what the row says if
// that is newer for certain, else dropped: then the next read asks the homeserver. It is certain
// if the row is later than all rows before about its fence's targets, came in time, and nothing
// was written or stored about the target within the time of settle:
//
//	1 change: to "unavailable"; its row is on its way
//	2 change: to "online"; its row too
//	3 read:   fetches "online", which is stored
//	1 change: its row arrives, and must not take the place of "online"
//
// Answers to requests that departed before the row came are not stored, as if it were a write,
// see fence. Until the time of settle is over an answer is stored only if it shows what the row
// says: another process of the homeserver may hear of the change later than we do. No answer is, if
// it isn't certain that the row is the last word: one that is older than another row, or that comes
// while a write settles and says something else, may be of a state that has ended:
//
//	1 change: to "unavailable"; its row is on its way
//	2 write:  of "online" is acknowledged, and one process that answers reads doesn't know of it yet
//	1 change: its row arrives
//	3 read:   is answered "unavailable" by that process, and must not be stored
//
// That holds too if the row says what is known. It is from an answer that came first, to a request that
// may have departed first:
//
//	1 read:   departs
//	2 read:   departs, and the homeserver reads the old state
//	3 change
//	1 read:   the homeserver reads the new state, which is stored
//	3 change: its row arrives, and says the same
//	2 read:   its answer arrives, and must not be stored
//	4 read:   is answered by a process that doesn't know of the change yet, and must not be stored either
//
// The row of a write through us comes shortly before or after the write's answer. In both cases
// the write's own fence does all that:
//
//   - before: nothing is stored while a write is in flight. The row is noted, so that
//     [Write.Acknowledge] believes no answer that shows the write if another row says
//     something else, and may be the last word;
//   - after: the row says what the write's proof does, and changes nothing.
func (p *Presence) Apply(row Row, now time.Time, settle time.Duration) RowResult {
	at, shows := p.clock(now), p.digestOf(row.Target, row.Answer.Body)
	shard, f := p.shardOf(row.Target)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	delete(shard.awaited, row.Target)
	newest := row.Stamp > f.stamp
	f.stamp = max(f.stamp, row.Stamp)

	key := stateKey{target: row.Target}
	st, kept := shard.states.Peek(key)
	quiet := f.isSettled(at) && !shard.waiting[row.Target]
	if kept && st.answer != nil && shows != 0 && shows == p.digestOf(row.Target, st.answer.Body) {
		if quiet { // else nothing is stored, or shared, that is older
			f.invalidate()
		}
		if quiet && newest {
			f.settled, f.proof = at+int64(settle), expectedState{digest: shows, since: ofRow}
		}
		return RowSame
	}
	switch {
	case f.writes > 0:
		f.noteRow(cmp.Or(shows, unclear), newest)
	case shows != 0 && f.proof.digest == shows && at < f.settled:
		// The row of what was written, or read, last.
	default:
		last := newest && (quiet || f.proof.isRows())
		f.invalidate()
		f.settled = max(f.settled, at+int64(settle))
		if last {
			f.proof = expectedState{digest: shows, since: ofRow}
		}
	}
	switch {
	case !kept:
		return RowUnread
	case newest && quiet && !row.Late && shows != 0 && st.answer != nil && at-st.arrived >= int64(settle) &&
		Fits(row.Answer.Body, st.answer.Fields) && row.Answer.truthful() > 0:
		shown := newState(row.Answer, st.answer.Fields, at, at)
		shown.root = p.roots.Add(1)
		key.target = strings.Clone(row.Target)
		p.put(shard, key, shown)
		return RowUpdated
	}
	p.drop(shard, key)
	return RowDropped
}

// noteRow notes the digest of a row that comes while a write is in flight. A row that isn't the newest doesn't undo what one
// before it has said, nor is it known whether it comes after that:
//
//	1 write:  is applied; its row arrives
//	2 change: to something else; its row arrives
//	1 write:  its row is repeated
//	1 write:  is acknowledged; an answer that shows it is older than the change
func (f *fence) noteRow(shows uint64, newest bool) {
	if !newest && f.row != 0 && f.row != shows {
		shows = unclear
	}
	f.row = shows
}
