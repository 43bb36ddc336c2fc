package integration_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/counting"
)

// upstream stands between the sidecar and the homeserver and counts what the
// homeserver is asked.
type upstream struct {
	*counting.Hop

	mu      sync.Mutex
	queries []string // of syncs; guarded by mu
}

// newUpstream starts one. BeforeRead, unless nil, is called before a read is passed on.
func newUpstream(t *testing.T, base string, beforeRead func()) *upstream {
	t.Helper()
	u := new(upstream)
	hop, err := counting.Start(base, func(r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/sync"):
			u.mu.Lock()
			defer u.mu.Unlock()
			u.queries = append(u.queries, r.URL.RawQuery)
		case beforeRead != nil && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/presence/"):
			beforeRead()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hop.Stop)
	u.Hop = hop
	return u
}

// syncs are the queries of the syncs so far.
func (u *upstream) syncs() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.queries
}
