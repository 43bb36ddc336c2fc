package main

import (
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	// overloadReads and overloadMessages are so many a second: the messages alone are about a fifth of what a
	// Synapse on one core can do, and both together more than that.
	overloadReads, overloadMessages = 800, 8

	// overloadWorkers is how many requests may be under way.
	overloadWorkers = 400
)

// overload is that presence is too much for the homeserver: everybody looks at everybody while people send
// messages.
var overload = shape{
	key: "overload", name: "overload",
	what: func(s size) string {
		return fmt.Sprintf("%d people look at each other, %d/s, and send %d messages/s, for %s", s.people, overloadReads, overloadMessages, s.overload)
	},
	overloads: true, workers: overloadWorkers,
	phases: []phase{{length: func(s size) time.Duration { return s.overload }, load: everybodyLooks}},
}

func everybodyLooks(s *scene) (requests []request) {
	random := rand.New(rand.NewPCG(11, 12))
	each := func(rate int, what func() request) {
		for i := range int(float64(rate) * s.size.overload.Seconds()) {
			r := what()
			r.at = time.Duration(i) * time.Second / time.Duration(rate)
			requests = append(requests, r)
		}
	}
	each(overloadMessages, func() request {
		return request{kind: message, by: s.world.people[random.IntN(len(s.world.people))]}
	})
	if s.way.quiet {
		return requests
	}
	each(overloadReads, func() request {
		i := random.IntN(len(s.world.people))
		return request{kind: read, by: s.world.people[i], of: s.world.roommate(i, random.IntN(roomSize)).id}
	})
	return requests
}
