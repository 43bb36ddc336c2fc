package differential_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// TestTheUsualMistakesAreCaught puts a proxy with the usual mistakes in the sidecar's
// place: each comparison has to find them.
func TestTheUsualMistakesAreCaught(t *testing.T) {
	c := newCast(t, suite.Homeserver(t, "dendrite", homeserver.Options{}))
	f := newMistaken(t, c)
	f.spend(t, c)
	f.prime(t, c)
	const cases = 200
	for name, y := range map[string]*tally{
		"writes": compareWrites(t, c, f, cases),
		"reads":  compareReads(t, c, f, cases),
		"tokens": compareCredentials(t, c, f, cases, mistakenParser),
	} {
		t.Logf("%s: %d violations in %d cases", name, len(y.violations), y.cases)
		if len(y.violations) == 0 {
			t.Errorf("a proxy with mistakes passes the comparison of %s", name)
		}
	}
}

// mistaken recognises a presence by its cleaned, decoded, lower-case path, knows one
// version of it, and shows to everybody what one has seen.
type mistaken struct {
	owners   map[string]string // by token
	limited  map[string]bool   // users without a budget are true, others of the kind false
	memory   map[string]*httptest.ResponseRecorder
	upstream http.Handler
}

func newMistaken(t *testing.T, c *cast) *front {
	relay := newRelay(t, c.hs.URL)
	target, err := url.Parse(relay.URL)
	if err != nil {
		t.Fatal(err)
	}
	m := &mistaken{
		owners: make(map[string]string), limited: make(map[string]bool), memory: make(map[string]*httptest.ResponseRecorder),
		upstream: &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host
		}},
	}
	for _, user := range slices.Concat(c.writers(), c.seen, []homeserver.User{c.friend, c.stranger}) {
		m.owners[user.AccessToken] = user.ID
	}
	for _, user := range c.limited {
		m.limited[user.ID] = false
	}
	server := httptest.NewServer(m)
	t.Cleanup(server.Close)
	return &front{newClient(t, server.URL), relay, newBare(t)}
}

var mistakenRoute = regexp.MustCompile(`^/_matrix/client/v3/presence/(.*)/status$`)

func (m *mistaken) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	match := mistakenRoute.FindStringSubmatch(strings.ToLower(path.Clean(r.URL.Path)))
	if match == nil {
		m.upstream.ServeHTTP(w, r)
		return
	}
	user := match[1]
	credential, _ := mistakenParser(r.Header["Authorization"], r.URL.RawQuery)
	fail := func(status int, errcode string) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"errcode":%q}`, errcode)
	}
	switch kept := m.memory[user]; {
	case r.Method == http.MethodPut && m.owners[credential.Token] != user:
		fail(http.StatusForbidden, "M_FORBIDDEN")
	case r.Method == http.MethodPut && m.limited[user]:
		fail(http.StatusTooManyRequests, "M_LIMIT_EXCEEDED")
	case r.Method == http.MethodPut:
		if _, ok := m.limited[user]; ok {
			m.limited[user] = true
		}
		w.Header().Set("Cache-Status", "matrix_presence; fwd=method")
		m.upstream.ServeHTTP(w, r)
	case kept != nil:
		w.Header().Set("Cache-Status", "matrix_presence; hit")
		w.WriteHeader(kept.Code)
		_, _ = w.Write(kept.Body.Bytes())
	default:
		kept = httptest.NewRecorder()
		m.upstream.ServeHTTP(kept, r)
		if kept.Code == http.StatusOK {
			m.memory[user] = kept
		}
		w.WriteHeader(kept.Code)
		_, _ = w.Write(kept.Body.Bytes())
	}
}

// mistakenParser takes the first token that it finds.
func mistakenParser(authorization []string, rawQuery string) (matrix.Credential, error) {
	query, _ := url.ParseQuery(rawQuery)
	token := query.Get("access_token")
	if len(authorization) > 0 {
		if fields := strings.Fields(authorization[0]); len(fields) > 0 {
			token = fields[len(fields)-1]
		}
	}
	if token == "" {
		return matrix.Credential{}, matrix.ErrMissingToken
	}
	return matrix.Credential{Token: token, UserID: query.Get("user_id")}, nil
}
