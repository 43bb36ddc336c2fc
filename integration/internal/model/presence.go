package model

import (
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// State is a presence as everybody may see it.
type State struct{ Presence, Message string }

// moment is what a presence was from a moment on.
type moment struct {
	at time.Time
	State
}

// Deed is a write of a presence that had an effect.
type Deed struct {
	At            time.Time
	Device        string
	Word, Message string // Message is what it has left there
}

// diary is what became of presences, by testkit's model of words, devices and timers. All of
// it is kept.
type diary struct {
	of *testkit.Homeserver

	mu     sync.Mutex // guards all below
	shown  map[string][]moment
	writes map[string][]Deed
}

func newDiary(name string) *diary {
	d := &diary{of: testkit.NewHomeserver(name, time.Now()), shown: make(map[string][]moment), writes: make(map[string][]Deed)}
	d.of.Changed = func(user, state string, at time.Time) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.shown[user] = append(d.shown[user], moment{at, State{state, d.last(user).Message}})
	}
	return d
}

// last must be called with the lock held.
func (d *diary) last(user string) State {
	if all := d.shown[user]; len(all) > 0 {
		return all[len(all)-1].State
	}
	return State{Presence: "offline"}
}

// write notes a write that a homeserver takes.
func (d *diary) write(user, device, word string, message *string, keeps bool) {
	body, _ := json.Marshal(map[string]string{"presence": word})
	now := time.Now()
	d.of.Put(user, device, body, now)
	d.mu.Lock()
	defer d.mu.Unlock()
	state := d.last(user)
	state.Message = d.next(user, message, keeps)
	d.shown[user] = append(d.shown[user], moment{now, state})
	d.writes[user] = append(d.writes[user], Deed{now, device, word, state.Message})
}

// leaves returns what a user's presence would be after a write.
func (d *diary) leaves(user, device, word string, message *string, keeps bool) State {
	body, _ := json.Marshal(map[string]string{"presence": word})
	shown := d.of.WouldShow(user, device, body, time.Now())
	d.mu.Lock()
	defer d.mu.Unlock()
	return State{shown, d.next(user, message, keeps)}
}

// next is the text after a write. It must be called with the lock held.
func (d *diary) next(user string, message *string, keeps bool) string {
	switch {
	case message != nil:
		return *message
	case !keeps:
		return ""
	}
	return d.last(user).Message
}

// State returns what a user's presence is.
func (d *diary) State(user string) State {
	d.of.Presence(user, time.Now()) // lets the timers run
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last(user)
}

// States returns what a user's presence was from lo to hi, each once. Both have been.
func (d *diary) States(user string, lo, hi time.Time) (states []State) {
	d.of.Presence(user, hi)
	d.mu.Lock()
	defer d.mu.Unlock()
	before := State{Presence: "offline"}
	for _, m := range d.shown[user] {
		if m.at.After(hi) {
			break
		}
		if !m.at.After(lo) {
			before, states = m.State, nil
			continue
		}
		if len(states) == 0 {
			states = append(states, before)
		}
		if !slices.Contains(states, m.State) {
			states = append(states, m.State)
		}
	}
	if len(states) == 0 {
		states = append(states, before)
	}
	return states
}

// Ever reports whether a user's presence was this at some moment from lo to hi.
func (d *diary) Ever(user string, state State, lo, hi time.Time) bool {
	return slices.Contains(d.States(user, lo, hi), state)
}

// Wrote returns when a user's presence was last set by a write that had come by a moment.
func (d *diary) Wrote(user string, by time.Time) (at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, done := range d.writes[user] {
		if !done.At.After(by) {
			at = done.At
		}
	}
	return at
}

// Writes returns the writes of a user that had an effect.
func (d *diary) Writes(user string) []Deed {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.writes[user])
}
