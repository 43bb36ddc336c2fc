package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/survival/scripted"
)

// kindField is the header field that holds a request's kind. The homeserver counts by it.
const kindField = scripted.Label

// call is a request.
type call struct {
	kind
	method, path string
	token        string
	inQuery      bool
	from         string // the address that it comes from, by X-Forwarded-For
	body         string
	leave        time.Duration // after which the client goes away; 0: it stays
}

// answer is what came back. Status is 0 if nothing did.
type answer struct {
	status int
	header http.Header
	body   []byte
}

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
	url    string
	kept   *http.Client // keeps its connections
	fresh  *http.Client // makes one for each request
	around *upheaval

	mu        sync.Mutex // guards what is below
	outcomes  map[kind]*outcomes
	faults    map[fault]int
	examples  []string // of faults, a few
	latencies []int32  // of reads, in microseconds
}

func newClients(url string, around *upheaval) *clients {
	c := &clients{
		url: url, around: around,
		kept:     &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}},
		fresh:    &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
		outcomes: make(map[kind]*outcomes), faults: make(map[fault]int),
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
func (c *clients) send(random *rand.Rand, q call) (a answer, how asked) {
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
	how.begin = time.Now()
	a, err := c.exchange(ctx, client, q)
	how.end = time.Now()
	how.away, how.reloaded = c.around.during(how.begin, how.end)

	c.mu.Lock()
	defer c.mu.Unlock()
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
			c.examples = append(c.examples, fmt.Sprintf("%s: %v", q.kind, err))
		}
	}
	return a, how
}

func (c *clients) exchange(ctx context.Context, client *http.Client, q call) (answer, error) {
	var body io.Reader
	if q.body != "" {
		body = strings.NewReader(q.body)
	}
	url := c.url + q.path
	if q.inQuery {
		url += "?access_token=" + q.token
	}
	req, err := http.NewRequestWithContext(ctx, q.method, url, body)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set(kindField, string(q.kind))
	if q.token != "" && !q.inQuery {
		req.Header.Set("Authorization", "Bearer "+q.token)
	}
	if q.kind == preflight {
		req.Header.Set("Origin", "https://app.example.com")
		req.Header.Set("Access-Control-Request-Method", http.MethodGet)
		req.Header.Set("Access-Control-Request-Headers", "authorization")
	}
	if q.from != "" {
		req.Header.Set("X-Forwarded-For", q.from)
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	return answer{resp.StatusCode, resp.Header, text}, nil
}

// note notes what is wrong with an answer, if anything is.
func (c *clients) note(f fault, q call, a answer, detail string) {
	if f == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults[f]++
	if len(c.examples) < 10 {
		c.examples = append(c.examples, fmt.Sprintf("%s: %s %s as %s: %d %.200s %s", f, q.method, q.path, q.kind, a.status, a.body, detail))
	}
}

// close lets go of all connections.
func (c *clients) close() {
	c.kept.CloseIdleConnections()
	c.fresh.CloseIdleConnections()
}
