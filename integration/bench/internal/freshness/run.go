package freshness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/contender"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/plan"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/scripted"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/stats"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/traffic"
)

// Options say what to measure.
type Options struct {
	// Shapes are read from the scripted homeserver, SynapseShapes from a real Synapse.
	Shapes, SynapseShapes []Shape
	// Limit is how long a phase may take.
	Limit time.Duration
	// Full lets all contenders take part.
	Full bool
	// Out is told what takes long.
	Out io.Writer
}

const (
	// readers is how many read at the same time.
	readers = 32
	// writesPerSecond go through the contender beside the reads, each of another
	// target. Synapse itself lets a user write every ten seconds.
	writesPerSecond = 2
)

// Experiment runs contenders on shapes.
type Experiment struct {
	Results []Result
	// Problems say what went wrong, Skipped what was left out, and why.
	Problems, Skipped []string

	options    Options
	contenders []Contender
	synapse    *World // started when it is first needed
}

// New prepares an experiment.
func New(o Options) (*Experiment, error) {
	e := &Experiment{options: o}
	for _, c := range Contenders {
		if c.Full && !o.Full {
			continue
		}
		_, err := c.Spec.Program.Find(o.Out)
		switch {
		case errors.Is(err, contender.ErrMissing):
			e.Skipped = append(e.Skipped, c.Name+": "+err.Error())
		case err != nil:
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
	for _, shape := range e.options.Shapes {
		for _, c := range e.contenders {
			steps = append(steps, e.step(shape, c, "scripted", func(ctx context.Context) error {
				world, err := scriptedWorld(ctx, shape.Targets)
				if err != nil {
					return err
				}
				defer world.Close()
				return e.run(ctx, world, shape, c)
			}))
		}
	}
	if len(e.options.SynapseShapes) > 0 {
		steps = append(steps, plan.Step{Name: "freshness: starting Synapse and making users", About: 45 * time.Second, Do: e.startSynapse})
	}
	for _, shape := range e.options.SynapseShapes {
		for _, c := range e.contenders {
			steps = append(steps, e.step(shape, c, "Synapse", func(ctx context.Context) error {
				if e.synapse == nil {
					return nil // skipped, and said so
				}
				return e.run(ctx, e.synapse, shape, c)
			}))
		}
	}
	return steps
}

func (e *Experiment) step(shape Shape, c Contender, homeserver string, do func(context.Context) error) plan.Step {
	reads := 0
	for _, p := range shape.Phases {
		reads += len(p.Reads)
	}
	// Between a hit and a read of Synapse, and no longer than it may.
	about := min(time.Duration(reads)*150*time.Microsecond, e.options.Limit*time.Duration(len(shape.Phases)))
	return plan.Step{
		Name:  fmt.Sprintf("freshness: %s on %s: %s", shape.Name, homeserver, c.Name),
		About: about + time.Second,
		Do: func(ctx context.Context) error {
			err := do(ctx)
			if err == nil || ctx.Err() != nil {
				return err
			}
			// A long experiment goes on without one that fails.
			e.Problems = append(e.Problems, fmt.Sprintf("%s on %s, %s: %v", shape.Name, homeserver, c.Name, err))
			return nil
		},
	}
}

// Close ends what was started for several steps.
func (e *Experiment) Close() {
	if e.synapse != nil {
		e.synapse.Close()
	}
}

// run puts a contender through the phases of a shape, from a cold start.
func (e *Experiment) run(ctx context.Context, world *World, shape Shape, c Contender) error {
	server, err := c.Spec.Start(ctx, world.Address, e.options.Out)
	if err != nil {
		return err
	}
	defer server.Stop()
	for _, phase := range shape.Phases {
		result, err := e.phase(ctx, world, server, shape, phase)
		if err != nil {
			return err
		}
		result.Homeserver, result.Shape, result.Phase, result.What = world.Name, shape.Name, phase.Name, shape.What
		result.Contender, result.Bound = c.Name, c.Bound
		e.Results = append(e.Results, result)
	}
	return nil
}

// phase reads and writes, and measures what that cost.
func (e *Experiment) phase(ctx context.Context, world *World, server *contender.Server, shape Shape, phase Phase) (r Result, err error) {
	askedBefore, err := world.Counts(ctx)
	if err != nil {
		return r, err
	}
	proxyBefore, err := server.Usage()
	if err != nil {
		return r, err
	}
	homeserverBefore, err := world.Usage()
	if err != nil {
		return r, err
	}

	begin := time.Now()
	p := &play{world: world, address: server.Address, reads: phase.Reads, until: begin.Add(e.options.Limit)}
	writes, err := p.run(ctx, shape)
	if err != nil {
		return r, err
	}
	r = p.result(writes, time.Since(begin))

	proxy, err := server.Usage()
	if err != nil {
		return r, err
	}
	homeserver, err := world.Usage()
	if err != nil {
		return r, err
	}
	asked, err := world.Counts(ctx)
	if err != nil {
		return r, err
	}
	r.Upstream = asked.Since(askedBefore).All() - int64(writes)
	n := float64(max(1, r.Reads))
	r.ProxyCPU = float64(proxy.Since(proxyBefore).CPU().Microseconds()) / n
	r.HomeserverCPU = float64(homeserver.Since(homeserverBefore).CPU().Microseconds()) / n
	return r, nil
}

// play is one phase under way.
type play struct {
	world   *World
	address string
	reads   []traffic.Request
	until   time.Time

	next    atomic.Int64 // of reads
	readers [readers]reader
}

// reader is what one client saw.
type reader struct {
	verdicts  [failed + 1]int
	latencies []int64 // microseconds
	err       error
}

// run reads with all readers, and writes until they are done. It returns how many
// writes were made.
func (p *play) run(ctx context.Context, shape Shape) (writes int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	for i := range p.readers {
		all.Go(func() { p.readers[i].err = p.read(ctx, &p.readers[i]) })
	}
	writing, stopWriting := context.WithCancel(ctx)
	defer stopWriting()
	written := make(chan error, 1)
	go func() {
		var err error
		writes, err = p.write(writing, shape)
		written <- err
	}()
	all.Wait()
	stopWriting()
	err = <-written
	for i := range p.readers {
		err = errors.Join(err, p.readers[i].err)
	}
	return writes, err
}

// read sends reads, one after the other, and judges the answers.
func (p *play) read(ctx context.Context, r *reader) error {
	conn, err := traffic.Dial(ctx, p.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	for ctx.Err() == nil && time.Now().Before(p.until) {
		i := int(p.next.Add(1)) - 1
		if i >= len(p.reads) {
			return nil
		}
		request := p.reads[i]
		text := request.Text(p.world.People, "")
		a := asked{
			hidden:       scripted.Hides(request.Viewer, request.Target),
			acknowledged: p.world.acknowledged[request.Target].Load(),
			begin:        time.Now(),
		}
		resp, body, err := conn.Do(ctx, text)
		a.end = time.Now()
		r.latencies = append(r.latencies, a.end.Sub(a.begin).Microseconds())
		if err != nil {
			r.verdicts[failed]++
			continue
		}
		r.verdicts[judge(a, resp.StatusCode, body)]++
	}
	return ctx.Err()
}

// write lets targets write at an even pace until ctx is done. The one under way is
// finished, so that what was acknowledged is known.
func (p *play) write(ctx context.Context, shape Shape) (writes int, err error) {
	// A short phase may be over before it is connected.
	conn, err := traffic.Dial(context.WithoutCancel(ctx), p.address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	const drawn = 10_000
	requests := traffic.Workload{Kind: traffic.Write, Targets: shape.Targets, Viewers: 1, Zipf: shape.Zipf}.Draw(drawn, 7)
	tick := time.NewTicker(time.Second / writesPerSecond)
	defer tick.Stop()
	for ; ; writes++ {
		select {
		case <-ctx.Done():
			return writes, nil
		case <-tick.C:
		}
		if err := p.world.write(context.WithoutCancel(ctx), conn, requests[writes%drawn]); err != nil {
			return writes, err
		}
	}
}

// write makes a write and notes that it was acknowledged.
func (w *World) write(ctx context.Context, conn *traffic.Conn, r traffic.Request) error {
	version := w.version.Add(1)
	resp, body, err := conn.Do(ctx, r.Text(w.People, scripted.Status(version, time.Now())))
	if err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("writing: %s: %s", resp.Status, body)
	}
	w.acknowledged[r.Target].Store(version)
	return nil
}

// result sums up what the readers saw.
func (p *play) result(writes int, took time.Duration) Result {
	var verdicts [failed + 1]int
	var latencies []int64
	for i := range p.readers {
		latencies = append(latencies, p.readers[i].latencies...)
		for v, n := range p.readers[i].verdicts {
			verdicts[v] += n
		}
	}
	slices.Sort(latencies)
	return Result{
		Planned: len(p.reads), Reads: len(latencies), Writes: writes, Seconds: took.Seconds(),
		Leaks: verdicts[leak], Stale: verdicts[stale], AgoOff: verdicts[agoOff],
		WronglyRefused: verdicts[wronglyRefused], Failed: verdicts[failed],
		P50: stats.Quantile(latencies, 0.5), P99: stats.Quantile(latencies, 0.99),
	}
}
