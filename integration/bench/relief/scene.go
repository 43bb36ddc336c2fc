package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/contender"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/counting"
)

// scene is one shape on one homeserver, by one way.
type scene struct {
	world *world
	way   way
	size  size
	// base is where clients send requests, and server the sidecar or peer there, if any.
	base   string
	server *contender.Server
	// preflight is the homeserver's own answer to one.
	preflight answer
	// workers is how many requests may be under way, or 0 for as many as usual.
	workers int
	// slack is how long the homeserver may be left without a repeat.
	slack time.Duration
}

// A busy server's repeats go to the homeserver each refresh, 20 seconds by default.
const refresh = 20 * time.Second

// play a shape by a way, from a cold start of the sidecar.
func perform(ctx context.Context, w *world, sh shape, by way, s size, out io.Writer) ([]Result, error) {
	sc := &scene{world: w, way: by, size: s, workers: sh.workers, base: "http://" + w.hop.Address}
	if spec, ok := by.server(w.server.Redis); ok {
		server, err := spec.Start(ctx, w.hop.Address, out)
		if err != nil {
			return nil, err
		}
		defer server.Stop()
		sc.server, sc.base = server, "http://"+server.Address
	}
	if by.name == busyWay.name {
		sc.slack = refresh
	}
	sc.preflight = w.send(ctx, w.server.URL, request{kind: preflight, by: w.people[0], of: w.people[0].id})

	profile := profileOf(by)
	w.recording = newRecording(profile, sc.base)
	defer func() { w.recording = nil }()
	var plans [][]request
	for _, p := range sh.phases {
		plans = append(plans, p.load(sc))
	}
	involved := writers(plans)
	if err := sc.warm(ctx, sh, plans); err != nil {
		return nil, err
	}
	if sh.before != nil {
		if err := sh.before(ctx, sc); err != nil {
			return nil, err
		}
	}
	var results []Result
	var spans []span
	for i, p := range sh.phases {
		if err := w.calm(ctx, 6*time.Second); err != nil {
			return nil, err
		}
		r, measured, err := sc.measure(ctx, sh, p, plans[i])
		if err != nil {
			return nil, err
		}
		results, spans = append(results, r), append(spans, measured)
	}
	if err := w.recording.predictResults(w, profile, spans, results); err != nil {
		return nil, err
	}
	if sh.syncs && !by.quiet {
		w.lastSync = time.Now()
	}
	for _, p := range involved {
		if err := w.settle(ctx, []*person{p}); err != nil {
			return nil, err
		}
		w.ledger.of(p.id).settled()
	}
	return results, nil
}

// writers are all who set a presence.
func writers(plans [][]request) (all []*person) {
	seen := make(map[*person]bool)
	for _, plan := range plans {
		for _, r := range plan {
			if (r.kind == write || r.kind == sync_) && !seen[r.by] {
				seen[r.by] = true
				all = append(all, r.by)
			}
		}
	}
	return all
}

// warm shows the homeserver everybody who takes part, the first time: what it then keeps
// about them would make the first way the dearest. A client that syncs gets a place to go on
// from.
func (s *scene) warm(ctx context.Context, sh shape, plans [][]request) error {
	key := sh.key
	for _, plan := range plans {
		seen := make(map[string]bool)
		for _, r := range plan {
			if r.kind == sync_ && r.by.since.Load() == nil {
				a := s.world.sync(ctx, s.world.server.URL, request{kind: sync_, by: r.by, presence: "offline"})
				if a.status != 200 {
					return fmt.Errorf("the first sync of %s: %d %s", r.by.id, a.status, a.body)
				}
			}
			if s.world.warmed[key] || r.token != "" || r.kind == preflight || r.kind == list {
				continue
			}
			of := r.of
			if of == "" {
				of = r.by.id
			}
			if seen[of] && seen[r.by.id] {
				continue
			}
			seen[of], seen[r.by.id] = true, true
			s.world.send(ctx, s.world.server.URL, request{kind: read, by: r.by, of: of})
		}
	}
	s.world.warmed[key] = true
	return nil
}

// measure plays a phase, and what it cost.
func (s *scene) measure(ctx context.Context, sh shape, p phase, plan []request) (r Result, measured span, err error) {
	r = Result{
		Homeserver: s.world.name, Shape: sh.name, Key: sh.key, Phase: p.name, What: sh.what(s.size), Way: s.way.name,
		Target: p.target,
	}
	t := newTally()
	before, err := s.readMeters()
	if err != nil {
		return r, measured, err
	}
	begin := time.Now()
	measured.begin = begin
	beside := make(chan error, 1)
	go func() {
		if p.beside == nil {
			beside <- nil
			return
		}
		beside <- p.beside(ctx, s, &r, t)
	}()
	if err := errors.Join(s.play(ctx, plan, t), <-beside); err != nil {
		return r, measured, err
	}
	if p.ends != nil {
		if err := p.ends(ctx, s, &r, t); err != nil {
			return r, measured, err
		}
	}
	// All ways take as long, and a bit more for what the homeserver does after answers.
	const rest = 500 * time.Millisecond
	if err := wait(ctx, begin.Add(p.length(s.size)+rest)); err != nil {
		return r, measured, err
	}
	measured.end = time.Now()
	after, err := s.readMeters()
	if err != nil {
		return r, measured, err
	}
	r.Seconds = measured.end.Sub(begin).Seconds()
	r.Upstream = after.counts.Since(before.counts)
	r.HomeserverCPU = (after.homeserver - before.homeserver).Seconds()
	r.IdleCPU = s.world.idle.Seconds() * r.Seconds
	r.SidecarCPU = (after.sidecar - before.sidecar).Seconds()
	r.GeneratorCPU = (after.own - before.own).Seconds()

	if p.after != nil {
		if err := p.after(ctx, s, &r, t); err != nil {
			return r, measured, err
		}
	}
	r.Reads = readsOf(plan)
	r.Requests, r.Limited, r.Errors, r.Wrong, r.Examples = t.requests, t.limited, t.errors(), t.wrong, t.examples
	r.P50, r.P99 = t.quantile(0.5), t.quantile(0.99)
	r.MessageP99 = t.messageQuantile(0.99)
	return r, measured, nil
}

// meters are what has been used and counted up to now.
type meters struct {
	own, sidecar, homeserver time.Duration // of CPU
	counts                   counting.Counts
}

// readMeters reads them.
func (s *scene) readMeters() (m meters, err error) {
	m.own, m.counts = ownCPU(), s.world.hop.Counts()
	if m.sidecar, err = s.sidecarCPU(); err != nil {
		return m, err
	}
	m.homeserver, err = s.world.used()
	return m, err
}

func (s *scene) sidecarCPU() (time.Duration, error) {
	if s.server == nil {
		return 0, nil
	}
	usage, err := s.server.Usage()
	return usage.CPU(), err
}

// ownCPU is what this process has used: the load generator and the hop.
func ownCPU() time.Duration {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// presenceOf is the presence in an answer, or empty.
func presenceOf(a answer) string {
	var seen status
	_ = json.Unmarshal(a.body, &seen)
	return seen.Presence
}

// look is who looks at whom.
type look struct {
	by *person
	of string
}

// looks are the pairs in a plan that read, each once, and no more than n of them spread
// over all.
func looks(plan []request, n int) (pairs []look) {
	seen := make(map[look]bool)
	for _, r := range plan {
		if l := (look{r.by, r.of}); r.kind == read && r.token == "" && !seen[l] {
			seen[l] = true
			pairs = append(pairs, l)
		}
	}
	if step := len(pairs) / n; step > 1 {
		for i := range n {
			pairs[i] = pairs[i*step]
		}
		pairs = pairs[:n]
	}
	return slices.Clip(pairs)
}

// messageOf is the status_msg in an answer, or empty.
func messageOf(a answer) string {
	var seen status
	_ = json.Unmarshal(a.body, &seen)
	return seen.Message
}
