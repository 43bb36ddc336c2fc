package devices

import "github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"

// reported is what the homeserver was last told of a device, or of a user.
type reported struct {
	state matrix.Presence
	// by is the device that has said so by a sync, nil for a write.
	by *device
	// written tells of a write since. It feeds no timer of syncs, or no more than some
	// (Synapse), so that the next sync is told.
	written bool
	// maybeOnline tells that the homeserver may have made the user online since, doubted
	// that it may have been told anything.
	maybeOnline, doubted bool

	changed   int64 // since when it is this
	lastSent  int64 // when it was last told by a sync
	lastHeard int64 // when the homeserver last heard anything that keeps the state in place
	lastAlive int64 // the same as lastSent, or the end of that sync
	inFlight  int   // syncs under way by which it was told

	// version counts what it was told. What has a lower one than unsure was told while a
	// sync was under way that the homeserver then refused.
	version, unsure uint64
}

// reported returns what the homeserver was told of a device, as far as it tells devices apart.
// What another kind of homeserver was told, or one of an unknown kind, says nothing of it.
func (u *userDevices) reported(dev *device, dialect matrix.Dialect) *reported {
	if u.dialect != dialect {
		u.dialect = dialect
		u.shared.void()
		for _, other := range u.devices {
			other.reported.void()
		}
	}
	if dialect.PerDevice() {
		return &dev.reported
	}
	return &u.shared
}

// report notes that the homeserver is told what it holds.
func (r *reported) report(at int64) {
	r.lastSent, r.lastAlive, r.lastHeard = at, at, at
	r.written, r.maybeOnline, r.doubted = false, false, false
	r.version++
}

// doubt notes that the homeserver may have been told anything. What lingers lingers from then on.
func (r *reported) doubt(at int64) {
	r.doubted, r.changed = true, max(r.changed, at)
}

// void notes that it isn't known what the homeserver holds.
func (r *reported) void() {
	r.state, r.by = matrix.NoPresence, nil
	r.version++ // so that no sync that is refused brings it back
}

// mayBeGone tells that the homeserver may have taken the device for gone: no sync of it is
// open, and its last sign of life is as old as the homeserver's timer. Synapse counts from
// when a sync began (synapse/handlers/presence.py, handle_timeout) and looks every five
// seconds who is gone, so that the shortest pause between two long polls may be one too many:
//
//	 0.0 s sync: begins, waits for news
//	30.0 s sync: ends
//	30.1 s Synapse: looks, takes the device for offline
//	30.1 s read: fetches "offline"
//	30.2 s sync: begins, the device is online
//
// Who syncs all the time is idle after five minutes all the same.
func (r *reported) mayBeGone(dialect matrix.Dialect, at int64) bool {
	timeout := dialect.SyncTimeout()
	if r.inFlight > 0 {
		timeout = matrix.IdleTimer
	}
	return at >= r.lastHeard+int64(timeout-timerMargin)
}

// isAlive tells that the homeserver still holds what it was told.
func (r *reported) isAlive(dialect matrix.Dialect, at int64) bool {
	return r.state != matrix.NoPresence && (r.inFlight > 0 || at < r.lastAlive+int64(dialect.SyncTimeout()))
}
