package load

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/stats"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/traffic"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/wire"
)

// Generate loads a server from this process.
func Generate(ctx context.Context, o Options) (Result, error) {
	requests, err := readFile(o.File)
	if err != nil {
		return Result{}, err
	}
	start := time.Now()
	g := &generator{options: o, requests: requests, start: start}
	var all sync.WaitGroup
	clients := make([]client, o.Connections)
	var shared *traffic.Multiplexed
	for i := range clients {
		if !o.plain() && i%streams == 0 {
			if shared, err = traffic.NewMultiplexed(o.Protocol, o.Address, o.Certificate); err != nil {
				return Result{}, err
			}
			defer shared.Close()
		}
		conn := shared // the next ones may have another
		all.Go(func() { clients[i].run(ctx, g, conn) })
	}
	all.Wait()
	if err := ctx.Err(); err != nil {
		return Result{}, fmt.Errorf("loading %s: %w", o.Address, err)
	}
	return sum(clients, time.Since(start)), nil
}

// generator is what the clients of one run share.
type generator struct {
	options  Options
	requests [][]byte
	start    time.Time
	next     atomic.Int64
}

// take returns the next request, once it is due, or nil after the last one.
func (g *generator) take() []byte {
	i := int(g.next.Add(1)) - 1
	if g.options.PerSecond > 0 {
		time.Sleep(time.Until(g.start.Add(time.Duration(i) * time.Second / time.Duration(g.options.PerSecond))))
	}
	switch {
	case g.options.Duration > 0 && time.Since(g.start) >= g.options.Duration:
		return nil
	case g.options.Duration == 0 && i >= len(g.requests):
		return nil
	}
	return g.requests[(g.options.Offset+i)%len(g.requests)]
}

// streams is how many clients share a connection of HTTP/2 or HTTP/3, which is made for that.
// With one each, handshakes would be a large part of what is measured.
const streams = 8

// connection is what a client sends requests on.
type connection interface {
	Ask(request []byte) (r wire.Reply, used bool, err error)
}

// client is one connection and what it has seen.
type client struct {
	latencies       []int64 // microseconds
	refused, failed int
	bytes           int64
}

// run sends requests on a connection of its own, unless there is a shared one.
func (c *client) run(ctx context.Context, g *generator, shared *traffic.Multiplexed) {
	conn := connection(shared)
	if shared == nil {
		own := &wire.Client{Address: g.options.Address}
		defer own.Close()
		conn = own
	}
	for ctx.Err() == nil {
		request := g.take()
		if request == nil {
			return
		}
		begin := time.Now()
		r, _, err := conn.Ask(request)
		if err != nil {
			c.failed++
			continue
		}
		c.latencies = append(c.latencies, time.Since(begin).Microseconds())
		c.bytes += int64(len(r.Body))
		if r.Status >= http.StatusBadRequest {
			c.refused++
		}
	}
}

func sum(clients []client, took time.Duration) Result {
	var latencies []int64
	r := Result{Seconds: took.Seconds()}
	for i := range clients {
		latencies = append(latencies, clients[i].latencies...)
		r.Refused += clients[i].refused
		r.Failed += clients[i].failed
		r.Bytes += clients[i].bytes
	}
	slices.Sort(latencies)
	r.Requests = len(latencies)
	r.P50 = stats.Quantile(latencies, 0.5)
	r.P99 = stats.Quantile(latencies, 0.99)
	r.P999 = stats.Quantile(latencies, 0.999)
	return r
}
