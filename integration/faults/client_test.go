package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// seen is what a client saw of an answer.
type seen struct {
	status  int // 0: none came
	interim []int
	header  http.Header
	trailer http.Header
	body    string
	broken  bool // it broke off
	endless bool // there was no end to it, so the client left
}

// String is what the table shows.
func (s seen) String() string {
	switch {
	case s.status == 0:
		return "no answer"
	case s.broken:
		return fmt.Sprintf("%d, then broken off", s.status)
	case s.endless:
		return fmt.Sprintf("%d, endless", s.status)
	}
	return fmt.Sprint(s.status)
}

// failed tells that a homeserver answered that it can't, or didn't.
func (s seen) failed() bool { return s.broken || s.status == 0 || s.status >= 500 }

func (s seen) cacheStatus() string { return s.header.Get("Cache-Status") }

// excerpt is the body as an error shows it.
func (s seen) excerpt() string { return fmt.Sprintf("%.120q", s.body) }

// enough is how much a client takes of a body before it leaves.
const enough = 256 << 10

// client opens a connection for each request, so that it has none when it is done.
var client = &http.Client{
	Transport: &http.Transport{
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 20,
	},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// ask sends a request and returns what came back. A server that doesn't answer
// within the patience is an error, and so is a client that was cancelled.
func ask(ctx context.Context, r *http.Request) (seen, error) {
	ctx, cancel := context.WithTimeout(ctx, suite.Patience)
	defer cancel()
	var s seen
	var mu sync.Mutex // guards interim, which another goroutine appends to
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
			mu.Lock()
			defer mu.Unlock()
			s.interim = append(s.interim, code)
			return nil
		},
	})
	resp, err := client.Do(r.WithContext(ctx))
	if ctx.Err() != nil {
		return seen{}, fmt.Errorf("%s %s: %w", r.Method, r.URL.Path, ctx.Err())
	}
	mu.Lock()
	defer mu.Unlock()
	if err != nil {
		return s, nil
	}
	defer resp.Body.Close()
	s.status, s.header = resp.StatusCode, resp.Header
	body, err := io.ReadAll(io.LimitReader(resp.Body, enough))
	if ctx.Err() != nil {
		return seen{}, fmt.Errorf("%s %s: reading the body: %w", r.Method, r.URL.Path, ctx.Err())
	}
	s.body, s.broken, s.endless = string(body), err != nil, len(body) == enough
	s.trailer = resp.Trailer
	return s, nil
}

// newRequest is a client's request to a site.
func newRequest(base, method, path, token, body string) *http.Request {
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	r, err := http.NewRequest(method, base+path, content)
	if err != nil {
		panic(err) // all of it is ours
	}
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}

// difference tells in what a client's answer isn't the same as another's. What each
// answer has of its own is left out, and what the caller says.
func difference(got, want seen, apart ...string) error {
	switch {
	case got.String() != want.String():
		return fmt.Errorf("got %v, want %v", got, want)
	case !got.broken && !got.endless && got.body != want.body:
		return fmt.Errorf("got the body %s, want %s", got.excerpt(), want.excerpt())
	case !slices.Contains(apart, "interim") && !slices.Equal(got.interim, want.interim):
		return fmt.Errorf("got %d interim answers, want %d", len(got.interim), len(want.interim))
	case !slices.Contains(apart, "trailer") && !maps.EqualFunc(got.trailer, want.trailer, slices.Equal):
		return fmt.Errorf("got the trailer %v, want %v", got.trailer, want.trailer)
	}
	apart = append(apart, "Date", "Cache-Status")
	var errs []error
	for name := range merged(got.header, want.header) {
		if g, w := got.header[name], want.header[name]; !slices.Contains(apart, name) && !slices.Equal(g, w) {
			errs = append(errs, fmt.Errorf("got %s: %.60q, want %.60q", name, g, w))
		}
	}
	return errors.Join(errs...)
}

func merged(a, b http.Header) http.Header {
	both := maps.Clone(a)
	if both == nil {
		both = make(http.Header)
	}
	maps.Copy(both, b)
	return both
}
