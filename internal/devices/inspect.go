package devices

import (
	"slices"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// Inspected is what is known of a device, for an admin who looks its user up.
type Inspected struct {
	Wants matrix.Presence // or none
	Asked time.Duration   // how long ago it last said so
}

// Inspect returns a user's devices, the one that asked last first. It changes nothing.
func (d *Devices) Inspect(userID string, now time.Time) (found []Inspected) {
	shard, hash := d.shardOf(userID)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	user, ok := shard.users.Peek(hash)
	if !ok {
		return nil
	}
	at := int64(now.Sub(d.epoch))
	for _, dev := range user.devices {
		found = append(found, Inspected{Wants: dev.wants, Asked: time.Duration(max(0, at-dev.asked))})
	}
	slices.SortFunc(found, func(a, b Inspected) int { return int(a.Asked - b.Asked) })
	return found
}
