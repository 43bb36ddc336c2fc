package integration_test

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// upstream stands between the sidecar and the homeserver and counts what the
// homeserver is asked.
type upstream struct {
	URL string
	// reads, writes and preflights are those of presence.
	reads, writes, preflights, whoami, other atomic.Int64

	mu    sync.Mutex
	syncs []string // their queries; guarded by mu

	// beforeRead, unless nil, is called before a read is passed on.
	beforeRead func()
}

func newUpstream(t *testing.T, base string, beforeRead func()) *upstream {
	t.Helper()
	target, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{beforeRead: beforeRead}
	proxy := &httputil.ReverseProxy{
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0), // clients leave
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host
		},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.count(r)
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	u.URL = server.URL
	return u
}

func (u *upstream) count(r *http.Request) {
	switch {
	case strings.HasSuffix(r.URL.Path, "/sync"):
		u.other.Add(1)
		u.mu.Lock()
		u.syncs = append(u.syncs, r.URL.RawQuery)
		u.mu.Unlock()
	case strings.HasSuffix(r.URL.Path, "/account/whoami"):
		u.whoami.Add(1)
	case !strings.Contains(r.URL.Path, "/presence/"):
		u.other.Add(1)
	case r.Method == http.MethodPut:
		u.writes.Add(1)
	case r.Method == http.MethodOptions:
		u.preflights.Add(1)
	default:
		u.reads.Add(1)
		if u.beforeRead != nil {
			u.beforeRead()
		}
	}
}
