package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"
)

// warRate is how many requests a second two devices make that disagree.
const warRate = 30

// warByWrite is that two devices of one user write what they are, one after the other, each
// as if the other had been wrong. In the end both are unavailable.
var warByWrite = shape{
	key: "device-war-put", name: "device war by PUT",
	what: func(s size) string {
		return fmt.Sprintf("1 user, 2 devices, online and unavailable by turns, %d/s for %s", warRate, s.war)
	},
	phases: []phase{{
		length: func(s size) time.Duration { return s.war }, target: 0.8,
		load: func(s *scene) []request { return war(s, write, s.size.war) },
		ends: func(ctx context.Context, s *scene, r *Result, t *tally) error {
			return s.ends(ctx, s.written(s.world.second.id), r, t)
		},
		after: func(ctx context.Context, s *scene, _ *Result, t *tally) error {
			return s.stays(ctx, s.written(s.world.second.id), t)
		},
	}},
}

// warBySync is the same by syncs that don't wait, as they are when each brings the other's
// presence. In the end the one that was online is unavailable too, on a homeserver that
// believes it; somebody looks on who must never see a flap.
var warBySync = shape{
	key: "device-war-sync", name: "device war by sync",
	what: func(s size) string {
		return fmt.Sprintf("1 user, 2 devices, set_presence=online and unavailable by turns, %d/s for %s", warRate, s.syncWar)
	},
	syncs: true,
	before: func(ctx context.Context, s *scene) error {
		// The user is online when it begins, for PUTs and for syncs.
		for _, kind := range []action{sync_, write} {
			r := request{kind: kind, by: s.world.people[warrior], presence: "online", change: true}
			if a := s.world.send(ctx, s.world.server.URL, r); a.status != http.StatusOK {
				return fmt.Errorf("%s: %d %s", r, a.status, a.body)
			}
		}
		return wait(ctx, time.Now().Add(s.world.lag))
	},
	phases: []phase{{
		length: func(s size) time.Duration { return s.syncWar }, target: 0.8,
		load: func(s *scene) []request {
			requests := war(s, sync_, s.size.syncWar)
			if s.way.quiet {
				return requests // a read is presence
			}
			for i := range int(s.size.syncWar.Seconds()) {
				at := time.Duration(i)*time.Second + time.Second/2
				requests = append(requests, request{at: at, kind: read, by: s.world.people[0], of: s.world.second.id, want: "online"})
			}
			return requests
		},
		ends: func(ctx context.Context, s *scene, r *Result, t *tally) error {
			if s.way.quiet {
				return nil
			}
			want := "online" // Dendrite believes the most present one for ten seconds more
			if s.world.merges {
				want = "unavailable"
			}
			// By default a change by sync may be seen a ttl late.
			late := s.way.name == byDefault.name
			return s.ends(ctx, ending{user: s.world.second.id, want: want, since: time.Now(), late: late}, r, t)
		},
	}},
}

func war(s *scene, kind action, length time.Duration) (requests []request) {
	first, second := s.world.people[warrior], s.world.second
	n := int(warRate * length.Seconds())
	for i := range n {
		r := request{kind: kind, by: first, presence: "online", change: true}
		if i%2 == 1 {
			r.by, r.presence = second, "unavailable"
		}
		requests = append(requests, r)
	}
	requests = schedule(requests, length)
	last := request{at: length, kind: kind, by: first, presence: "unavailable", change: true}
	if kind == sync_ && !s.world.merges {
		last.presence = "online"
	}
	requests = append(requests, last)
	if s.way.quiet {
		for i := range requests {
			requests[i].presence = s.world.untouched("online")
		}
	}
	return requests
}

// bridge is that a bridge writes what its ghosts are, again and again: each 250 to 500 ms, and
// something new once a minute, or much more often. Somebody looks at them.
var bridge = shape{
	key: "bridge", name: "bridge",
	what: func(s size) string {
		return fmt.Sprintf("%d ghosts of one appservice, a PUT each 250–500 ms, a change of each once a minute, and then (restless) each 10 s, for %s each", s.ghosts, s.bridge)
	},
	before: func(ctx context.Context, s *scene) error {
		// It has been doing so for long.
		for _, g := range s.world.ghosts {
			s.world.send(ctx, s.base, request{kind: write, by: g, presence: "online", change: true})
		}
		return nil
	},
	phases: []phase{bridging("", time.Minute, 0.9), bridging("restless", 10*time.Second, 0)},
}

func bridging(name string, each time.Duration, target float64) phase {
	load := func(s *scene) []request { return bridged(s, each) }
	return phase{
		name: name, length: func(s size) time.Duration { return s.bridge }, load: load, target: target, after: compareLooks(load),
	}
}

// bridged is a bridge with a change of each ghost each so often.
func bridged(s *scene, each time.Duration) (requests []request) {
	random := rand.New(rand.NewPCG(5, 6))
	words := []string{"unavailable", "online"}
	for _, g := range s.world.ghosts {
		changes := within(random, each) // when the next one is
		next := 0
		for at := within(random, 500*time.Millisecond); at < s.size.bridge; at += 250*time.Millisecond + within(random, 250*time.Millisecond) {
			r := request{at: at, kind: write, by: g}
			if at >= changes {
				r.change, r.presence = true, words[next%2]
				next++
				changes += each
			}
			requests = append(requests, r)
		}
	}
	for at := time.Second / 4; at < s.size.bridge; at += time.Second / 4 {
		requests = append(requests, request{at: at, kind: read, by: s.world.people[0], of: s.world.ghosts[random.IntN(len(s.world.ghosts))].id})
	}
	return requests
}

// within is a time below a limit.
func within(random *rand.Rand, limit time.Duration) time.Duration {
	return time.Duration(random.Int64N(int64(limit)))
}
