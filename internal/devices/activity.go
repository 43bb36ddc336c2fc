package devices

import (
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// Active notes that a device of the user did what a homeserver takes them for active by,
// see [matrix.IsActivity], and reports whether the user's presence may become another by it.
// The next sync goes through then. Of a device that isn't known it may. It is called when
// that begins, and again when it is over.
//
//   - Synapse makes a device that was unavailable online (synapse/handlers/presence.py,
//     bump_presence_active_time).
//   - tuwunel makes any device online, also one that was busy.
//   - Dendrite does nothing.
func (d *Devices) Active(userID string, fingerprint [16]byte, dialect matrix.Dialect, began, now time.Time) (changes bool) {
	if dialect == matrix.Dendrite {
		return false
	}
	changes = true
	from, at := int64(began.Sub(d.epoch)), int64(now.Sub(d.epoch))
	d.ofKnown(userID, fingerprint, dialect, func(dev *device, reported *reported) {
		changes = reported.state < matrix.Online || reported.state == matrix.Busy && dialect != matrix.Synapse || reported.mayBeGone(dialect, at) ||
			reported.doubted || dev.writes > 0 || dialect == matrix.UnknownDialect
		reported.maybeOnline = reported.maybeOnline || changes
		reported.lastHeard = max(reported.lastHeard, from)
	})
	return changes
}

// Doubt notes that the homeserver may have been told anything of a device, by a sync that
// could not be judged, or a write that nobody knows the end of. Where all devices have
// one state, it is that which may be another, also by a device that isn't known.
func (d *Devices) Doubt(userID string, fingerprint [16]byte, now time.Time) {
	at := int64(now.Sub(d.epoch))
	shard, hash := d.shardOf(userID)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	user, ok := shard.users.Peek(hash)
	if !ok {
		return
	}
	user.shared.doubt(at)
	for _, dev := range user.devices {
		if dev.fingerprint == fingerprint {
			dev.reported.doubt(at)
		}
	}
}

// Observe compares what the homeserver was told of a user's devices with the body of a presence
// that it has shown since. If that is lower, it has lost what a device said, or begun anew, and
// the next sync of that device goes through: a first read and a first sync at the same moment
// do to Synapse what policy.Repeats.Observe shows of a write. Dendrite sets nothing by a repeat.
func (d *Devices) Observe(userID string, answer []byte, dialect matrix.Dialect, now time.Time) {
	shard, hash := d.shardOf(userID)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	user, ok := shard.users.Peek(hash)
	if !ok || !dialect.PerDevice() || user.dialect != dialect {
		return
	}
	shown, _, isPresence := matrix.ReadShown(answer)
	for _, dev := range user.devices {
		if isPresence && dev.reported.state > shown {
			dev.reported.doubt(int64(now.Sub(d.epoch)))
		}
	}
}
