package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"
)

// The storm: what each user does in it, and how many times as often as usual.
const (
	stormSyncs = 3
	// usual is what a user does steadily: a sync and three reads each 30 seconds.
	usual       = 4.0 / 30
	stormFactor = 10
)

// storm is that everybody comes back at once, after an outage: each syncs, looks at their
// contacts, and syncs again.
var storm = shape{
	key: "reconnect-storm", name: "reconnect storm",
	what: func(s size) string {
		return fmt.Sprintf("%d users come back, %d syncs with set_presence=online and %d GET each, in %s, %d times the usual rate",
			s.returning, stormSyncs, s.contacts, stormLength(s).Round(100*time.Millisecond), stormFactor)
	},
	syncs: true,
	before: func(ctx context.Context, s *scene) error {
		if err := s.world.leave(ctx, s.returning()); err != nil {
			return err
		}
		if s.way.quiet {
			return nil
		}
		// Somebody who was never away has seen them gone.
		for _, l := range returned(s) {
			s.world.send(ctx, s.base, request{kind: read, by: l.by, of: l.of})
		}
		return nil
	},
	phases: []phase{{
		length: stormLength, load: comeBack,
		after: func(ctx context.Context, s *scene, r *Result, t *tally) error {
			if s.way.quiet {
				return nil
			}
			return s.compareReturned(ctx, r, t)
		},
	}},
}

func stormLength(s size) time.Duration {
	requests := float64(stormSyncs + s.contacts)
	return time.Duration(requests / (usual * stormFactor) * float64(time.Second))
}

func comeBack(s *scene) (requests []request) {
	random := rand.New(rand.NewPCG(7, 8))
	length := stormLength(s.size)
	n := stormSyncs + s.size.contacts
	// They come in the first tenth of the time, and take the rest for what they do.
	step := length * 9 / 10 / time.Duration(n)
	for i := range s.size.returning {
		p := s.returning()[i]
		at := length / 10 * time.Duration(i) / time.Duration(s.size.returning)
		for j := range n {
			r := request{at: at + time.Duration(j)*step, kind: read, by: p, of: s.world.roommate(len(s.world.people)-1-i, random.IntN(roomSize)).id}
			if j == 0 || j == n/2 || j == n-1 {
				r = request{at: r.at, kind: sync_, by: p, presence: "online"}
				if s.way.quiet {
					r.presence = s.world.untouched("unavailable")
				}
			} else if s.way.quiet {
				continue // a read is presence
			}
			requests = append(requests, r)
		}
	}
	return requests
}

// returning are those who come back: the last ones.
func (s *scene) returning() []*person {
	all := slices.Clone(s.world.people[len(s.world.people)-s.size.returning:])
	slices.Reverse(all)
	return all
}

// leave makes users be away in the eyes of a homeserver that remembers of syncs only the
// last presence, as its own timer does after five minutes.
func (w *world) leave(ctx context.Context, all []*person) error {
	if w.offlineIsNoChange {
		return nil // they wrote that they are offline, and that counts
	}
	if err := wait(ctx, w.lastSync.Add(w.priority)); err != nil {
		return err
	}
	groups := slices.Collect(slices.Chunk(all, roomSize))
	err := inParallel(groups, func(some []*person) error {
		for _, p := range some {
			r := request{kind: sync_, by: p, presence: "unavailable"}
			if a := w.send(ctx, w.server.URL, r); a.status != http.StatusOK {
				return fmt.Errorf("%s: %d %s", r, a.status, a.body)
			}
		}
		return nil
	})
	return errors.Join(err, wait(ctx, time.Now().Add(w.lag)))
}

// returned are those in the first room who come back, seen by one who was there.
func returned(s *scene) (looks []look) {
	for i := range s.size.returning {
		at := len(s.world.people) - 1 - i
		if at > warrior && at < roomSize {
			looks = append(looks, look{s.world.people[0], s.world.people[at].id})
		}
	}
	if len(looks) == 0 { // they are in other rooms: one of them looks
		last := len(s.world.people) - 1
		for i := range min(s.size.returning, roomSize) {
			looks = append(looks, look{s.world.people[last], s.world.people[last-i].id})
		}
	}
	return looks
}

// compareReturned looks whether those who came back by a sync are online. Without sync
// options a state from memory may say otherwise for the ttl, as documented; that is counted
// for itself.
func (s *scene) compareReturned(ctx context.Context, r *Result, t *tally) error {
	if err := wait(ctx, time.Now().Add(s.world.lag)); err != nil {
		return err
	}
	for _, l := range returned(s) {
		q := request{kind: read, by: l.by, of: l.of}
		own := s.world.send(ctx, s.world.server.URL, q)
		through := s.world.send(ctx, s.base, q)
		switch {
		case own.status != http.StatusOK || through.status != http.StatusOK:
			t.found(judgeAlike(own, through, false), q.String()+": "+brief(through)+" but the homeserver says "+brief(own))
		case presenceOf(own) == presenceOf(through):
		case s.way.name == byDefault.name:
			r.Late++
		default:
			t.found(unlike, q.String()+": "+brief(through)+" but the homeserver says "+brief(own))
		}
	}
	return ctx.Err()
}

// badTokens is that somebody tries tokens, from a few addresses, while others who share
// those go on reading.
var badTokens = shape{
	key: "bad-tokens", name: "bad tokens",
	what: func(s size) string {
		return fmt.Sprintf("%d unknown tokens/s from %d addresses, beside %d readers, half of them behind these, %d reads/s, for %s",
			badRate, badAddresses, badReaders, badRate, s.bad)
	},
	before: func(ctx context.Context, s *scene) error {
		// The others have been there before.
		for i := range badReaders {
			r := goodRead(s, i)
			if a := s.world.send(ctx, s.base, r); a.status != http.StatusOK {
				return fmt.Errorf("%s: %d %s", r, a.status, a.body)
			}
		}
		return nil
	},
	phases: []phase{{
		length: func(s size) time.Duration { return s.bad }, load: tryTokens,
		after: func(ctx context.Context, s *scene, r *Result, t *tally) error {
			if s.way.directive != "" {
				most := whoamiBound(r.Seconds)
				r.WhoamiBound = &most
				if r.Upstream.Whoami > int64(most) {
					t.found(unbounded, fmt.Sprintf("%d whoami, at most %d", r.Upstream.Whoami, most))
				}
			}
			return compareLooks(tryTokens)(ctx, s, r, t)
		},
	}},
}

// unbounded: the homeserver was asked about more unknown tokens than the limit lets by.
const unbounded verdict = "too many whoami"

const (
	badRate      = 100
	badAddresses = 4
	badReaders   = 20
)

// whoamiBound is how many unknown tokens the default rejected_limit, 10 in a minute and 50
// at once, lets by in some seconds; and one lookup each that may be under way.
func whoamiBound(seconds float64) int {
	return badAddresses * (50 + int(seconds*10/60) + 1 + workers/badAddresses)
}

func badAddress(i int) string { return fmt.Sprintf("198.51.100.%d", 1+i%badAddresses) }

// goodRead is a read of the i-th reader.
func goodRead(s *scene, i int) request {
	room := min(roomSize, len(s.world.people))
	r := request{kind: read, by: s.world.people[i%badReaders%room], of: s.world.people[(i*7+3)%room].id, from: office}
	if i%2 == 0 {
		r.from = badAddress(i / 2)
	}
	return r
}

func tryTokens(s *scene) (requests []request) {
	random := rand.New(rand.NewPCG(9, 10))
	n := int(badRate * s.size.bad.Seconds())
	for i := range n {
		requests = append(requests,
			goodRead(s, i),
			request{kind: read, by: s.world.people[0], of: s.world.people[0].id, from: badAddress(i), token: fmt.Sprintf("syt_%016x_%016x", random.Uint64(), random.Uint64())})
	}
	return schedule(requests, s.size.bad)
}
