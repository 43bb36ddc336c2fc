package survival_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// outcomes are what became of the requests of a kind.
type outcomes struct {
	sent     int
	answered map[int]int // by status
	// Without an answer: because the client went away, or else.
	left, unanswered int
}

func (o *outcomes) answers() (n int) {
	for _, of := range o.answered {
		n += of
	}
	return n
}

// clients send requests and keep the books.
type clients struct {
	kept   *http.Client // keeps its connections
	fresh  *http.Client // makes one for each request
	around *upheaval
	named  bool // each request has a name of its own, by which its answer is kept

	mu        sync.Mutex // guards what is below
	outcomes  map[kind]*outcomes
	faults    map[fault]int
	examples  []string // of faults, a few
	latencies []int32  // of reads, in microseconds
	answers   map[string]answer
}

func newClients(around *upheaval) *clients {
	c := &clients{
		around:   around,
		kept:     &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}},
		fresh:    &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
		outcomes: make(map[kind]*outcomes), faults: make(map[fault]int), answers: make(map[string]answer),
	}
	for _, k := range kinds {
		c.outcomes[k.kind] = &outcomes{answered: make(map[int]int)}
	}
	return c
}

// requests is how many have been sent.
func (c *clients) requests() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range c.outcomes {
		n += o.sent
	}
	return n
}

// wrong is how many answers were.
func (c *clients) wrong() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, of := range c.faults {
		n += of
	}
	return n
}

// send sends a request and returns what there is to judge it by, apart from sessions
// and what was asked for.
func (c *clients) send(random *rand.Rand, q request) (a answer, how asked) {
	ctx := context.Background()
	if q.leave > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, q.leave)
		defer cancel()
	}
	client := c.kept
	if random.IntN(20) == 0 {
		client = c.fresh
	}
	if q.id = string(q.kind); c.named {
		q.id = q.kind.name()
	}
	how.begin = time.Now()
	a = q.do(ctx, client)
	how.end = time.Now()
	how.away, how.reloaded = c.around.during(how.begin, how.end)

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.named {
		c.answers[q.id] = a
	}
	o := c.outcomes[q.kind]
	o.sent++
	switch {
	case a.status != 0:
		o.answered[a.status]++
		if q.kind == read {
			c.latencies = append(c.latencies, int32(min(how.end.Sub(how.begin), time.Minute).Microseconds()))
		}
	case ctx.Err() != nil:
		o.left++
	default:
		o.unanswered++
		if !how.reloaded && len(c.examples) < 10 {
			c.examples = append(c.examples, fmt.Sprintf("%s: %v", q.id, a.err))
		}
	}
	return a, how
}

// note notes what is wrong with an answer, if anything is.
func (c *clients) note(f fault, q request, a answer, detail string) {
	if f == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults[f]++
	if len(c.examples) < 10 {
		c.examples = append(c.examples, fmt.Sprintf("%s: %s %s as %s: %.300s %s", f, q.method, q.url, q.kind, a, detail))
	}
}

// close lets go of all connections.
func (c *clients) close() {
	c.kept.CloseIdleConnections()
	c.fresh.CloseIdleConnections()
}
