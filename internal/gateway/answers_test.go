package gateway

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/scripted"
)

// What is packed in a way that we can't read, or is too much when it is unpacked, is no
// answer. The log says which way it was.
func TestAnswersThatCanNotBeUnpacked(t *testing.T) {
	for name, tc := range map[string]struct{ encoding, body, log string }{
		"another encoding": {"zstd", "x", "zstd"},
		"two encodings":    {"gzip, br", "x", "gzip, br"},
		"no gzip":          {"gzip", "x", "unpacking"},
		"cut off":          {"gzip", scripted.Zip(`{"user_id":"@alice:example.com"}`)[:20], "unpacking"},
		"a bomb":           {"gzip", scripted.Zip(`{"user_id":"@alice:example.com","x":"` + strings.Repeat("0", 20<<20) + `"}`), ""},
		"upper case":       {"GZIP", scripted.Zip("x"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, new(options))
			logs := p.logged()
			p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
				w.Header().Set("Content-Type", "application/json")
				w.Header().Set("Content-Encoding", tc.encoding)
				_, err := io.WriteString(w, tc.body)
				return true, err
			}
			p.WantError(p.Put("alice-token", alice, `{"presence":"online"}`), 502, "M_UNKNOWN")
			if entries := logs.All(); len(entries) != 1 || !strings.Contains(fmt.Sprint(entries[0].Fields["error"]), tc.log) {
				t.Errorf("logged %v", entries)
			}
		})
	}
}

// An error page of more than 64 KiB marked the presence as one that can't be kept, and took
// away what stale_if_error is there to show.
func TestLargeErrorTakesNothingAway(t *testing.T) {
	for _, status := range []int{500, 503, 403, 404} {
		testLargeError(t, status, 100_000)
	}
	for _, size := range []int{maxSubresponse - 1, maxSubresponse, maxSubresponse + 1} {
		testLargeError(t, 500, size)
	}
}

// testLargeError has a read be answered with an error of so many bytes.
func testLargeError(t *testing.T, status, size int) {
	synctest.Test(t, func(t *testing.T) {
		p := newStaleProxy(t)
		p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
			answer(w, status, strings.Repeat("x", size))
			return true, nil
		})
		for range 2 {
			resp := p.Get("bob-token", alice)
			if status >= 500 {
				p.Want(resp, 200, "", "matrix_presence; hit; ttl=-10; detail=stale-if-error")
			} else {
				p.Want(resp, status, "", "matrix_presence; fwd=bypass; detail=large")
			}
		}
		p.hs.AnswerBy(nil)
		p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; fwd=miss; stored")
	})
}

// The log says so once, and only where it is so.
func TestHandlerThatSeesLongerPathsOnlySaysSo(t *testing.T) {
	for name, tc := range map[string]struct {
		path   string
		status int
		also   string // a path that comes before
		warned int
	}{
		"handle_path":               {"/matrix/_matrix/client/v3/sync", 200, "", 1},
		"paths that somebody tries": {"/matrix/_matrix/client/v3/sync", 404, "", 0},
		"no presence":               {"/_matrix/client/v3/sync", 200, "", 0},
		"both":                      {"/matrix/_matrix/client/v3/sync", 200, statusPath(alice), 0},
		"another service":           {"/api/v1/things", 200, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, new(options))
			logs := p.logged()
			if tc.also != "" {
				p.Do(request("GET", tc.also, "bob-token", ""))
			}
			p.hs.AnswerBy(func(w http.ResponseWriter, _ *http.Request) (bool, error) {
				answer(w, tc.status, "{}")
				return true, nil
			})
			for range 3 * manyStrays {
				p.Do(request("GET", tc.path, "bob-token", ""))
			}
			if got := logs.Count("handle_path"); got != tc.warned {
				t.Errorf("logged %d times, want %d", got, tc.warned)
			}
		})
	}
}

// A field that the site needs and that doesn't fit is left out, and the log says so once.
func TestFieldThatDoesNotFitIsLogged(t *testing.T) {
	p := newProxy(t, new(options))
	logs := p.logged()
	p.gateway.site.Set, p.gateway.siteNames = []string{"X-Tenant"}, []string{"X-Tenant"}
	for range 3 {
		r := request("GET", statusPath(alice), "bob-token", "")
		r.Header.Set("X-Tenant", strings.Repeat("x", maxSiteField))
		p.Want(p.Do(r), 200, "", "")
	}
	if entries := logs.All(); len(entries) != 1 || entries[0].Fields["field"] != "X-Tenant" {
		t.Errorf("logged %v", entries)
	}
}
