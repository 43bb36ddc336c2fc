package throughput

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/load"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/plan"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/traffic"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/upstream"
)

// Allocations is what one request leaves to the garbage collector.
type Allocations struct {
	Objects float64
	Bytes   float64
}

// allocationRequests are enough that what Caddy's admin endpoint itself allocates
// doesn't show.
const allocationRequests = 8_000

// allocationSteps measure allocations apart from time, because that needs Caddy's
// admin endpoint, where the runtime's counters are. They don't depend on the
// machine, so once is enough.
func (e *Experiment) allocationSteps() []plan.Step {
	var steps []plan.Step
	for _, c := range e.contenders {
		if _, ok := caddies[c.Server]; !ok || c.Writes > 0 {
			continue
		}
		steps = append(steps, plan.Step{
			Name: "allocations: " + c.Name, About: 2 * time.Second,
			Do: func(ctx context.Context) error { return e.note(ctx, c, e.allocations(ctx, c)) },
		})
	}
	return steps
}

func (e *Experiment) allocations(ctx context.Context, c Contender) error {
	e.stop() // nothing else is to run, and nothing more is to be measured
	homeserver, err := upstream.Start(ctx)
	if err != nil {
		return err
	}
	defer homeserver.Stop()
	caddy := caddies[c.Server]
	caddy.Admin = true
	server, err := caddy.Spec().Start(ctx, homeserver.Address, e.options.Out)
	if err != nil {
		return err
	}
	defer server.Stop()

	work := c.Work
	if c.Warm != nil {
		// A few pairs do: what a request allocates doesn't grow with their number.
		few := traffic.Workload{Targets: 20, Viewers: 20}
		if !c.Refused {
			work.Targets, work.Viewers = few.Targets, few.Viewers
		} else {
			few = *c.Warm
		}
		if err := e.warm(ctx, server, few); err != nil {
			return fmt.Errorf("warming: %w", err)
		}
	}
	requests := work.Draw(allocationRequests, 3)
	if c.Server == "souin" {
		requests = requests[:allocationRequests/8] // each of them is 8 MB
	}
	file, err := e.fileAs("allocations", requests)
	if err != nil {
		return err
	}
	before, err := allocated(ctx, server.Admin)
	if err != nil {
		return err
	}
	result, err := load.Generate(ctx, load.Options{
		Address: server.Address, Protocol: server.Protocol, Certificate: server.Certificate, File: file, Connections: 8,
	})
	if err != nil {
		return err
	}
	after, err := allocated(ctx, server.Admin)
	if err != nil {
		return err
	}
	if e.Results.Allocations == nil {
		e.Results.Allocations = make(map[string]Allocations)
	}
	n := float64(max(1, result.Requests))
	e.Results.Allocations[c.Name] = Allocations{
		Objects: (after.Objects - before.Objects) / n,
		Bytes:   (after.Bytes - before.Bytes) / n,
	}
	return nil
}

// allocated reads all that a Caddy has allocated so far.
func allocated(ctx context.Context, admin string) (a Allocations, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/metrics", nil)
	if err != nil {
		return a, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return a, fmt.Errorf("asking for the metrics: %w", err)
	}
	defer resp.Body.Close()
	found := 0
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		name, text, _ := strings.Cut(lines.Text(), " ")
		value, err := strconv.ParseFloat(text, 64)
		switch {
		case err != nil:
		case name == "go_memstats_mallocs_total":
			a.Objects = value
			found++
		case name == "go_memstats_alloc_bytes_total":
			a.Bytes = value
			found++
		}
	}
	if found != 2 {
		return a, fmt.Errorf("reading the metrics of %s: the runtime's are not there", admin)
	}
	return a, nil
}
