package throughput

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
	"sync"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/contender"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/load"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/plan"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/traffic"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/upstream"
)

// Options say how long to measure.
type Options struct {
	// Rounds is how often each contender is measured, Slice for how long.
	Rounds int
	Slice  time.Duration
	// Restart is after how many rounds all servers are started again; 0 is never.
	Restart int
	// FreshFloors measures the floor right before each contender.
	FreshFloors bool
	// Connections are kept busy.
	Connections int
	// Out is told what takes long.
	Out io.Writer
}

// Experiment measures contenders. Its steps are to be run in order, then Results
// holds what came out. Close it.
type Experiment struct {
	Results Results

	options    Options
	contenders []Contender
	dir        string
	homeserver *upstream.Server
	running    map[string]*running
	files      map[traffic.Workload]string
}

// running is a server with what it was warmed with.
type running struct {
	*contender.Server
	warmed map[traffic.Workload]bool
}

// drawn is how many requests a file has. A run begins somewhere in it.
const drawn = 100_000

// status is what writes set here.
const status = "v1 t1700000000000"

// New prepares an experiment. Contenders whose program this machine lacks are left
// out, and named in the results.
func New(contenders []Contender, o Options) (*Experiment, error) {
	dir, err := os.MkdirTemp("", "presence-bench-")
	if err != nil {
		return nil, fmt.Errorf("making a folder: %w", err)
	}
	e := &Experiment{
		options: o, dir: dir,
		running: make(map[string]*running), files: make(map[traffic.Workload]string),
	}
	for _, c := range contenders {
		err := spec(c.Server).Find(context.Background(), o.Out)
		switch {
		case errors.Is(err, contender.ErrMissing):
			e.Results.Skipped = append(e.Results.Skipped, c.Name+": "+err.Error())
		case err != nil:
			e.Close()
			return nil, err
		default:
			e.contenders = append(e.contenders, c)
		}
	}
	return e, nil
}

// Steps are what there is to do.
func (e *Experiment) Steps() []plan.Step {
	var steps []plan.Step
	for round := range e.options.Rounds {
		if e.options.Restart > 0 && round > 0 && round%e.options.Restart == 0 {
			steps = append(steps, plan.Step{Name: "starting anew", About: time.Second, Do: func(context.Context) error {
				e.stop()
				return nil
			}})
		}
		started := map[string]bool{}
		for position, c := range schedule(e.contenders, round, e.options.FreshFloors) {
			about := e.options.Slice + 700*time.Millisecond
			if first := round == 0 || e.options.Restart > 0 && round%e.options.Restart == 0; first && !started[c.Server] {
				started[c.Server] = true
				about += warmingTime(c)
			}
			steps = append(steps, plan.Step{
				Name:  fmt.Sprintf("round %d of %d: %s", round+1, e.options.Rounds, c.Name),
				About: about,
				Do: func(ctx context.Context) error {
					return e.note(ctx, c, e.measure(ctx, c, round, position))
				},
			})
		}
	}
	return append(steps, e.allocationSteps()...)
}

// note makes an error of a contender one of its own: an experiment that takes an
// hour goes on without it. Its server is started again for the next round.
func (e *Experiment) note(ctx context.Context, c Contender, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	if r := e.running[c.Server]; r != nil {
		r.Stop()
		delete(e.running, c.Server)
	}
	if problem := c.Name + ": " + err.Error(); !slices.Contains(e.Results.Problems, problem) {
		e.Results.Problems = append(e.Results.Problems, problem)
	}
	return nil
}

// warmingTime is how long it takes to start a server and fill its cache, roughly.
func warmingTime(c Contender) time.Duration {
	about := 300 * time.Millisecond
	if c.Warm != nil {
		about += time.Duration(c.Warm.Targets*c.Warm.Viewers) * 120 * time.Microsecond
	}
	return about
}

// measure loads one contender for a slice.
func (e *Experiment) measure(ctx context.Context, c Contender, round, position int) error {
	server, err := e.server(ctx, c)
	if err != nil {
		return err
	}
	file, err := e.file(c.Work, c.Work.Draw(drawn, 1))
	if err != nil {
		return err
	}
	o := load.Options{
		Address: server.Address, Protocol: server.Protocol, Certificate: server.Certificate, File: file, Offset: rand.IntN(drawn),
		Connections: cmp.Or(c.Connections, e.options.Connections), Duration: e.options.Slice, PerSecond: c.PerSecond,
	}
	stopWrites, err := e.writeBeside(ctx, c, o)
	if err != nil {
		return err
	}
	asked, err := e.homeserver.Counts(ctx)
	if err != nil {
		return err
	}
	used, err := server.Usage()
	if err != nil {
		return err
	}
	result, err := load.Child(ctx, o)
	if err != nil {
		return err
	}
	usedNow, err := server.Usage()
	if err != nil {
		return err
	}
	askedNow, err := e.homeserver.Counts(ctx)
	if err != nil {
		return err
	}
	if err := stopWrites(); err != nil {
		return err
	}
	select {
	case <-server.Exited():
		return fmt.Errorf("it ended by itself: %s", server.Log())
	default:
	}

	m := measurement(c, result, usedNow.Since(used), askedNow.Since(asked))
	m.Round, m.Position = round, position
	e.Results.Measurements = append(e.Results.Measurements, m)
	if p := m.problem(c); p != "" {
		e.Results.Problems = append(e.Results.Problems, fmt.Sprintf("%s, round %d: %s", c.Name, round+1, p))
	}
	return nil
}

// writeBeside begins the writes that go on beside a contender's requests.
func (e *Experiment) writeBeside(ctx context.Context, c Contender, o load.Options) (stop func() error, err error) {
	if c.Writes == 0 {
		return func() error { return nil }, nil
	}
	writes := traffic.Workload{Kind: traffic.Write, Targets: c.Work.Targets, First: traffic.User(c.Work.Targets), Viewers: 1}
	if o.File, err = e.file(writes, writes.Draw(drawn, 2)); err != nil {
		return nil, err
	}
	// Longer than the slice, so that there are writes until its end.
	o.PerSecond, o.Connections, o.Duration = c.Writes, 8, o.Duration+2*time.Second
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		_, err := load.Child(ctx, o)
		done <- err
	}()
	// Whoever writes for the first time has their token looked up.
	time.Sleep(time.Second)
	return func() error {
		defer cancel()
		return <-done
	}, nil
}

// server returns the running server of a contender, warm.
func (e *Experiment) server(ctx context.Context, c Contender) (*running, error) {
	if e.homeserver == nil {
		homeserver, err := upstream.Start(ctx)
		if err != nil {
			return nil, err
		}
		e.homeserver = homeserver
	}
	r := e.running[c.Server]
	if r == nil {
		server, err := spec(c.Server).Start(ctx, e.homeserver.Address, e.options.Out)
		if err != nil {
			return nil, err
		}
		r = &running{server, make(map[traffic.Workload]bool)}
		e.running[c.Server] = r
	}
	if c.Warm != nil && !r.warmed[*c.Warm] {
		if err := e.warm(ctx, r.Server, *c.Warm); err != nil {
			return nil, fmt.Errorf("warming: %w", err)
		}
		r.warmed[*c.Warm] = true
	}
	return r, nil
}

// warm asks for everything until it got it.
func (e *Experiment) warm(ctx context.Context, server *contender.Server, w traffic.Workload) error {
	file, err := e.fileAs(fmt.Sprintf("each-%d-%d", w.Targets, w.Viewers), w.Each(1))
	if err != nil {
		return err
	}
	// Some may be refused the first time: all of the tokens are unknown then.
	var result load.Result
	for range 3 {
		result, err = load.Generate(ctx, load.Options{
			Address: server.Address, Protocol: server.Protocol, Certificate: server.Certificate, File: file, Connections: 32,
		})
		if err != nil || result.Refused+result.Failed == 0 {
			return err
		}
	}
	return fmt.Errorf("%d of %d requests were refused and %d failed", result.Refused, result.Requests, result.Failed)
}

// file returns the file with the requests of a workload.
func (e *Experiment) file(w traffic.Workload, requests []traffic.Request) (string, error) {
	if path, ok := e.files[w]; ok {
		return path, nil
	}
	path, err := e.fileAs(fmt.Sprintf("work-%d", len(e.files)), requests)
	if err == nil {
		e.files[w] = path
	}
	return path, err
}

func (e *Experiment) fileAs(name string, requests []traffic.Request) (string, error) {
	path := filepath.Join(e.dir, name)
	texts := make([][]byte, len(requests))
	for i, r := range requests {
		texts[i] = r.Text(traffic.Scripted{}, status)
	}
	return path, load.WriteFile(path, texts)
}

// stop ends all servers.
func (e *Experiment) stop() {
	var all sync.WaitGroup
	for _, r := range e.running {
		all.Go(r.Stop)
	}
	all.Wait()
	clear(e.running)
	if e.homeserver != nil {
		e.homeserver.Stop()
		e.homeserver = nil
	}
}

// Close ends all servers and removes all files.
func (e *Experiment) Close() {
	e.stop()
	os.RemoveAll(e.dir)
}

// Select returns the contenders of a size, or those of the names given, with the
// floors that they need.
func Select(full bool, only []string) ([]Contender, error) {
	for _, name := range only {
		if !slices.ContainsFunc(Contenders, func(c Contender) bool { return c.Name == name || c.Group == name }) {
			return nil, fmt.Errorf("there is no contender %q; -list shows them", name)
		}
	}
	chosen := map[string]bool{}
	for _, c := range Contenders {
		if len(only) == 0 && (full || !c.Full) || slices.Contains(only, c.Name) || slices.Contains(only, c.Group) {
			for name := c.Name; name != ""; name = floorOf(name) {
				chosen[name] = true
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(Contenders), func(c Contender) bool { return !chosen[c.Name] }), nil
}

func floorOf(name string) string {
	return Contenders[slices.IndexFunc(Contenders, func(c Contender) bool { return c.Name == name })].Floor
}
