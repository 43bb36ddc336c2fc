package world_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
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
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/vitals"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/wallclock"
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
	staging  *model.Homeserver // of the staging site
	vitals   vitals.Vitals     // at the end, with the module
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
	lacks        string   // of a write that isn't sent on: what the homeserver shows, and what it would after it, if they differ
	control      *outcome // of a real homeserver: what it says directly, if this is from memory
}

// at is the homeserver that a call is for.
func (r *run) at(c *call) *model.Homeserver {
	if c.staging {
		return r.staging
	}
	return r.hs
}

// ended is after all that happened.
func (r *run) ended() time.Time { return r.outcomes[len(r.outcomes)-1].ended.Add(hour) }

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
	r := &run{hs: found(p), staging: founded(p.dialect), began: time.Now()}
	for _, address := range []string{"localhost:8008", "localhost:8018", socket} {
		bubble.Behind(address, r.hs)
	}
	bubble.Behind("localhost:8009", r.staging)
	bubble.Behind("localhost:8010", gatekeeper{})
	st := &stage{plan: p, files: files, variant: v, run: r, journal: new(bubble.Journal), current: &p.site}
	if st.load(&p.site, bubble.Load); r.trouble != nil {
		return r
	}
	defer wallclock.Shift(0)
	for i, s := range p.steps {
		time.Sleep(time.Until(r.began.Add(s.at)))
		st.act(i, s)
	}
	st.under.Wait()
	r.hs.Become(nil)
	time.Sleep(2 * time.Minute) // for writes that wait
	r.hs.Rest()
	if !v.direct && r.trouble == nil {
		r.vitals, r.trouble = examine()
	}
	if err := bubble.Stop(); err != nil && r.trouble == nil {
		r.trouble = err
	}
	r.received = r.hs.Received()
	r.tokens, r.panics = st.journal.Found()
	for _, o := range r.outcomes {
		o.reloaded = slices.ContainsFunc(p.steps, func(s step) bool {
			at := r.began.Add(s.at)
			return s.reload != nil && at.After(o.began) && at.Before(o.ended)
		})
	}
	slices.SortStableFunc(r.outcomes, func(a, b *outcome) int { return a.step - b.step })
	return r
}

// stage is where a plan is being played.
type stage struct {
	plan    *plan
	files   [2]string // a certificate and its key
	variant variant
	run     *run
	journal *bubble.Journal
	current *site
	leapt   time.Duration // by the wall clock

	under sync.WaitGroup // requests and reloads
	mu    sync.Mutex     // guards the outcomes
}

// load has Caddy start, reload or restart.
func (st *stage) load(s *site, by func(caddyfile string, to *bubble.Journal) error) {
	err := by(s.caddyfile(!st.variant.direct, st.files[0], st.files[1]), st.journal)
	switch {
	case s.broken != "" && err == nil:
		st.run.trouble = errors.New("a broken configuration is loaded")
	case s.broken == "" && err != nil:
		st.run.trouble = err
	}
}

// act does what a step says. It doesn't wait for requests.
func (st *stage) act(i int, s step) {
	switch {
	case s.behind != nil:
		s.behind.do(st.run.hs)
	case s.mood != nil:
		st.run.hs.Become(s.mood.conduct)
	case s.reload != nil:
		if s.reload.broken == "" {
			st.current = s.reload
		}
		st.under.Go(func() { st.load(s.reload, bubble.Load) })
		synctest.Wait()
	case s.machine != nil && s.machine.restarts:
		st.load(st.current, bubble.Restart)
	case s.machine != nil:
		st.leapt += s.machine.leap
		wallclock.Shift(st.leapt)
	case s.call != nil && (st.variant.peaceful && s.call.who.hostile || s.call.staging && (st.variant.direct || !st.plan.site.staging)):
	case s.call != nil:
		at := st.current
		st.under.Go(func() { st.call(i, at, s.call) })
	}
}

// call sends a call, and perhaps once more after the time that a 429 says.
func (st *stage) call(i int, at *site, c *call) {
	add := func(again bool) *outcome {
		o := c.send(at, st.variant.protocol)
		o.step, o.again = i, again
		if strings.Contains(o.cacheStatus(), "detail=absorbed") {
			token, as := c.shows(st.plan.dialect)
			if lacks, now, then := st.run.hs.Lacks(token, as, c.body); lacks {
				o.lacks = fmt.Sprintf("%q, and with it %q", now, then)
			}
		}
		st.mu.Lock()
		defer st.mu.Unlock()
		st.run.outcomes = append(st.run.outcomes, o)
		return o
	}
	o := add(false)
	wait, err := strconv.Atoi(o.header.Get("Retry-After"))
	if !c.again || o.status != http.StatusTooManyRequests || err != nil {
		return
	}
	time.Sleep(time.Duration(wait) * time.Second)
	add(true)
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

// send sends a call to a site, and waits for its answer.
func (c *call) send(at *site, protocol bubble.Protocol) *outcome {
	if protocol == "" || c.staging || c.protocol == bubble.Raw {
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
	r, err := c.request(at, protocol)
	if o.err = err; err != nil {
		return o
	}
	client := &bubble.Client{From: c.who.address, Door: at.door}
	defer client.Close()
	if c.stuck {
		r.Body, r.ContentLength = io.NopCloser(stuck{ctx}), 10
	}
	resp, err := client.Send(protocol, r.WithContext(ctx))
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

// request makes the call's request to a site.
func (c *call) request(at *site, protocol bubble.Protocol) (*http.Request, error) {
	host, port := at.asked(c.elsewhere)
	escaped := at.prefix + c.path
	if c.staging {
		host, port, escaped = "example.com", "8080", c.path
	}
	r := &http.Request{
		Method: c.method, Host: host, Header: make(http.Header),
		URL: &url.URL{Scheme: "http", Host: host, RawPath: escaped, RawQuery: strings.Join(c.query, "&")},
	}
	if protocol.Secure() {
		r.URL.Scheme = "https"
	} else if port != "" {
		r.Host += ":" + port
		r.URL.Host = r.Host
	}
	var err error
	if r.URL.Path, err = url.PathUnescape(escaped); err != nil {
		return nil, err
	}
	for _, field := range c.fields {
		r.Header.Add(field[0], field[1])
	}
	content := io.Reader(strings.NewReader(c.body))
	if c.slow {
		half := len(c.body) / 2
		content = io.MultiReader(strings.NewReader(c.body[:half]), pause(2*time.Second), strings.NewReader(c.body[half:]))
	}
	// Caddy 2.11 has a race with bodies of unknown length that come late: requestBodyWithTrailers clears
	// what net/http's transferWriter reads.
	late := c.slow && c.body == "" && !testkit.Race
	if c.body == "" && !c.unknownLength && !c.zeroLength && !c.trailers && !late && !c.cutOff {
		return r, nil
	}
	r.Body, r.ContentLength = io.NopCloser(content), int64(len(c.body))
	if c.unknownLength || c.trailers || late {
		r.ContentLength = -1
	}
	if c.trailers {
		r.Trailer = http.Header{"X-Trailer": {"late"}}
	}
	if c.cutOff {
		r.Body, r.ContentLength = bubble.Truncated{Reader: content}, r.ContentLength+10
	}
	return r, nil
}

// pause is nothing, which comes late.
type pause time.Duration

func (p pause) Read([]byte) (int, error) {
	time.Sleep(time.Duration(p))
	return 0, io.EOF
}

// examine reads Caddy's metrics.
func examine() (vitals.Vitals, error) {
	client := &bubble.Client{From: net.IPv4(127, 0, 0, 1)}
	defer client.Close()
	r, err := http.NewRequest(http.MethodGet, "http://"+metricsHost+"/metrics", nil)
	if err != nil {
		return vitals.Vitals{}, err
	}
	resp, err := client.Send(bubble.HTTP1, r)
	if err != nil {
		return vitals.Vitals{}, fmt.Errorf("asking for the metrics: %w", err)
	}
	defer resp.Body.Close()
	return vitals.Parse(resp.Body)
}

// stuck is a body that never comes.
type stuck struct{ gone context.Context }

func (s stuck) Read([]byte) (int, error) {
	<-s.gone.Done()
	return 0, s.gone.Err()
}
