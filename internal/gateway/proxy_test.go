package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/scripted"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// options are what tests configure, by the names and words of a Caddyfile. What is left out
// has its default.
type options struct {
	Mode, RepeatWrites, OverLimit, SyncPresence, Homeserver, Preflight, BrownOut string

	WriteLimit, ReadLimit, SyncLimit *rate
	Exempt                           []string
	Classes                          []userClass
	Refresh                          time.Duration
	Coalesce                         *waiting
	Cache                            *caching
	Identity                         *identifying
	MaxBody                          int64
	PresenceValues                   []string
	LearnOff                         bool
	ExcludeRooms                     []string
}

type rate struct {
	Off    bool
	Events int
	Window time.Duration
	Burst  int
}

type userClass struct {
	Name                             string
	Match                            []string
	WriteLimit, ReadLimit, SyncLimit *rate
	RepeatWrites, OverLimit          string
}

type waiting struct {
	Pending int
	MaxAge  time.Duration
}

type caching struct {
	Off                  bool
	States, Permissions  int
	TTL, StaleIfError    time.Duration
	LiveTTL              time.Duration // of a feed
	ForbiddenTTL, Settle *time.Duration
	PerViewer            bool
}

type identifying struct {
	Tokens        int
	TTL, Timeout  time.Duration
	RejectedTTL   *time.Duration
	RejectedLimit *rate
}

func ptr(d time.Duration) *time.Duration { return &d }

// settings returns the settings that a configuration with these options has.
func (o *options) settings(t testing.TB) *Settings {
	t.Helper()
	s := Defaults()
	s.Observe, s.Preflight, s.BrownOut = o.Mode == "observe", o.Preflight == "local", o.BrownOut == "on"
	s.SyncPresence, s.Dialect = SyncModes[o.SyncPresence], Dialects[o.Homeserver]
	s.PresenceValues, s.Learn, s.ExcludeRooms = o.PresenceValues, !o.LearnOff, o.ExcludeRooms
	set(&s.Refresh, o.Refresh)
	set(&s.MaxBody, o.MaxBody)
	if o.Coalesce != nil {
		set(&s.Coalesce.Pending, o.Coalesce.Pending)
		set(&s.Coalesce.MaxAge, o.Coalesce.MaxAge)
	}
	if c := o.Cache; c != nil {
		s.Cached, s.Rules.PerViewer = !c.Off, c.PerViewer
		set(&s.Sizes.States, c.States)
		set(&s.Sizes.Permissions, c.Permissions)
		set(&s.Rules.TTL, c.TTL)
		set(&s.Rules.LiveTTL, c.LiveTTL)
		set(&s.Rules.StaleIfError, c.StaleIfError)
		setTo(&s.Rules.ForbiddenTTL, c.ForbiddenTTL)
		setTo(&s.Settle, c.Settle)
	}
	if i := o.Identity; i != nil {
		set(&s.Sizes.Tokens, i.Tokens)
		set(&s.Lifetimes.Identity, i.TTL)
		set(&s.IdentityTimeout, i.Timeout)
		setTo(&s.Lifetimes.UnknownToken, i.RejectedTTL)
		i.RejectedLimit.set(t, &s.RejectedLimit)
	}
	everybody := userClass{"", nil, o.WriteLimit, o.ReadLimit, o.SyncLimit, o.RepeatWrites, o.OverLimit}
	everybody.set(t, s.Everybody)
	for _, given := range o.Classes {
		c := *s.Everybody
		given.set(t, &c)
		s.Classes = append(s.Classes, &c)
	}
	s.Exempt = patterns(t, o.Exempt)
	s.Complete()
	return s
}

func (c userClass) set(t testing.TB, dst *Class) {
	c.WriteLimit.set(t, &dst.WriteLimit)
	c.ReadLimit.set(t, &dst.ReadLimit)
	c.SyncLimit.set(t, &dst.SyncLimit)
	dst.Match = patterns(t, c.Match)
	dst.Absorb = c.RepeatWrites == "absorb" || c.RepeatWrites == "" && dst.Absorb
	dst.Coalesce = (c.OverLimit == "coalesce" || c.OverLimit == "" && dst.Coalesce) && dst.WriteLimit != nil
}

func (r *rate) set(t testing.TB, dst **policy.Limit) {
	switch {
	case r == nil:
	case r.Off:
		*dst = nil
	default:
		limit, err := policy.NewLimit(r.Events, r.Window, r.Burst)
		if err != nil {
			t.Fatal(err)
		}
		*dst = &limit
	}
}

func patterns(t testing.TB, texts []string) (parsed []matrix.UserPattern) {
	for _, text := range texts {
		pattern, err := matrix.ParseUserPattern(text)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, pattern)
	}
	return parsed
}

// set sets what is given.
func set[T comparable](dst *T, given T) {
	if given != *new(T) {
		*dst = given
	}
}

func setTo[T any](dst *T, given *T) {
	if given != nil {
		*dst = *given
	}
}

// proxy is a gateway in front of a scripted homeserver.
type proxy struct {
	*scripted.Client
	t       testing.TB
	gateway *Gateway
	memory  *Store
	hs      *homeserver

	// answers are the times that the homeserver took, by reason.
	answers map[string]*observed

	// all are the gateways of the memory.
	all *[]*Gateway
}

// newProxy returns one with a memory of its own.
func newProxy(t testing.TB, o *options) *proxy {
	t.Helper()
	set := o.settings(t)
	answers := make(map[string]*observed)
	latency := func(reason string) Observer {
		answers[reason] = new(observed)
		return answers[reason]
	}
	m := NewStore(set.Sizes, latency, func(any) {})
	p := &proxy{t: t, memory: m, answers: answers, hs: &homeserver{scripted.New()}, all: new([]*Gateway)}
	p.Client = p.client()
	p.begin(set)
	return p
}

// homeserver is a scripted one with what the tests of this package need besides.
type homeserver struct{ *scripted.Homeserver }

const (
	alice = scripted.Alice
	bob   = scripted.Bob
	carol = scripted.Carol
)

var (
	request    = scripted.Request
	statusPath = scripted.StatusPath
	bodyOf     = scripted.Body
	answer     = scripted.Answer
)

// client returns a client of p. An error of a request becomes the response's status, as a
// server does it.
func (p *proxy) client() *scripted.Client {
	return &scripted.Client{T: p.t, HS: p.hs.Homeserver, Do: func(r *http.Request) *http.Response {
		p.t.Helper()
		recorder, r := httptest.NewRecorder(), prepared(r)
		next := &sentOn{own: stateOf(r), next: p.hs}
		defer next.check(p.t)
		if err := p.gateway.Serve(recorder, r, next); err != nil {
			status := statusOf(testServer{}, err)
			if status == 0 {
				p.t.Fatalf("%s %s: an error without a status: %v", r.Method, r.URL, err)
			}
			recorder.WriteHeader(status)
		}
		return recorder.Result()
	}}
}

// sentOn is the next handler of a client's request. It checks that nothing is written among its
// variables once it has been sent on: see inHand.
type sentOn struct {
	own  *state
	next Next
	vars map[string]any // when it was sent on
}

func (s *sentOn) ServeHTTP(w http.ResponseWriter, r *http.Request) error {
	if stateOf(r) == s.own {
		s.vars = maps.Clone(s.own.vars)
	}
	return s.next.ServeHTTP(w, r)
}

func (s *sentOn) check(t testing.TB) {
	if s.vars != nil && !maps.Equal(s.vars, s.own.vars) {
		t.Errorf("variables when the request was sent on: %v, and when it was over: %v", s.vars, s.own.vars)
	}
}

// begin gives p a gateway with these settings.
func (p *proxy) begin(set *Settings) {
	logger, _ := testkit.NewLogs(slog.LevelError + 1)
	g := NewGateway(set, p.memory, testServer{}, new(SiteFields), logger)
	p.gateway = g
	*p.all = append(*p.all, g)
	p.update()
	p.t.Cleanup(func() { p.end(g) })
}

// end ends a gateway as Caddy ends a configuration.
func (p *proxy) end(g *Gateway) {
	g.Flush()
	*p.all = slices.DeleteFunc(*p.all, func(other *Gateway) bool { return other == g })
	p.update()
}

func (p *proxy) update() {
	var all []*Settings
	for _, g := range *p.all {
		all = append(all, g.Settings())
	}
	p.memory.WatchFor(all)
}

// reload puts a gateway in the place of p's, as Caddy does: the new one begins before the old
// one ends.
func (p *proxy) reload(o *options) {
	p.t.Helper()
	old := p.gateway
	p.begin(o.settings(p.t))
	p.end(old)
}

// beside returns another gateway of the same memory before the same homeserver.
func (p *proxy) beside(o *options) *proxy {
	p.t.Helper()
	other := *p
	other.Client = other.client()
	other.begin(o.settings(p.t))
	return &other
}

// logged has what a gateway logs noted.
func (p *proxy) logged() *testkit.Logs {
	logger, logs := testkit.NewLogs(slog.LevelInfo)
	p.gateway.logger = logger
	return logs
}

// observed counts what it is told.
type observed struct{ n atomic.Int64 }

func (o *observed) Observe(float64) { o.n.Add(1) }

// samples are what has been counted, and how many times of the homeserver, by metric and label values in the order of the
// labels' names: "outcomes_total hit read".
func (p *proxy) samples() map[string]float64 {
	values := make(map[string]float64)
	p.memory.Samples(func(metric *Metric, value float64, labels ...string) {
		names := slices.Clone(metric.Labels)
		slices.Sort(names)
		key := metric.Name
		for _, name := range names {
			key += " " + labels[slices.Index(metric.Labels, name)]
		}
		values[key] = value
	})
	for reason, times := range p.answers {
		values["upstream_seconds "+reason] = float64(times.n.Load())
	}
	return values
}

// testServer is a web server that knows of a request what prepared has noted.
type testServer struct{}

type state struct {
	vars     map[string]any
	clientIP string
	fields   []string // that tell a client's address
	upstream bool
}

type stateKey struct{}

// prepared makes a request one that a server has read.
func prepared(r *http.Request) *http.Request {
	address, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		address = r.RemoteAddr
	}
	return r.WithContext(context.WithValue(r.Context(), stateKey{}, &state{vars: make(map[string]any), clientIP: address}))
}

func stateOf(r *http.Request) *state {
	if s, ok := r.Context().Value(stateKey{}).(*state); ok {
		return s
	}
	return new(state)
}

func (testServer) ClientIP(r *http.Request) string          { return stateOf(r).clientIP }
func (testServer) ClientIPHeaders(r *http.Request) []string { return stateOf(r).fields }
func (testServer) Var(r *http.Request, name string) any     { return stateOf(r).vars[name] }
func (testServer) ProxyMark(*http.Request) (any, bool)      { return nil, false }
func (testServer) HasUpstream(r *http.Request) bool         { return stateOf(r).upstream }
func (testServer) UpstreamStatus(*http.Request) int         { return 0 }
func (testServer) IsUnconnected(error) bool                 { return false }

func (testServer) SetVar(r *http.Request, name string, value any) {
	if vars := stateOf(r).vars; vars != nil {
		vars[name] = value
	}
}

// SetLateVar implements Server. It does without placeholders.
func (testServer) SetLateVar(*http.Request, string, any) {}

func (testServer) Status(err error) (status int, ok bool) {
	failure, ok := errors.AsType[*serverError](err)
	if !ok {
		return 0, false
	}
	return failure.status, true
}

func (s testServer) Route(r *http.Request, next Next, more Variable) Route {
	own := *stateOf(r)
	own.vars = maps.Clone(own.vars) // the client's request may write into it meanwhile
	if own.vars == nil {
		own.vars = make(map[string]any)
	}
	own.vars[more.Name] = more.Value
	return testRoute{own, next, context.WithoutCancel(r.Context())}
}

type testRoute struct {
	state
	next   Next
	client context.Context
}

func (r testRoute) ClientIP() string         { return r.clientIP }
func (r testRoute) Context() context.Context { return r.client }

func (r testRoute) Prepare(w http.ResponseWriter, request *http.Request) Prepared {
	own := r.state
	own.vars = maps.Clone(own.vars)
	return testPrepared{r.next, w, request.WithContext(context.WithValue(request.Context(), stateKey{}, &own))}
}

type testPrepared struct {
	next    Next
	w       http.ResponseWriter
	request *http.Request
}

func (p testPrepared) Send() error      { return p.next.ServeHTTP(p.w, p.request) }
func (p testPrepared) Proxied() Proxied { return Proxied{Done: true} }

// serverError is an error of the server's that gives an answer a status.
type serverError struct {
	status int
	err    error
}

// failed returns an error of a next handler.
func failed(status int, err error) error { return &serverError{status, err} }

func (e *serverError) Error() string { return fmt.Sprint(e.status, " ", e.err) }
func (e *serverError) Unwrap() error { return e.err }

// nextFunc is a next handler.
type nextFunc func(w http.ResponseWriter, r *http.Request) error

func (f nextFunc) ServeHTTP(w http.ResponseWriter, r *http.Request) error { return f(w, r) }
