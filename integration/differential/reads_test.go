package differential_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"reflect"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// TestWhatIsAnsweredFromMemoryIsTheHomeserversAnswer sends reads in all spellings to
// the homeserver and through a sidecar that remembers the presences, and refusals,
// that they are near to.
func TestWhatIsAnsweredFromMemoryIsTheHomeserversAnswer(t *testing.T) {
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		c := newCast(t, hs)
		f := newFront(t, c)
		f.prime(t, c)
		y := compareReads(t, c, f, counts().reads)
		y.report(t)
		t.Logf("reads on %s: %d tried, %d were of a presence, %d answered from memory, %d broke a law",
			hs.Name, y.cases, y.of("homeserver: a presence"), y.of("from memory: as"), len(y.violations))
		for _, class := range []string{"homeserver: a presence", "homeserver: none", "from memory"} {
			if n := y.of(class); n < y.cases/8 {
				t.Errorf("only %d of %d are %q", n, y.cases, class)
			}
		}
	})
}

// prime makes the sidecar remember what the friend and the stranger get.
func (f *front) prime(t *testing.T, c *cast) {
	t.Helper()
	for _, target := range c.seen {
		for _, viewer := range []homeserver.User{c.friend, c.stranger} {
			r := request{http.MethodGet, statusPath(target.ID), bearer(viewer.AccessToken), ""}
			f.send(t, r)
			if a, _ := f.send(t, r); !a.Hit() {
				t.Fatalf("%s: %s (%s), want a hit", r, a, a.CacheStatus())
			}
		}
	}
}

// rewritten is a request as a proxy in Go sends it on: in the origin form, and with
// what may not stand in a path escaped.
func rewritten(r request) (request, bool) {
	parsed, err := parsed(r)
	if err != nil {
		return r, false
	}
	out := *parsed.URL
	out.Scheme, out.Host = "http", "upstream"
	r.target = out.RequestURI()
	return r, true
}

// reads is a comparison of reads.
type reads struct {
	*tally
	t *testing.T
	g grammar
	c *cast
	f *front
}

func compareReads(t *testing.T, c *cast, f *front, cases int) *tally {
	w := &reads{newTally(cases), t, grammar{source()}, c, f}
	for range cases {
		target, viewer := pick(w.g, c.seen...), pick(w.g, c.friend, c.friend, c.stranger)
		r := request{method: w.g.method(http.MethodGet), target: w.g.target(target.ID), headers: bearer(viewer.AccessToken)}
		if w.g.chance(4) {
			s := w.g.credential(viewer.AccessToken, c.tokens(viewer.AccessToken), []string{viewer.ID, target.ID, c.ghost})
			r.headers, r.target = s.headers, s.with(r.target)
		}
		r.headers = append(r.headers, w.g.overrides(r.target)...)
		w.compare(r)
		w.done(t)
	}
	return w.tally
}

// presenceOf is what an answer says about a presence that stands still, or nil if it
// says nothing.
func presenceOf(a answer) any {
	var body struct {
		Presence  *string `json:"presence"`
		StatusMsg string  `json:"status_msg"`
	}
	if a.Status != http.StatusOK || json.Unmarshal(a.Body, &body) != nil || body.Presence == nil {
		return nil
	}
	return [...]string{*body.Presence, body.StatusMsg}
}

func (w *reads) compare(r request) {
	w.t.Helper()
	direct := w.c.direct.send(w.t, r)
	through, sent := w.f.send(w.t, r)
	want, got := presenceOf(direct), presenceOf(through)
	isHead := r.method == http.MethodHead && direct.Status == http.StatusOK
	if want != nil || isHead {
		w.count("homeserver: a presence")
	} else {
		w.count("homeserver: none")
	}
	alike := func() bool {
		return direct.Status == through.Status && reflect.DeepEqual(presenceOf(direct), got) && direct.field("errcode") == through.field("errcode")
	}
	if through.Hit() && !alike() {
		// The client's own spelling never gets to the homeserver.
		if as, ok := rewritten(r); ok && as.target != r.target {
			w.differ(r, "from memory: for a target that Go writes anew")
			r, direct = as, w.c.direct.send(w.t, as)
		}
	}
	switch {
	case through.Hit() && len(sent) > 0:
		w.violate("a hit was forwarded, too: %s\nas %q", r, sent)
	case through.Hit() && alike():
		w.count("from memory: as the homeserver answers")
	case through.Hit() && w.c.hs.Name == "dendrite" && r.method == http.MethodHead && direct.Status == http.StatusMethodNotAllowed:
		// The README says so: HEAD is answered like GET.
		w.count("from memory: HEAD, which Dendrite doesn't serve")
	case through.Hit():
		w.violate("not the homeserver's answer: %s\ngot from memory %s\nthe homeserver says %s", r, through, direct)
	case len(sent) == 0 && through.CacheStatus() == "" && len(through.Body) == 0 && elsewhere(r):
		w.count("for another host")
	case len(sent) == 0 && (got != nil || through.Status == http.StatusOK):
		w.violate("answered without the homeserver: %s\ngot %s\nthe homeserver says %s", r, through, direct)

	case w.f.notHTTP(w.t, r, through, sent):
		w.count("no request to Go")
	case len(sent) == 0 && through.Status == http.StatusUnauthorized && direct.Status == http.StatusUnauthorized:
		w.count("no or no good token: 401 by both")
	case len(sent) == 0 && through.Status == http.StatusUnauthorized && direct.Status == http.StatusMethodNotAllowed && r.method == http.MethodHead:
		w.count("no token: HEAD, which Dendrite doesn't serve")
	case len(sent) == 0 && (r.method == http.MethodPut || alike()):
		w.differ(r, "a write: refused with %s", through.short())
	case len(sent) == 0 && through.Status == http.StatusBadRequest && isOpaque(r.target):
		w.count("a target that is no path: refused")
	case len(sent) == 0:
		w.violate("refused without the homeserver: %s\ngot %s\nthe homeserver says %s", r, through, direct)
	case alike():
		w.count("forwarded: answered alike")
	default:
		// Go writes a target anew, and takes a field that Connection names away.
		w.differ(r, "forwarded: answered with %s, by the homeserver itself with %s", through.short(), direct.short())
	}
}

// isOpaque tells of a target that net/http reads as a scheme and something that is no
// path, "x:http://h/_matrix/…". The sidecar passes none on.
func isOpaque(target string) bool {
	u, err := url.ParseRequestURI(target)
	return err == nil && u.Opaque != ""
}
