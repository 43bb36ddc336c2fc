package differential_test

import (
	"errors"
	"net/http"
	"net/url"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// TestACredentialIsTheHomeserversUser spells credentials in all ways. Where the policy
// is sure of one, the homeserver must act for the same user; where it sees none,
// neither may the homeserver.
func TestACredentialIsTheHomeserversUser(t *testing.T) {
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		c := newCast(t, hs)
		f := newFront(t, c)
		f.prime(t, c)
		y := compareCredentials(t, c, f, counts().credentials, matrix.ParseCredential)
		y.report(t)
		t.Logf("credentials on %s: %d tried, %d sure, %d without a token, %d uncertain, %d broke a law",
			hs.Name, y.cases, y.of("sure of it"), y.of("no token"), y.of("uncertain"), len(y.violations))
		for _, class := range []string{"sure of it", "uncertain"} {
			if n := y.of(class); n < y.cases/8 {
				t.Errorf("only %d of %d are %q", n, y.cases, class)
			}
		}
	})
}

// A bridge's mistake in a user_id is a mistake in one request. Dendrite answers one
// that is no user of its own with M_UNKNOWN_TOKEN, as if the token were none.
func TestAUserWhoIsNoneDoesNotCostAnAppserviceItsToken(t *testing.T) {
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		c := newCast(t, hs)
		f := newFront(t, c)
		for _, user := range []string{"", "?user_id=@someone:elsewhere.test", "?user_id=" + url.QueryEscape(c.ghost), ""} {
			r := request{http.MethodGet, statusPath(c.seen[0].ID) + user, bearer(homeserver.ASToken), ""}
			direct, through := c.direct.send(t, r), f.wire.send(t, r)
			if direct.short() != through.short() {
				t.Errorf("%s: through the sidecar %s, by the homeserver %s", r, through, direct)
			}
		}
	})
}

type parser func(authorization []string, rawQuery string) (matrix.Credential, error)

func compareCredentials(t *testing.T, c *cast, f *front, cases int, parse parser) *tally {
	w := &reads{newTally(cases), t, grammar{source()}, c, f}
	known := make(map[matrix.Credential]answer)
	for range cases {
		user := pick(w.g, c.friend, c.friend, c.stranger, homeserver.User{ID: c.ghost, AccessToken: homeserver.ASToken}, homeserver.User{ID: c.ghost, AccessToken: homeserver.ASToken})
		s := w.g.credential(user.AccessToken, c.tokens(user.AccessToken), []string{c.ghost, c.ghost, user.ID, c.friend.ID, hs(c, "ghost_nobody")})
		w.credential(s, parse, known)
		// The same on a presence.
		w.compare(request{method: http.MethodGet, target: s.with(statusPath(pick(w.g, c.seen...).ID)), headers: s.headers})
		w.done(t)
	}
	return w.tally
}

func hs(c *cast, localpart string) string { return c.hs.UserID(localpart) }

func (w *reads) credential(s spelling, parse parser, known map[matrix.Credential]answer) {
	r := request{method: http.MethodGet, target: s.with(whoAmI), headers: s.headers}
	direct := w.c.direct.send(w.t, r)
	through := w.f.wire.send(w.t, r) // whoami passes through as everything else
	w.f.relay.take()
	if direct.short() != through.short() || direct.field("user_id") != through.field("user_id") {
		w.count("whoami: by the sidecar %s, by the homeserver itself %s", through.short(), direct.short())
	}

	// As the sidecar sees it.
	parsed, err := parsed(r)
	switch {
	case w.f.notHTTP(w.t, r, through, nil): // which refuses more than the parser
		w.count("no request to Go")
		return
	case err != nil:
		w.violate("%s is no request to Go (%v), but was answered by %s", r, err, through)
		return
	}
	credential, err := parse(parsed.Header["Authorization"], parsed.URL.RawQuery)
	switch {
	case err == nil:
		want, ok := known[credential]
		if !ok {
			want = w.ask(credential)
			known[credential] = want
		}
		if through.short() != want.short() || through.field("user_id") != want.field("user_id") || through.field("device_id") != want.field("device_id") {
			if disowned(r) && through.short() == "401 M_MISSING_TOKEN" {
				w.count("sure of it: but taken away by Connection")
				return
			}
			w.violate("sure of %+v: %s\nwhich is %s\nbut the homeserver says %s", credential, r, want, through)
			return
		}
		w.count("sure of it: %s", through.short())
	case errors.Is(err, matrix.ErrMissingToken):
		if through.short() != "401 M_MISSING_TOKEN" {
			w.violate("no token in %s\nbut the homeserver says %s", r, through)
		}
		w.count("no token: by both")
	default:
		w.count("uncertain: homeserver says %s", through.short())
	}
}

// ask asks the homeserver whose a credential is, as the sidecar does.
func (w *reads) ask(c matrix.Credential) answer {
	query := make(url.Values)
	if c.UserID != "" {
		query.Set("user_id", c.UserID)
	}
	if c.DeviceID != "" {
		query.Set(c.DeviceParameter, c.DeviceID)
	}
	return w.c.direct.send(w.t, request{http.MethodGet, whoAmI + "?" + query.Encode(), bearer(c.Token), ""})
}
