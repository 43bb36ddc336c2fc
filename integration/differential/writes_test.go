package differential_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// TestWhatWritesOnTheHomeserverIsEnforced sends writes in all spellings to the
// homeserver, looks which of them had an effect, and sends the same through the
// sidecar: for users without a budget none may have one, and somebody else's
// token must not even get there.
func TestWhatWritesOnTheHomeserverIsEnforced(t *testing.T) {
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		c := newCast(t, hs)
		f := newFront(t, c)
		f.spend(t, c)
		y := compareWrites(t, c, f, counts().writes)
		y.report(t)
		t.Logf("writes on %s: %d tried, %d had an effect, %d were writes to the sidecar, %d broke a law",
			hs.Name, y.cases, y.of("homeserver: took it"), y.of("sidecar: a write"), len(y.violations))
		if took := y.of("homeserver: took it"); took < y.cases/8 {
			t.Errorf("only %d of %d had an effect on the homeserver", took, y.cases)
		}
	})
}

// writes is a comparison of writes.
type writes struct {
	*tally
	t *testing.T
	g grammar
	c *cast
	f *front

	// harmless are the numbers that a presence may show.
	harmless map[string]bool
}

func compareWrites(t *testing.T, c *cast, f *front, cases int) *tally {
	w := &writes{newTally(cases), t, grammar{source()}, c, f, make(map[string]bool)}
	for _, user := range c.writers() { // as they are
		w.harmless[c.status(t, user)] = true
	}
	for range cases {
		w.compare()
		w.done(t)
	}
	// What was late, or hit somebody else.
	for _, user := range c.writers() {
		if status := c.status(t, user); !w.harmless[status] {
			w.violate("%s has the status %q, which was not to have an effect", user.ID, status)
		}
	}
	return w.tally
}

func (w *writes) compare() {
	user := pick(w.g, w.c.writers()...)
	limited := slices.ContainsFunc(w.c.limited, func(u homeserver.User) bool { return u.ID == user.ID })
	r := request{method: w.g.method(http.MethodPut), target: w.g.target(user.ID), headers: bearer(user.AccessToken)}
	plain := !w.g.chance(4)
	if !plain {
		s := w.g.credential(user.AccessToken, w.c.tokens(user.AccessToken), []string{user.ID, w.c.stranger.ID, w.c.ghost})
		r.headers, r.target = s.headers, s.with(r.target)
	}
	r.headers = append(r.headers, w.g.overrides(r.target)...)

	// By the homeserver.
	first := nextNumber()
	w.harmless[first] = true
	r.body = stateWith(first)
	direct := w.c.direct.send(w.t, r)
	took := w.effect(user, first, direct)
	switch {
	case took:
		w.count("homeserver: took it")
	case acknowledged(direct):
		w.violate("acknowledged, but without an effect: %s", r)
	default:
		w.count("homeserver: not a write")
	}

	// Through the sidecar.
	second := nextNumber()
	if !limited {
		w.harmless[second] = true
	}
	r.body = stateWith(second)
	through, sent := w.f.send(w.t, r)
	applied := len(sent) > 0 && w.effect(user, second, through)
	notHTTP := w.f.notHTTP(w.t, r, through, sent)
	taken := strings.Contains(through.CacheStatus(), "fwd=method") // for a write
	who := "exempt user"
	if limited {
		who = "user without a budget"
	}
	if r.method == http.MethodPut && (taken || len(sent) == 0 && !notHTTP && !elsewhere(r)) {
		w.count("sidecar: a write")
	} else {
		w.count("sidecar: not a write")
	}
	switch {
	case applied && limited:
		w.violate("a write without a budget had an effect: %s\nwas forwarded as %q\nand answered by %s", r, sent, through)
	case applied && !taken:
		w.violate("a write had an effect but was not taken for one: %s\nwas forwarded as %q\nand answered by %s", r, sent, through)
	case applied && took:
		w.count("%s: taken by both", who)
	case applied:
		// Go writes a target anew: bytes that the homeserver refuses it escapes.
		w.differ(r, "%s: taken only after Go has written it anew", who)
	case took && disowned(r) && through.short() == "401 M_MISSING_TOKEN":
		w.count("%s: taken by the homeserver, by the sidecar without the token that Connection took away", who)
	case took && len(sent) > 0:
		w.violate("a write that the homeserver takes was forwarded in vain: %s\nas %q\nand answered by %s", r, sent, through)
	case took && notHTTP:
		w.count("%s: taken by the homeserver, no request to Go", who)
	case took && (limited || through.short() == "401 M_MISSING_TOKEN"):
		w.count("%s: taken by the homeserver, refused by the sidecar with %s", who, through.short())
	case took:
		w.violate("a write that the homeserver takes was lost: %s\nanswered by %s", r, through)
	case notHTTP:
		w.count("taken by nobody: no request to Go")
	case len(sent) == 0 && elsewhere(r):
		w.count("taken by nobody: for another host")
	case len(sent) == 0:
		w.count("taken by nobody: refused by the sidecar with %s", through.short())
	case direct.short() == through.short():
		w.count("taken by nobody: answered alike")
	default:
		w.differ(r, "taken by nobody: answered with %s, by the homeserver itself with %s", through.short(), direct.short())
	}

	if took && plain {
		w.foreign(r)
	}
}

// foreign sends a write, which had an effect, with the token of a stranger.
func (w *writes) foreign(r request) {
	third := nextNumber()
	r.headers = append(bearer(w.c.stranger.AccessToken), r.headers[1:]...)
	r.body = stateWith(third)
	through, sent := w.f.send(w.t, r)
	switch {
	case len(sent) > 0:
		w.violate("a foreign write was forwarded: %s\nas %q\nand answered by %s", r, sent, through)
	case w.f.notHTTP(w.t, r, through, sent):
		w.count("foreign write: no request to Go")
	case through.short() == "403 M_FORBIDDEN" || through.short() == "401 M_MISSING_TOKEN":
		w.count("foreign write: refused with %s", through.short())
	default:
		w.violate("a foreign write was answered by %s: %s", through, r)
	}
}

// acknowledged tells the answer to a write that was taken.
func acknowledged(a answer) bool { return a.Status == http.StatusOK && string(a.Body) == "{}" }

// effect reports whether a number shows in a user's presence.
func (w *writes) effect(user homeserver.User, number string, a answer) bool {
	w.t.Helper()
	status := w.c.status(w.t, user)
	if status != number && acknowledged(a) { // on Dendrite it is on its way
		if w.c.shows(w.t, user, number) {
			return true
		}
		status = w.c.status(w.t, user)
	}
	if !w.harmless[status] && status != number {
		w.violate("%s has the status %q, which was not to have an effect", user.ID, status)
		w.harmless[status] = true
	}
	return status == number
}
