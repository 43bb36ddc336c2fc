package snapshot

import (
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/wallclock"
)

// Moment is when a snapshot was made, as far as the next process can tell: by the wall clock, and by how
// long the machine had been running. The wall clock of a machine without a battery goes on after a start where
// it was before, and anybody who may can set it back.
type Moment struct {
	Wall int64         // Unix nanoseconds
	Up   time.Duration // of the machine, or 0 if that isn't known
	Boot [16]byte      // tells its starts apart, or zero
}

// Now returns the present moment.
func Now() Moment {
	m := Moment{Wall: wallclock.Of(time.Now())}
	if text, err := os.ReadFile("/proc/uptime"); err == nil {
		seconds, _, _ := strings.Cut(string(text), " ")
		if up, err := strconv.ParseFloat(seconds, 64); err == nil {
			m.Up = time.Duration(up * float64(time.Second))
		}
	}
	if text, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		copy(m.Boot[:], strings.ReplaceAll(strings.TrimSpace(string(text)), "-", ""))
	}
	return m
}

// tick is how exactly it is known how long the machine has been running.
const tick = 20 * time.Millisecond

// Since returns how long ago a moment was, at least and at most: the clocks may say different things. It
// reports ok false if that moment is still to come.
func (m Moment) Since(then Moment) (least, most time.Duration, ok bool) {
	if m.Wall < then.Wall {
		return 0, 0, false
	}
	least = time.Duration(m.Wall - then.Wall)
	most = least
	if up := m.Up - then.Up; m.Up > 0 && then.Up > 0 && m.sameBoot(then) {
		least, most = max(0, min(least, up-tick)), max(most, up+tick)
	}
	return least, most, true
}

// sameBoot tells that the machine hasn't been started anew since a moment, as far as that can be told.
func (m Moment) sameBoot(then Moment) bool { return m.Boot == then.Boot }
