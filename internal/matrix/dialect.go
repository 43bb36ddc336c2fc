package matrix

import (
	"strings"
	"time"
)

// Presence is a state of presence, in the order in which homeservers merge those of
// a user's devices: the higher one is shown.
type Presence uint8

const (
	// NoPresence is none, or a value that says nothing to us.
	NoPresence Presence = iota
	Offline
	Unavailable
	Online
	Busy // MSC3026
)

// ParsePresence returns the state that a presence write names, compared without case
// as [CheckPresenceBody] does.
func ParsePresence(value string) Presence {
	switch strings.ToLower(value) {
	case "offline":
		return Offline
	case "unavailable":
		return Unavailable
	case "online":
		return Online
	case "busy", "org.matrix.msc3026.busy":
		return Busy
	}
	return NoPresence
}

func (p Presence) String() string {
	return [...]string{"", "offline", "unavailable", "online", "busy"}[p]
}

// Dialect is what a homeserver makes of a sync's set_presence.
type Dialect int

const (
	UnknownDialect Dialect = iota
	Synapse
	Dendrite
	Tuwunel
)

// NoChangeValue is the value of set_presence that leaves a presence as it is, or "" if
// the homeserver has none.
//
//   - Synapse: offline is no state here, the sync only doesn't count as one
//     (synapse/rest/client/sync.py).
//   - Dendrite: offline sets that; a value that it doesn't know it ignores
//     (syncapi/sync/requestpool.go).
//   - tuwunel: every value is a state, offline included (src/api/client/sync/v3.rs).
func (d Dialect) NoChangeValue() string {
	switch d {
	case Synapse:
		return "offline"
	case Dendrite:
		return "unchanged"
	}
	return ""
}

// SyncPresence returns the state that a sync with this set_presence sets, or
// NoPresence if the homeserver refuses the value or doesn't act upon it. Of an unknown
// homeserver nothing is known.
func (d Dialect) SyncPresence(value string) Presence {
	switch d {
	case Synapse: // by case, and 400 for any other than these and offline
		switch value {
		case "online":
			return Online
		case "unavailable":
			return Unavailable
		}
	case Dendrite: // without case, and what it doesn't know it ignores
		switch p := ParsePresence(value); {
		case value == "":
			return Online
		case p != Busy:
			return p
		}
	case Tuwunel:
		return ruma(value)
	}
	return NoPresence
}

// ruma returns the state that tuwunel makes of a word: it knows four by case, and takes
// every other one for offline, also the empty one and Synapse's name of busy.
func ruma(word string) Presence {
	switch word {
	case "unavailable", "online", "busy":
		return ParsePresence(word)
	}
	return Offline
}

// PerDevice tells that the homeserver keeps a state of each device, and shows the
// highest. Another one shows what came last.
func (d Dialect) PerDevice() bool { return d == Synapse || d == Tuwunel }

// SyncTimeout is for how long a device that doesn't sync any more keeps its state, counted
// from when its last sync began: Synapse's sync_online_timeout, and the idle timers of
// Dendrite and tuwunel.
func (d Dialect) SyncTimeout() time.Duration {
	if d == Dendrite || d == Tuwunel {
		return IdleTimer
	}
	return 30 * time.Second
}

// IdleTimer is after which time all homeservers make a device that was online unavailable,
// if nothing has come of it, also while a sync is open.
const IdleTimer = 5 * time.Minute

// MergeWindow is for how long a higher state that was asked for comes before a lower one
// that is asked for later: Dendrite's presenceTimeout, which doesn't differ
// between devices. A lower state that it ignored has to be asked for again.
func (d Dialect) MergeWindow() time.Duration {
	if d == Dendrite {
		return 10 * time.Second
	}
	return 0
}
