package plan

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// How long a homeserver takes. It matters only for requests that come meanwhile, so the median of
// docs/relief.md will do for all.
const (
	readTakes  = 2 * time.Millisecond
	writeTakes = 4 * time.Millisecond
)

// activeFor is for how long a user is currently active after an activity: Synapse's
// last_active_granularity.
const activeFor = time.Minute

// homeserver is what a real one does, as far as the module sees it: who may see whom, and what
// becomes of a user's presence by their devices.
type homeserver struct {
	dialect matrix.Dialect
	sees    func(viewer, target *User) bool
	users   []account // by index
	did     *[Works]int64
}

// account is a user's presence.
type account struct {
	devices   []deviceState
	presence  matrix.Presence
	statusMsg string
	active    time.Time // the last activity
	known     bool      // there is one
}

type deviceState struct {
	device   *Device
	presence matrix.Presence
}

// of returns a user's account.
func (h *homeserver) of(u *User) *account {
	for len(h.users) <= u.index {
		h.users = append(h.users, account{presence: matrix.Offline})
	}
	return &h.users[u.index]
}

// read returns the presence of a target, or nil for a 403.
func (h *homeserver) read(viewer, target *User, now time.Time) *cache.Answer {
	h.did[ServeRead]++
	if !h.sees(viewer, target) {
		return nil
	}
	a := h.of(target)
	b := make([]byte, 0, 128)
	b = append(b, `{"presence":"`...)
	b = append(b, a.presence.String()...)
	b = append(b, '"')
	ago := now.Sub(a.active)
	if a.known {
		b = append(b, `,"last_active_ago":`...)
		b = strconv.AppendInt(b, ago.Milliseconds(), 10)
	}
	if a.presence == matrix.Online {
		b = append(b, `,"currently_active":`...)
		b = strconv.AppendBool(b, a.known && ago < activeFor)
	}
	if a.statusMsg != "" {
		b = append(b, `,"status_msg":`...)
		b = strconv.AppendQuote(b, a.statusMsg)
	}
	answer, err := cache.ParseAnswer(append(b, '}'), nil)
	if err != nil {
		panic(fmt.Sprintf("a presence of our own can't be read: %v: %s", err, b))
	}
	return answer
}

// write applies a write.
func (h *homeserver) write(d *Device, presence matrix.Presence, statusMsg string, now time.Time) {
	a := h.of(d.User)
	before, status := a.presence, a.statusMsg
	h.set(a, d, presence)
	a.statusMsg = statusMsg
	if a.presence == before && status == statusMsg && a.known {
		h.did[ApplyRepeat]++
	} else {
		h.did[ApplyChange]++
	}
	a.active, a.known = now, true
}

// sync applies a sync's set_presence. What changes nothing costs nothing.
func (h *homeserver) sync(d *Device, presence matrix.Presence, now time.Time) {
	if presence == matrix.NoPresence {
		return
	}
	a := h.of(d.User)
	before := a.presence
	h.set(a, d, presence)
	if a.presence == before {
		h.did[SyncRepeat]++
		return
	}
	h.did[SyncChange]++
	if before == matrix.Offline || !a.known {
		a.active, a.known = now, true
	}
}

// set sets what a device is. A homeserver that tells devices apart shows the highest of all.
func (h *homeserver) set(a *account, d *Device, presence matrix.Presence) {
	if !h.dialect.PerDevice() {
		a.presence = presence
		return
	}
	found := false
	for i := range a.devices {
		if a.devices[i].device == d {
			a.devices[i].presence, found = presence, true
		}
	}
	if !found {
		a.devices = append(a.devices, deviceState{d, presence})
	}
	a.presence = matrix.Offline
	for _, s := range a.devices {
		a.presence = max(a.presence, s.presence)
	}
}

// leave is that a device is gone, by the homeserver's own timer.
func (h *homeserver) leave(d *Device) {
	a := h.of(d.User)
	h.set(a, d, matrix.Offline)
}

// writeBody is the body of a write.
func writeBody(presence matrix.Presence, statusMsg string) []byte {
	body := map[string]string{"presence": presence.String()}
	if statusMsg != "" {
		body["status_msg"] = statusMsg
	}
	text, _ := json.Marshal(body) // strings
	return text
}
