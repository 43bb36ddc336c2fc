package survival_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
)

// upheaval makes the homeserver go away and reloads the sidecar, and remembers when, so that
// an answer can be judged by it.
type upheaval struct {
	hs     *scripted.Homeserver
	reload func(second bool) error

	mu       sync.Mutex // guards what is below
	away     []span     // the last of them
	reloads  []span
	restarts int
	loaded   int
}

// span is a time. One that lasts has no end.
type span struct{ begin, end time.Time }

// The aftermath of a change: idle connections may close only then, and requests that
// began before it end.
const aftermath = 2 * time.Second

func (s span) meets(begin, end time.Time) bool {
	return s.begin.Before(end) && (s.end.IsZero() || begin.Before(s.end.Add(aftermath)))
}

// during tells whether the homeserver was away, and the sidecar was reloaded, in a time.
func (u *upheaval) during(begin, end time.Time) (away, reloaded bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, s := range u.away {
		away = away || s.meets(begin, end)
	}
	for _, s := range u.reloads {
		reloaded = reloaded || s.meets(begin, end)
	}
	return away, reloaded
}

// kept is how many spans are remembered, more than any request can meet.
const kept = 32

func (u *upheaval) begin(spans *[]span) {
	u.mu.Lock()
	defer u.mu.Unlock()
	*spans = append(*spans, span{begin: time.Now()})
	*spans = (*spans)[max(0, len(*spans)-kept):]
}

func (u *upheaval) end(spans *[]span, count *int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	(*spans)[len(*spans)-1].end = time.Now()
	*count++
}

// counts is how many there were.
func (u *upheaval) counts() (reloads, restarts int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.loaded, u.restarts
}

// run changes things until ctx is done, and leaves them as they were.
func (u *upheaval) run(ctx context.Context, p plan) error {
	var all sync.WaitGroup
	var errs [2]error
	all.Go(func() {
		for second := true; wait(ctx, p.reload) && errs[0] == nil; second = !second {
			errs[0] = u.change(second)
		}
	})
	all.Go(func() {
		for cut := true; wait(ctx, p.restart) && errs[1] == nil; cut = !cut {
			errs[1] = u.goAway(p, cut)
		}
	})
	all.Wait()
	return errors.Join(errs[:]...)
}

// wait returns false if ctx is done first.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// change reloads.
func (u *upheaval) change(second bool) error {
	u.begin(&u.reloads)
	defer u.end(&u.reloads, &u.loaded)
	return u.reload(second)
}

// goAway takes the homeserver away for a twentieth of the time between two restarts.
func (u *upheaval) goAway(p plan, cut bool) error {
	u.begin(&u.away)
	defer u.end(&u.away, &u.restarts)
	if cut {
		u.hs.Cut()
	} else {
		// Not the run's context: what is under way is to be answered.
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := u.hs.Stop(ctx); err != nil {
			return err
		}
	}
	time.Sleep(p.restart / 20)
	if err := u.hs.Start(); err != nil {
		return fmt.Errorf("starting the homeserver again: %w", err)
	}
	return nil
}
