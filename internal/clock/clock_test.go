package clock

import (
	"testing"
	"testing/synctest"
	"time"
)

// A machine that was suspended overnight woke up with what was remembered the evening
// before as fresh as then: Go's monotonic clock had stood still.
func TestClockCountsTheTimeOfASuspend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ahead time.Duration
		c := NewOf(func() (time.Time, int64) {
			now := time.Now()
			return now, now.Add(ahead).UnixNano()
		})
		began := c.Now()
		for _, step := range []struct {
			what  string
			leap  time.Duration // of the wall clock
			sleep time.Duration
			want  time.Duration // that has passed by then
		}{
			{"time passes", 0, time.Minute, time.Minute},
			{"a suspend of eight hours", 8 * time.Hour, 0, 8*time.Hour + time.Minute},
			{"the wall clock is set back by a day", -24 * time.Hour, 0, 8*time.Hour + time.Minute},
			{"time passes", 0, time.Minute, 8*time.Hour + 2*time.Minute},
			{"a suspend of an hour after that", time.Hour, 0, 9*time.Hour + 2*time.Minute},
			{"the two clocks are read one after the other", leap / 2, 0, 9*time.Hour + 2*time.Minute},
			{"and again", -leap / 2, 0, 9*time.Hour + 2*time.Minute},
			{"short suspends add up", leap / 2, 0, 9*time.Hour + 2*time.Minute},
			{"to one that counts", leap / 2, 0, 9*time.Hour + 2*time.Minute + leap},
		} {
			ahead += step.leap
			time.Sleep(step.sleep)
			if got := c.Since(began); got != step.want {
				t.Errorf("%s: %v have passed, want %v", step.what, got, step.want)
			}
		}
	})
}

// The two clocks are read one after the other. A process that is stopped in between and goes
// on later has seen no leap.
func TestClockLooksTwiceBeforeItBelievesALeap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looks := 0
		c := NewOf(func() (time.Time, int64) {
			now := time.Now()
			if looks++; looks == 2 {
				return now, now.Add(time.Hour).UnixNano()
			}
			return now, now.UnixNano()
		})
		began := c.start
		for range 3 {
			if got := c.Since(began); got != 0 {
				t.Errorf("%v have passed, want none", got)
			}
		}
	})
}
