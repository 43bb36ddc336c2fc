package main

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// roomOpen is that a client in a browser asks for all members of a big room, with a
// preflight for each, and the client of somebody who isn't in there for one in a hundred;
// and soon afterwards, within the ttl, all again.
var roomOpen = shape{
	key: "room-open", name: "room open", peers: true,
	what: func(s size) string {
		return fmt.Sprintf("1 viewer, %d members, OPTIONS and GET each, in %s", s.members, s.roomOpen)
	},
	phases: []phase{
		{name: "cold", length: opening, load: openRoom, after: compareLooks(openRoom)},
		{name: "again", length: opening, load: openRoom, target: 0.9, after: compareLooks(openRoom)},
	},
}

func opening(s size) time.Duration { return s.roomOpen }

func openRoom(s *scene) (requests []request) {
	for i, m := range s.world.members {
		by := s.world.people[0]
		requests = append(requests, request{kind: preflight, by: by, of: m.id}, request{kind: read, by: by, of: m.id})
		if i%100 == 0 {
			requests = append(requests, request{kind: read, by: s.world.outsider, of: m.id})
		}
	}
	return schedule(requests, s.size.roomOpen)
}

// popular is that many look at the same few again and again, while every two seconds one
// of those changes.
var popular = shape{
	key: "popular-targets", name: "popular targets", peers: true, nodes: true,
	what: func(s size) string {
		return fmt.Sprintf("%d viewers × %d targets, %d times in %s, a change each 2 s", s.viewers, s.targets, s.rounds, s.popular)
	},
	phases: []phase{{
		length: func(s size) time.Duration { return s.popular }, load: readPopular, target: 0.9, after: compareLooks(readPopular),
	}},
}

func readPopular(s *scene) (requests []request) {
	random := rand.New(rand.NewPCG(1, 2))
	for range s.size.rounds {
		var round []request
		for v := range s.size.viewers {
			by := s.world.people[v]
			if v == s.size.viewers-1 {
				by = s.world.outsider
			}
			for _, t := range s.world.targets {
				round = append(round, request{kind: read, by: by, of: t.id})
			}
		}
		random.Shuffle(len(round), func(i, j int) { round[i], round[j] = round[j], round[i] })
		requests = append(requests, round...)
	}
	requests = schedule(requests, s.size.popular)
	words := []string{"online", "unavailable"}
	for at, i := time.Second, 0; at < s.size.popular; at, i = at+2*time.Second, i+1 {
		requests = append(requests, request{
			at: at, kind: write, by: s.world.targets[i%len(s.world.targets)], presence: words[i%2], change: true,
		})
	}
	return requests
}

// longTail is that everybody looks at those of their room, at a few often and at most rarely, while
// every two seconds one of them changes.
var longTail = shape{
	key: "long-tail", name: "long tail", peers: true,
	what: func(s size) string {
		return fmt.Sprintf("%d viewers, Zipf over the %d of their room, %d reads/s for %s, a change each 2 s", s.people, min(roomSize, s.people), tailRate, s.popular)
	},
	phases: []phase{{length: func(s size) time.Duration { return s.popular }, load: readTail, after: compareLooks(readTail)}},
}

const tailRate = 400

func readTail(s *scene) (requests []request) {
	random := rand.New(rand.NewPCG(11, 12))
	nth := rand.NewZipf(random, 1.3, 1, roomSize-1)
	for range int(tailRate * s.size.popular.Seconds()) {
		viewer := random.IntN(len(s.world.people))
		requests = append(requests, request{kind: read, by: s.world.people[viewer], of: s.world.roommate(viewer, int(nth.Uint64())).id}) //nolint:gosec // G115: below roomSize
	}
	requests = schedule(requests, s.size.popular)
	words := []string{"online", "unavailable"}
	for at, i := time.Second, 0; at < s.size.popular; at, i = at+2*time.Second, i+1 {
		requests = append(requests, request{at: at, kind: write, by: s.world.roommate(0, 2+i%3), presence: words[i%2], change: true})
	}
	return requests
}

// nat is that everybody in a building comes to work: all have one address, and nobody does
// anything that they may not.
var nat = shape{
	key: "nat", name: "NAT",
	what: func(s size) string {
		return fmt.Sprintf("%d users behind one address, 2 PUT and 5 GET each, in %s", s.people, s.nat)
	},
	phases: []phase{{length: func(s size) time.Duration { return s.nat }, load: behindNAT, after: compareLooks(behindNAT)}},
}

// office is the address of all of them (RFC 5737).
const office = "203.0.113.7"

func behindNAT(s *scene) (requests []request) {
	random := rand.New(rand.NewPCG(3, 4))
	span := s.size.nat
	for i, p := range s.world.people {
		// Each comes at some time in the first half, looks around, and idles later.
		at := span / 2 * time.Duration(i) / time.Duration(len(s.world.people))
		requests = append(requests, request{at: at, kind: write, by: p, presence: "online", change: true})
		for j := range 5 {
			requests = append(requests, request{
				at: at + span/4*time.Duration(j+1)/6, kind: read, by: p, of: s.world.roommate(i, random.IntN(roomSize)).id,
			})
		}
		requests = append(requests, request{at: at + span/2*9/10, kind: write, by: p, presence: "unavailable", change: true})
	}
	for i := range requests {
		requests[i].from = office
	}
	return requests
}

// roommate is somebody in the same room as a person.
func (w *world) roommate(i, n int) *person {
	first := i / roomSize * roomSize
	return w.people[first+n%min(roomSize, len(w.people)-first)]
}
