package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/stats"
)

// changes is that clients come and go by syncs, while others look at them all the time: how long it takes until
// that is seen, without a feed and with one.
var changes = shape{
	key: "changes", name: "changes by sync", fed: true,
	what: func(s size) string {
		return fmt.Sprintf("a change each second by a sync of somebody, %d times, among %d reads/s of a room; one looks each %v until it is seen",
			int(s.changes/changeEach), changeReads, lookEach)
	},
	before: func(ctx context.Context, s *scene) error {
		// A feed is believed once it has said something, and what settles before that isn't covered.
		for range 2 {
			if err := s.world.settle(ctx, s.world.people[:1]); err != nil {
				return err
			}
			if err := wait(ctx, time.Now().Add(1500*time.Millisecond)); err != nil {
				return err
			}
		}
		return nil
	},
	phases: []phase{{length: func(s size) time.Duration { return s.changes }, load: readRoom, beside: changeBySyncs}},
}

const (
	changeEach  = time.Second
	changeReads = 100 // a second
	lookEach    = 20 * time.Millisecond
	// lookFor is how long somebody looks for a change: the ttl and some more.
	lookFor = 35 * time.Second
)

// readRoom has everybody in the first room look at each other.
func readRoom(s *scene) (requests []request) {
	random := rand.New(rand.NewPCG(13, 14))
	for range int(changeReads * s.size.changes.Seconds()) {
		by := random.IntN(min(roomSize, len(s.world.people)))
		requests = append(requests, request{kind: read, by: s.world.people[by], of: s.world.roommate(0, random.IntN(roomSize)).id})
	}
	return schedule(requests, s.size.changes)
}

// changeBySyncs has one after the other come or go by a sync, and another look until that is seen.
func changeBySyncs(ctx context.Context, s *scene, r *Result, _ *tally) error {
	var mu sync.Mutex // guards seen, and r
	var seen []int64  // milliseconds
	var all sync.WaitGroup
	defer all.Wait()
	begin, words := time.Now(), []string{"online", "unavailable"}
	few := min(roomSize, len(s.world.people)) - warrior - 1
	for i := range int(s.size.changes / changeEach) {
		if err := wait(ctx, begin.Add(time.Duration(i)*changeEach)); err != nil {
			return err
		}
		who := s.world.people[warrior+1+i%few]
		look := request{kind: read, by: s.world.people[0], of: who.id}
		was := presenceOf(s.world.send(ctx, s.base, look))
		change := request{kind: sync_, by: who, presence: words[i/few%2]}
		if a := s.world.send(ctx, s.base, change); a.status != 200 {
			return fmt.Errorf("%s: %d %s", change, a.status, a.body)
		}
		done := time.Now()
		all.Go(func() {
			for time.Since(done) < lookFor && ctx.Err() == nil {
				if a := s.world.send(ctx, s.base, look); a.status == 200 && presenceOf(a) != was {
					break
				}
				_ = wait(ctx, time.Now().Add(lookEach))
			}
			mu.Lock()
			defer mu.Unlock()
			after := min(time.Since(done), lookFor)
			seen = append(seen, after.Milliseconds())
			if after == lookFor { // the user was gone again before the ttl was over
				r.Late++
			}
		})
	}
	all.Wait()
	slices.Sort(seen)
	if len(seen) > 0 {
		r.Seen = &quantiles{stats.Quantile(seen, 0.5), stats.Quantile(seen, 0.99)}
	}
	return ctx.Err()
}

// quantiles are of times, in milliseconds.
type quantiles struct{ p50, p99 float64 }

func (q *quantiles) String() string {
	if q == nil {
		return ""
	}
	return fmt.Sprintf("%.0f, %.0f", q.p50, q.p99)
}
