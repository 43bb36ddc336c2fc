package main

import (
	"context"
	"fmt"
	"time"
)

// viewers is that all who are in a room open it, one after the other, each for the first time: their
// client gets the list of its members, and then the presence of each.
var viewers = shape{
	key: "viewers", name: "viewers of a room",
	what: func(s size) string {
		n := min(roomSize, s.people)
		return fmt.Sprintf("the %d members of a room open it: the first, the second, and then %d; each gets the list of them and %d GET", n, n-2, n-1)
	},
	before: func(ctx context.Context, s *scene) error {
		// Clients sync first. From then on it is known which homeserver it is.
		r := request{kind: sync_, by: s.world.people[0], presence: s.world.untouched("offline")}
		if a := s.world.sync(ctx, s.base, r); a.status != 200 {
			return fmt.Errorf("%s: %d %s", r, a.status, a.body)
		}
		return wait(ctx, time.Now().Add(500*time.Millisecond))
	},
	phases: []phase{
		{name: "first", length: func(size) time.Duration { return opensRoom }, load: opens(0, 1), after: compareLooks(opens(0, 1))},
		{name: "second", length: func(size) time.Duration { return opensRoom }, load: opens(1, 2), after: fewReads(opens(1, 2))},
		{name: "others", length: restOpens, load: opens(2, roomSize), target: 0.8, after: fewReads(opens(2, roomSize))},
	},
}

const (
	// opensRoom is how long a client takes to show a room.
	opensRoom = 500 * time.Millisecond
	// opened is how long after one the next opens the room.
	opened = 150 * time.Millisecond
)

func restOpens(s size) time.Duration {
	return time.Duration(min(roomSize, s.people)-3)*opened + opensRoom
}

// opens has some of a room open it.
func opens(from, to int) func(*scene) []request {
	return func(s *scene) (requests []request) {
		members := s.world.people[:min(roomSize, len(s.world.people))]
		for i, by := range members[from:min(to, len(members))] {
			at := time.Duration(i) * opened
			requests = append(requests, request{at: at, kind: list, by: by, of: s.world.room})
			for j, m := range members {
				if m != by {
					requests = append(requests, request{
						at: at + opensRoom/5 + opensRoom*4/5*time.Duration(j)/time.Duration(len(members)), kind: read, by: by, of: m.id,
					})
				}
			}
		}
		return requests
	}
}

// tooManyReads: reads reached the homeserver that what had passed by answers.
const tooManyReads verdict = "too many reads upstream"

// fewReads expects that nearly no read reaches the homeserver with the busy profile, and compares what is seen.
func fewReads(load func(*scene) []request) func(context.Context, *scene, *Result, *tally) error {
	return func(ctx context.Context, s *scene, r *Result, t *tally) error {
		reads := 0
		for _, q := range load(s) {
			if q.kind == read {
				reads++
			}
		}
		// A trial of the room may go on, and in so small a room it is much.
		if most := int64(reads/20 + 2); s.way.name == busyWay.name && len(s.world.people) >= roomSize && r.Upstream.Reads+r.Upstream.Whoami > most {
			t.found(tooManyReads, fmt.Sprintf("%d reads and %d whoami of %d, at most %d", r.Upstream.Reads, r.Upstream.Whoami, reads, most))
		}
		return compareLooks(load)(ctx, s, r, t)
	}
}
