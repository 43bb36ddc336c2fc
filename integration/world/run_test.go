package world_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/bubble"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/model"
)

// variant is a way to run a plan.
type variant struct {
	direct   bool            // through Caddy without the module
	peaceful bool            // without those who have no account
	protocol bubble.Protocol // for all requests, or "" for those of the plan
}

// run is what came of a plan.
type run struct {
	hs       *model.Homeserver
	began    time.Time
	outcomes []*outcome // by step, a repeat after its original
	received []model.Received

	tokens, panics []string // lines of the log with them
	trouble        error    // Caddy could not be started or reloaded
}

// outcome is what came of a call.
type outcome struct {
	step         int
	call         *call
	again        bool // after the Retry-After of the one before
	reloaded     bool // Caddy reloaded meanwhile
	began, ended time.Time
	status       int // 0: no answer came
	header       http.Header
	body         string
	err          error
}

func (o *outcome) took() time.Duration { return o.ended.Sub(o.began) }

func (o *outcome) cacheStatus() string { return strings.Join(o.header["Cache-Status"], ", ") }

// fromMemory tells that the homeserver wasn't asked for this answer.
func (o *outcome) fromMemory() bool { return strings.Contains(o.cacheStatus(), "; hit") }

func (o *outcome) String() string {
	again := ""
	if o.again {
		again = ", again"
	}
	return fmt.Sprintf("step %d%s: %v\n\tafter %v: %d %.200s (%s) %v", o.step, again, o.call, o.took(), o.status, o.body, o.cacheStatus(), o.err)
}

// play runs a plan in a bubble.
func (p *plan) play(t *testing.T, files [2]string, v variant) (r *run) {
	synctest.Test(t, func(*testing.T) { r = p.playInBubble(files, v) })
	return r
}

func (p *plan) playInBubble(files [2]string, v variant) *run {
	r := &run{hs: found(p.dialect), began: time.Now()}
	bubble.Behind("localhost:8008", r.hs)
	bubble.Behind("localhost:8009", founded(p.dialect))
	journal := new(bubble.Journal)
	load := func(s *site) {
		if err := bubble.Load(s.caddyfile(!v.direct, files[0], files[1]), journal); err != nil {
			r.trouble = err
		}
	}
	if load(&p.site); r.trouble != nil {
		return r
	}
	var mu sync.Mutex // guards the outcomes
	var under sync.WaitGroup
	for i, s := range p.steps {
		time.Sleep(time.Until(r.began.Add(s.at)))
		switch {
		case s.behind != nil:
			s.behind.do(r.hs)
		case s.mood != nil:
			r.hs.Become(s.mood.conduct)
		case s.reload != nil:
			under.Go(func() { load(s.reload) })
			synctest.Wait()
		case s.call != nil && (v.peaceful && s.call.who.hostile || s.call.staging && (v.direct || !p.site.staging)):
		case s.call != nil:
			under.Go(func() {
				o := s.call.send(v.protocol)
				o.step = i
				mu.Lock()
				r.outcomes = append(r.outcomes, o)
				mu.Unlock()
				wait, err := strconv.Atoi(o.header.Get("Retry-After"))
				if !s.call.again || o.status != http.StatusTooManyRequests || err != nil {
					return
				}
				time.Sleep(time.Duration(wait) * time.Second)
				repeat := s.call.send(v.protocol)
				repeat.step, repeat.again = i, true
				mu.Lock()
				r.outcomes = append(r.outcomes, repeat)
				mu.Unlock()
			})
		}
	}
	under.Wait()
	r.hs.Become(nil)
	time.Sleep(2 * time.Minute) // for writes that wait
	r.hs.Rest()
	if err := bubble.Stop(); err != nil && r.trouble == nil {
		r.trouble = err
	}
	r.received = r.hs.Received()
	r.tokens, r.panics = journal.Found()
	for _, o := range r.outcomes {
		o.reloaded = slices.ContainsFunc(p.steps, func(s step) bool {
			at := r.began.Add(s.at)
			return s.reload != nil && at.After(o.began) && at.Before(o.ended)
		})
	}
	slices.SortStableFunc(r.outcomes, func(a, b *outcome) int { return a.step - b.step })
	return r
}

func (m *mood) conduct(r *http.Request) model.Conduct {
	switch path := r.URL.Path; {
	case strings.HasSuffix(path, "/account/whoami"):
		return m.whoami
	case strings.Contains(path, "/presence/"):
		return m.presence
	}
	return m.other
}

// send sends a call and waits for its answer.
func (c *call) send(protocol bubble.Protocol) *outcome {
	if protocol == "" || c.staging {
		protocol = c.protocol
	}
	o := &outcome{call: c, began: time.Now()}
	defer func() { o.ended = time.Now() }()
	ctx := context.Background()
	if c.patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.patience)
		defer cancel()
	}
	r := (&http.Request{
		Method: c.method, Host: "example.com", Header: make(http.Header),
		URL: &url.URL{Scheme: "http", Host: "example.com", RawPath: c.path, RawQuery: strings.Join(c.query, "&")},
	}).WithContext(ctx)
	if protocol.Secure() {
		r.URL.Scheme = "https"
	}
	if c.staging {
		r.URL.Host, r.Host = "example.com:8080", "example.com:8080"
	}
	if r.URL.Path, o.err = url.PathUnescape(c.path); o.err != nil {
		return o
	}
	for _, field := range c.fields {
		r.Header.Add(field[0], field[1])
	}
	switch {
	case c.stuck:
		r.Body, r.ContentLength = io.NopCloser(stuck{ctx}), 10
	case c.unknownLength:
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(c.body)), -1
	case c.body != "":
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(c.body)), int64(len(c.body))
	}
	client := &bubble.Client{From: c.who.address}
	defer client.Close()
	resp, err := client.Send(protocol, r)
	if o.err = err; err != nil {
		return o
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if o.err = err; err != nil {
		return o
	}
	o.status, o.header, o.body = resp.StatusCode, resp.Header, string(body)
	return o
}

// stuck is a body that never comes.
type stuck struct{ gone context.Context }

func (s stuck) Read([]byte) (int, error) {
	<-s.gone.Done()
	return 0, s.gone.Err()
}
