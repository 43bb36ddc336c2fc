package model

import (
	"slices"
	"sync"
	"time"
)

// deed is something that sets a presence.
type deed struct {
	at      time.Time
	until   time.Time // of a sync: its end
	device  string
	state   string
	message *string // nil: none was given
	write   bool    // a PUT, not a sync
}

// State is a presence as everybody may see it.
type State struct{ Presence, Message string }

// diary is what has been done to presences.
type diary struct {
	mu    sync.Mutex // guards deeds
	deeds map[string][]deed
}

func (d *diary) note(user string, done deed) (index int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.deeds[user] = append(d.deeds[user], done)
	return len(d.deeds[user]) - 1
}

// end notes that a sync is over.
func (d *diary) end(user string, index int, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.deeds[user][index].until = at
}

// stateAt returns what a user's presence was at a moment.
func (hs *Homeserver) stateAt(user string, at time.Time) State {
	hs.diary.mu.Lock()
	defer hs.diary.mu.Unlock()
	return hs.Dialect.fold(hs.diary.deeds[user], at)
}

// fold returns what becomes of deeds by a moment.
func (d *Dialect) fold(deeds []deed, at time.Time) State {
	type device struct {
		state   string
		message string
		ends    time.Time // when it is taken for offline; zero: never
	}
	devices := make(map[string]device)
	var last device
	for _, done := range deeds {
		if done.at.After(at) {
			break
		}
		now := devices[done.device]
		if !d.merges {
			now = last
		}
		now.state = done.state
		if done.write {
			switch {
			case done.message != nil:
				now.message = *done.message
			case !d.keeps:
				now.message = ""
			}
		}
		now.ends = done.at.Add(d.syncTimeout)
		if !done.write {
			now.ends = done.until.Add(d.syncTimeout)
			if done.until.IsZero() || done.until.After(at) {
				now.ends = time.Time{}
			}
		}
		devices[done.device], last = now, now
	}
	over := func(one device) device {
		if !one.ends.IsZero() && !at.Before(one.ends) {
			one.state = "offline"
		}
		return one
	}
	if !d.merges {
		last = over(last)
		return State{orOffline(last.state), last.message}
	}
	shown := State{"offline", ""}
	names := make([]string, 0, len(devices))
	for name := range devices {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		one := over(devices[name])
		if ranks[one.state] > ranks[shown.Presence] {
			shown.Presence = one.state
		}
		if one.message != "" {
			shown.Message = one.message
		}
	}
	return shown
}

func orOffline(state string) string {
	if state == "" {
		return "offline"
	}
	return state
}

// Ever reports whether a user's presence was this at some moment from lo to hi.
func (hs *Homeserver) Ever(user string, state State, lo, hi time.Time) bool {
	return slices.Contains(hs.States(user, lo, hi), state)
}

// States returns what a user's presence was from lo to hi, each once.
func (hs *Homeserver) States(user string, lo, hi time.Time) (states []State) {
	hs.diary.mu.Lock()
	defer hs.diary.mu.Unlock()
	deeds := hs.diary.deeds[user]
	moments := []time.Time{lo, hi}
	for _, done := range deeds {
		moments = append(moments, done.at, done.at.Add(hs.Dialect.syncTimeout), done.until, done.until.Add(hs.Dialect.syncTimeout))
	}
	for _, at := range moments {
		if at.Before(lo) || at.After(hi) {
			continue
		}
		if state := hs.Dialect.fold(deeds, at); !slices.Contains(states, state) {
			states = append(states, state)
		}
	}
	return states
}

// Wrote returns when a user's presence was last set by something that had come by a moment:
// by a write, or by anything.
func (hs *Homeserver) Wrote(user string, by time.Time, writes bool) (at time.Time) {
	hs.diary.mu.Lock()
	defer hs.diary.mu.Unlock()
	for _, done := range hs.diary.deeds[user] {
		if !done.at.After(by) && (done.write || !writes) {
			at = done.at
		}
	}
	return at
}
