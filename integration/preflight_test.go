package integration_test

import (
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/protocol"
)

// TestPreflightsAreTheHomeserversOwn: answered locally, a preflight has every field that
// a browser looks at as the homeserver itself sends it, and for how long that holds.
func TestPreflightsAreTheHomeserversOwn(t *testing.T) {
	eachProtocol(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver, p protocol.Protocol) {
		c := newCast(t, hs)
		up := newUpstream(t, hs.URL, nil)
		s := siteOver(t, p, up.URL, "preflight local")

		ask := func(base, method, path string) answer {
			t.Helper()
			r, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, base+c.request(get(path, "")).path, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Origin", "https://app.example.com")
			r.Header.Set("Access-Control-Request-Method", method)
			r.Header.Set("Access-Control-Request-Headers", "authorization")
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.ContentLength > 0 {
				t.Errorf("a preflight's answer with a body of %d bytes", resp.ContentLength)
			}
			return answer{resp.StatusCode, resp.Header, nil}
		}
		cors := func(a answer) http.Header {
			fields := make(http.Header)
			for name, values := range a.header {
				if strings.HasPrefix(name, "Access-Control-") && name != "Access-Control-Max-Age" {
					fields[name] = values
				}
			}
			return fields
		}
		for _, method := range []string{"GET", "PUT"} {
			direct := ask(hs.URL, method, ofAlice)
			if direct.status/100 != 2 || len(cors(direct)) < 3 {
				t.Fatalf("by the homeserver: %d %v", direct.status, direct.header)
			}
			for n, path := range []string{ofAlice, ofAlice, ofBob} {
				through := ask(s.URL, method, path)
				expectSame(t, direct, through)
				if d, s := cors(direct), cors(through); !reflect.DeepEqual(d, s) {
					t.Errorf("through the sidecar: %v\nby the homeserver:  %v", s, d)
				}
				if got := through.header.Get("Access-Control-Max-Age"); got != "7200" {
					t.Errorf("%s preflight %d: Access-Control-Max-Age %q", method, n, got)
				}
				if through.hit() != (n > 0) {
					t.Errorf("%s preflight %d: Cache-Status %q", method, n, through.cacheStatus())
				}
			}
		}
		if n := up.Counts().Preflights; n != 2 {
			t.Errorf("the homeserver got %d preflights, want one of each kind", n)
		}
	})
}
