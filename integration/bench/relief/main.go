package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/command"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/contender"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/plan"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/report"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
)

const usage = `Usage: make relief, or: cd integration && go run ./bench/relief [flags]

Runs shapes of load against a real Synapse and a real Dendrite on loopback: directly,
through the sidecar as it is by default, and with the profile for busy servers. Prints
what reaches the homeserver, what CPU time that costs it, how long clients wait, and
which answers are wrong. The first run also installs or builds what it needs. Let
nothing else run meanwhile: CPU time bears it roughly, latencies don't.

Flags:
  -size NAME     small (default, about six minutes) or full (about fifty minutes: bigger
                 rooms, more users, longer, and the caches of nginx, Varnish and Souin)
  -only LIST     shapes or homeservers, separated by commas
  -docs DIR      write the charts and the figures in relief.md there
  -list          show the shapes and leave

It needs Linux, Go, and for Synapse Python 3.10 or newer with venv
(apt-get install python3-venv).

The exit status is 1 if a target is missed or an answer was wrong.
`

func main() { command.Main("relief", relief) }

// relief is the command.
func relief(ctx context.Context, args []string, out io.Writer, progress *os.File) error {
	flags, err := command.Parse(usage, args, out)
	if err != nil {
		return err
	}
	s := sizes[flags.Size()]
	if flags.List {
		printShapes(out, s)
		return nil
	}
	chosen, on, err := choose(flags.Only)
	if err != nil {
		return err
	}
	r, err := measure(ctx, s, chosen, on, progress)
	if err != nil {
		return err
	}
	run := r.run()
	run.Print(out)
	if flags.Docs != "" {
		for _, k := range homeservers {
			if err := r.chart(k.name, filepath.Join(flags.Docs, chartFile(k.name))); err != nil {
				return err
			}
		}
		if err := run.Document(flags.Docs, page); err != nil {
			return err
		}
	}
	if n := len(r.missed()); n > 0 {
		return fmt.Errorf("%d targets were missed", n)
	}
	return nil
}

// choose returns the shapes and homeservers of a list, all of a kind if it has none.
func choose(only []string) (chosen []shape, on []kindOfHomeserver, err error) {
	for _, word := range only {
		before := len(chosen) + len(on)
		for _, sh := range shapes {
			if sh.key == word {
				chosen = append(chosen, sh)
			}
		}
		for _, k := range homeservers {
			if strings.EqualFold(k.name, word) {
				on = append(on, k)
			}
		}
		if len(chosen)+len(on) == before {
			return nil, nil, fmt.Errorf("there is no shape and no homeserver %q; see -list", word)
		}
	}
	if chosen == nil {
		chosen = shapes
	}
	if on == nil {
		on = homeservers
	}
	return chosen, on, nil
}

// measure runs shapes on homeservers as one plan.
func measure(ctx context.Context, s size, chosen []shape, on []kindOfHomeserver, progress *os.File) (*measured, error) {
	begin := time.Now()
	if _, err := contender.CaddyPresence.Find(progress); err != nil {
		return nil, err
	}
	r := new(measured)
	var steps []plan.Step
	var opened *world
	closeWorld := func() {
		if opened != nil {
			opened.close()
			opened = nil
		}
	}
	defer closeWorld()
	for _, k := range started(chosen, on) {
		steps = append(steps, plan.Step{
			Name: "starting " + k.name + " and making users", About: k.about(s),
			Do: func(ctx context.Context) error {
				closeWorld()
				w, err := k.open(ctx, progress)
				if errors.Is(err, homeserver.ErrUnavailable) {
					r.skipped = append(r.skipped, k.name+": "+err.Error()+" (apt-get install python3-venv)")
					return nil
				}
				if err != nil {
					return err
				}
				opened = w
				if err := w.populate(ctx, k.needs(s)); err != nil {
					return fmt.Errorf("making users: %w", err)
				}
				return w.rest(ctx, s.idle())
			},
		})
		for _, sh := range chosen {
			for _, by := range sh.ways(k, s) {
				steps = append(steps, plan.Step{
					Name: fmt.Sprintf("%s: %s, %s", k.name, sh.name, by.name), About: sh.about(s),
					Do: func(ctx context.Context) error {
						if opened == nil {
							return nil // skipped, and said so
						}
						return r.try(ctx, opened, k, sh, by, s, progress)
					},
				})
			}
		}
	}
	if err := plan.Run(ctx, steps, progress, command.IsTerminal(progress)); err != nil {
		return nil, err
	}
	sortByPhase(r.results)
	relate(r.results)
	r.problems = append(r.problems, problems(r.results)...)
	r.environment = report.Machine(ctx)
	r.environment.Size, r.environment.Took = s.name, time.Since(begin).Round(time.Second).String()
	r.environment.Generator = "its own generator, at fixed times"
	for _, k := range on {
		r.environment.Contenders = append(r.environment.Contenders, k.name+" "+k.version)
	}
	return r, nil
}

// try plays a shape one way, and notes what it found. A long run goes on without one that fails.
func (r *measured) try(ctx context.Context, w *world, k kindOfHomeserver, sh shape, by way, s size, progress *os.File) error {
	if by.peer != nil {
		if _, err := by.peer.Program.Find(progress); errors.Is(err, contender.ErrMissing) {
			r.skipped = append(r.skipped, by.name+": "+err.Error())
			return nil
		}
	}
	results, err := perform(ctx, w, sh, by, s, progress)
	r.results = append(r.results, results...)
	if err != nil && ctx.Err() == nil {
		r.problems = append(r.problems, fmt.Sprintf("%s, %s, %s: %v", k.name, sh.name, by.name, err))
		return nil
	}
	return err
}

// started are the homeservers that are started: Synapse once more, with Redis, for shapes that need it.
func started(chosen []shape, on []kindOfHomeserver) (all []kindOfHomeserver) {
	fed := func(sh shape) bool { return sh.fed }
	for _, k := range on {
		if !slices.ContainsFunc(chosen, func(sh shape) bool { return !sh.fed }) && k.name == homeservers[0].name {
			all = append(all, k.withRedis())
			continue
		}
		all = append(all, k)
		if k.name == homeservers[0].name && slices.ContainsFunc(chosen, fed) {
			all = append(all, k.withRedis())
		}
	}
	return all
}

// needs is how many people there have to be: one room, where it is about what a homeserver tells.
func (k kindOfHomeserver) needs(s size) size {
	if k.feeds {
		s.people, s.members, s.targets, s.ghosts = min(roomSize, s.people), 0, 0, 0
	}
	return s
}

// about is how long it takes to start a homeserver and make its users, roughly.
func (k kindOfHomeserver) about(s size) time.Duration {
	joins := s.people + s.targets + s.ghosts
	if k.hides {
		joins += s.members
	}
	return rests*s.idle() + 3*time.Second + time.Duration(joins)*50*time.Millisecond
}

// idle is how long a homeserver with nothing to do is looked at.
func (s size) idle() time.Duration { return max(time.Second, s.bad) }

// about is how long a shape takes by one way, roughly.
func (sh shape) about(s size) time.Duration {
	about := 2 * time.Second
	for _, p := range sh.phases {
		about += p.length(s) + time.Second
	}
	return about
}

// printShapes lists what -only takes.
func printShapes(out io.Writer, s size) {
	t := report.Table{Title: "Shapes, size " + s.name, Columns: []string{"<name", "<what"}}
	for _, sh := range shapes {
		t.Rows = append(t.Rows, []string{sh.key, sh.what(s)})
	}
	t.Text(out)
	names := make([]string, len(homeservers))
	for i, k := range homeservers {
		names[i] = strings.ToLower(k.name)
	}
	fmt.Fprintf(out, "\nHomeservers: %s\n", strings.Join(names, ", "))
}
