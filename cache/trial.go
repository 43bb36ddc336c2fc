package cache

import (
	"math/bits"
	"strings"
	"sync"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/sampled"
)

// trials are about rooms, and about sets of rooms: whether the homeserver shows presences to those
// who share them. Who may see another with whom they share several rooms may do so by any of them,
// so that is a trial of the set, which is then good for all pairs that share the whole set.
//
// A refusal puts a room on trial again, and each trial is twice as long as the one before. So if
// somebody has left a room and nobody has told us, it counts again soon. A room that the
// homeserver leaves out doesn't, whoever in it shares other rooms.
type trials struct {
	mu    sync.RWMutex // guards known
	known *sampled.Map[roomKey, trial]
}

// trial is how far a room has come.
type trial struct {
	roomID string    // or "" for a set
	used   int64     // when the last list of it departed
	seen   [4]uint64 // the users who were shown, by a part of their keys
	fails  int
	failed int64 // when it was refused last
	passed bool  // it counts
}

// maxFails is after how many refusals a room doesn't count any more: seen tells too few users apart.
const maxFails = 6

// forgivenAfter is after how long without a refusal those before are forgotten.
const forgivenAfter = 10 * time.Minute

// trialUsers is how many users of a room the homeserver must have shown to others of it, before the
// room counts. Each refusal doubles that.
const trialUsers = 5

// needs returns how many users must be seen.
func (t *trial) needs() int { return trialUsers << t.fails }

func newTrials() trials {
	return trials{known: sampled.New[roomKey](1, func(a, b trial) bool { return a.used < b.used })}
}

func (t *trials) resize(rooms int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.known.Resize(rooms)
}

// begin notes that there is a list of a room.
func (t *trials) begin(room listing, roomID string) {
	t.change(room, func(known *trial) {
		if known.roomID == "" {
			known.roomID = strings.Clone(roomID)
		}
	})
}

// change changes how far a room has come.
func (t *trials) change(room listing, f func(known *trial)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	known, _ := t.known.Get(room.room)
	known.used = max(known.used, room.at)
	if known.fails > 0 && room.at-known.failed > int64(forgivenAfter) {
		known.fails = 0
	}
	f(&known)
	t.known.Put(room.room, known)
}

func (t *trials) passed(room roomKey) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	known, ok := t.known.Get(room)
	return ok && known.passed
}

// pass notes that the homeserver has shown a user of a room to another.
func (t *trials) pass(room listing, target UserKey) {
	if t.passed(room.room) {
		return
	}
	t.change(room, func(known *trial) {
		bit := target[1]
		known.seen[bit/64] |= 1 << (bit % 64)
		n := 0
		for _, some := range known.seen {
			n += bits.OnesCount64(some)
		}
		known.passed = n >= known.needs()
	})
}

// fail notes that the homeserver has refused to show a user of a room to another. It returns the
// room's name if it has counted until now.
func (t *trials) fail(room listing) (roomID string) {
	t.change(room, func(known *trial) {
		if known.passed {
			roomID = known.roomID
		}
		known.passed, known.seen, known.fails = false, [4]uint64{}, min(known.fails+1, maxFails)
		known.failed = room.at
	})
	return roomID
}
