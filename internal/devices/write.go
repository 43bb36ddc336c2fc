package devices

import (
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// DeviceWrite is a presence write of a device that is on its way. [DeviceWrite.Taken] or
// [DeviceWrite.Failed] must be called when it is over. Meanwhile the device's syncs go through:
// the homeserver may take the write at any time.
//
// Dendrite compares what syncs ask for with what they asked for before, and nothing else
// (syncapi/sync/requestpool.go, updatePresenceInternal), so that to its syncs a write is
// nothing.
type DeviceWrite struct {
	devices *Devices // nil if it is nothing
	shard   *deviceShard
	user    *userDevices
	device  *device
	began   int64
}

// BeginWrite notes that a write of a device is on its way.
func (d *Devices) BeginWrite(userID string, fingerprint [16]byte, dialect matrix.Dialect, now time.Time) DeviceWrite {
	if dialect == matrix.Dendrite {
		return DeviceWrite{}
	}
	at := int64(now.Sub(d.epoch))
	shard, hash := d.shardOf(userID)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	user, dev := shard.device(hash, fingerprint)
	dev.asked = max(dev.asked, at)
	dev.writes++
	return DeviceWrite{d, shard, user, dev, at}
}

// Taken notes that the homeserver has taken the write. NoPresence is for a state that isn't
// known. It isn't either if the device has said something else since the write began, by a
// sync or another write: nobody knows which one the homeserver took last.
func (w DeviceWrite) Taken(state matrix.Presence, dialect matrix.Dialect, now time.Time) {
	if w.devices == nil {
		return
	}
	at := int64(now.Sub(w.devices.epoch))
	w.shard.mu.Lock()
	defer w.shard.mu.Unlock()
	w.device.writes--
	if dialect == matrix.Dendrite {
		return
	}
	reported := w.user.reported(w.device, dialect)
	if reported.state != state && max(reported.lastSent, reported.changed) >= w.began {
		state = matrix.NoPresence
	}
	w.device.asked, w.device.wants = at, state
	reported.state, reported.by, reported.changed = state, nil, at
	// It may have come long before the answer to it.
	reported.lastAlive, reported.lastHeard = max(reported.lastAlive, w.began), max(reported.lastHeard, w.began)
	// What made the user online may have come after it, and be no more now.
	reported.written, reported.maybeOnline, reported.doubted = true, false, reported.doubted || reported.maybeOnline
	reported.version++
}

// Failed notes that the write is over, and whether the homeserver may have taken it all
// the same.
func (w DeviceWrite) Failed(mayHave bool, now time.Time) {
	if w.devices == nil {
		return
	}
	w.shard.mu.Lock()
	defer w.shard.mu.Unlock()
	w.device.writes--
	if mayHave {
		at := int64(now.Sub(w.devices.epoch))
		w.user.shared.doubt(at)
		w.device.reported.doubt(at)
	}
}
