package survival_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/vitals"
)

// soaking is a soak under way.
type soaking struct {
	plan     plan
	out      io.Writer
	town     *town
	hs       *scripted.Homeserver
	log      *logbook
	server   *server
	upheaval *upheaval
	clients  *clients

	samples []sample
	missed  int // samples that were not taken, during a reload
}

// TestSoak runs the sidecar under all of that at once, for the size's time or as long as
// -duration says.
func TestSoak(t *testing.T) {
	p, long := whole, cmp.Or(*duration, scale.soak)
	if long < 2*time.Minute {
		p = brief
	}
	p.duration, p.rate = long, cmp.Or(*rate, p.rate)
	if p.duration < 15*time.Second || p.rate < 100 {
		t.Fatal("nothing can be told from less than 15 seconds or 100 requests a second")
	}
	r, err := soak(t, p)
	if err != nil {
		t.Fatal(err)
	}
	r.print(os.Stderr)
	chart := filepath.Join(cmp.Or(*docs, t.TempDir()), "soak.svg")
	if err := r.chart(chart); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(chart); err == nil && info.Size() < 1000 {
		t.Errorf("the chart has %d bytes", info.Size())
	}
	if err := r.verdict(); err != nil {
		t.Error(err)
	}
	figure(t, "%s", r.summary())
}

// soak does all of it.
func soak(t *testing.T, p plan) (*results, error) {
	ctx := t.Context()
	s := &soaking{plan: p, out: os.Stderr, town: newTown(p)}
	s.hs = newHomeserver(t, scripted.Options{
		Hidden: hides, Appservice: appservice,
		Delay: func() time.Duration {
			if rand.IntN(30) == 0 {
				return time.Duration(rand.Int64N(int64(50 * time.Millisecond))) // long enough to be overtaken
			}
			return time.Duration(rand.ExpFloat64() * float64(2*time.Millisecond))
		},
	})
	s.town.moveIn(s.hs)
	var err error
	if s.log, err = openLogbook(); err != nil {
		return nil, err
	}
	defer s.log.listener.Close()
	caddyfile := func(second bool) string { return p.caddyfile(second, s.hs, s.log.address()) }
	s.server = startServer(t, s.hs, caddyfile(false))
	s.upheaval = &upheaval{hs: s.hs, reload: func(second bool) error { return s.server.Reload(ctx, caddyfile(second)) }}
	s.clients = newClients(s.upheaval)

	// What Caddy starts with its first reload is no leak.
	for _, second := range [...]bool{true, false} {
		if err := s.upheaval.change(second); err != nil {
			return nil, err
		}
	}
	before, err := s.settled(ctx, func(vitals.Vitals) bool { return false })
	if err != nil {
		return nil, err
	}
	if err := s.run(ctx); err != nil {
		return nil, err
	}
	return s.close(ctx, before)
}

// run has the traffic, the upheaval and the watch at work for the time of the plan.
func (s *soaking) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.plan.duration)
	defer cancel()
	var all sync.WaitGroup
	errs := make([]error, 2)
	t := &traffic{plan: s.plan, town: s.town, clients: s.clients, hs: s.hs, url: s.server.URL}
	all.Go(func() { t.run(ctx) })
	for i, work := range []func() error{
		func() error { return s.upheaval.run(ctx, s.plan) },
		func() error { return s.watch(ctx) },
	} {
		all.Go(func() {
			if errs[i] = work(); errs[i] != nil {
				cancel() // the rest is of no use
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// fewest is how many samples a soak needs, so that there is something to tell from a third of them.
const fewest = 12

// spare is how many goroutines and file descriptors there may be more, after all, than
// before the first request.
const spare = 5

// left tells that more than that is left behind.
func left(before, after vitals.Vitals) bool {
	return after.Goroutines > before.Goroutines+spare || after.Descriptors > before.Descriptors+spare
}

// settled lets go of all connections of the clients and waits until the sidecar holds no
// less than a second before, or, if that is too much, than ten seconds before.
func (s *soaking) settled(ctx context.Context, tooMuch func(vitals.Vitals) bool) (lowest vitals.Vitals, err error) {
	const pause, patience = 50 * time.Millisecond, 20
	s.clients.close()
	for still := 0; ; still++ {
		v, err := vitals.Read(ctx, s.server.Admin)
		if err != nil {
			return v, err
		}
		if lowest.Goroutines == 0 || v.Goroutines < lowest.Goroutines || v.Descriptors < lowest.Descriptors {
			lowest, still = v, 0
		}
		enough := still >= patience && !tooMuch(lowest) || still >= 10*patience
		if enough || !wait(ctx, pause) {
			return lowest, ctx.Err()
		}
	}
}

// delivered waits until no write waits any more.
func (s *soaking) delivered(ctx context.Context) error {
	for {
		v, err := vitals.Read(ctx, s.server.Admin)
		if err != nil {
			return err
		}
		if v.Pending == 0 || !wait(ctx, 50*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// close ends everything in its order, and draws up the balance.
func (s *soaking) close(ctx context.Context, before vitals.Vitals) (*results, error) {
	if err := s.delivered(ctx); err != nil {
		return nil, err
	}
	// With the homeserver away, no connection to it is left.
	if err := s.hs.Stop(ctx); err != nil {
		return nil, err
	}
	after, err := s.settled(ctx, func(v vitals.Vitals) bool { return left(before, v) })
	if err != nil {
		return nil, err
	}
	s.server.End()
	log, err := s.log.close()
	if err != nil {
		return nil, err
	}
	r := &results{
		plan: s.plan, samples: s.samples, missed: s.missed, before: before, after: after,
		outcomes: s.clients.outcomes, faults: s.clients.faults, examples: s.clients.examples,
		latencies: slices.Sorted(slices.Values(s.clients.latencies)),
	}
	r.reloads, r.restarts = s.upheaval.counts()
	b := books{clients: s.clients.outcomes, log: log, hs: s.hs.Counts(), counters: after.Counters}
	for _, p := range s.town.everybody() {
		if s.hs.State(p.id).Version < p.acknowledged.Load() {
			b.behind++
		}
	}
	for _, p := range s.town.hasty {
		if s.hs.State(p.id).Version < p.accepted {
			b.waiting++
		}
	}
	r.upstream = arrived(b.hs)
	r.equations = b.equations()
	r.log = log
	for _, one := range allSeries(s.samples) {
		g := one.judge()
		if strings.HasPrefix(one.name, tableOf) && s.plan.filling {
			g.flat = true // within its bound, see full
		}
		r.growths = append(r.growths, g)
	}
	r.full = full(s.samples, s.plan.tables)
	if len(s.samples) < fewest {
		return nil, fmt.Errorf("only %d samples were taken, %d failed", len(s.samples), s.missed)
	}
	return r, nil
}
