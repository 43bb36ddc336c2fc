package main

import "time"

// size is how much is done of each shape. Rates are the same in all sizes, or so low that
// a Synapse keeps up on one core: a homeserver that can't would be compared under another load.
type size struct {
	name string

	// people are users with tokens of their own, in rooms of roomSize. Members are those of
	// the big room, ghosts those of the bridge.
	people, members, ghosts int

	roomOpen time.Duration // each time

	viewers, targets, rounds int
	popular                  time.Duration

	// A war by syncs takes longer, because presence is a small part of what a sync costs.
	war, syncWar, bridge time.Duration

	returning, contacts int // in the storm: users, and whom each looks at

	nat time.Duration // all people

	bad, overload time.Duration

	changes time.Duration

	peers bool // take part
}

// roomSize is how many people share a room.
const roomSize = 50

var sizes = map[string]size{
	"test": { // all of it tiny, to see that it runs
		name: "test", people: 6, members: 12, ghosts: 3, roomOpen: 500 * time.Millisecond,
		viewers: 3, targets: 5, rounds: 10, popular: 2 * time.Second,
		war: time.Second, syncWar: time.Second, bridge: time.Second, returning: 5, contacts: 3, nat: time.Second, bad: time.Second, overload: 2 * time.Second, changes: 2 * time.Second,
	},
	"small": {
		name: "small", people: 100, members: 300, ghosts: 20, roomOpen: 1500 * time.Millisecond,
		viewers: 6, targets: 50, rounds: 18, popular: 7 * time.Second,
		war: 3 * time.Second, syncWar: 3 * time.Second, bridge: 4 * time.Second, returning: 60, contacts: 3, nat: 3 * time.Second, bad: 3 * time.Second, overload: 30 * time.Second, changes: 20 * time.Second,
	},
	"full": {
		name: "full", people: 500, members: 2600, ghosts: 40, roomOpen: 13 * time.Second,
		viewers: 20, targets: 50, rounds: 20, popular: 28 * time.Second,
		war: 12 * time.Second, syncWar: 25 * time.Second, bridge: 22 * time.Second, returning: 200, contacts: 10, nat: 14 * time.Second, bad: 10 * time.Second, overload: 70 * time.Second, changes: 60 * time.Second, peers: true,
	},
}
