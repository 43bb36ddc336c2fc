package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

func TestReloadKeepsWhatIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{WriteLimit: &rate{Events: 1, Window: time.Hour}})
		p.hs.Presence[alice] = `{"presence":"offline"}`
		p.Get("bob-token", alice)
		p.Put("bob-token", bob, `{"presence":"online"}`)
		p.reload(&options{
			WriteLimit: &rate{Events: 2, Window: 2 * time.Hour, Burst: 1},
			Cache:      &caching{States: 77, Permissions: 77, TTL: 2 * time.Minute},
			Identity:   &identifying{Tokens: 77},
		})
		p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; hit; ttl=120")
		p.WantError(p.Put("bob-token", bob, `{"presence":"online"}`), 429, "M_LIMIT_EXCEEDED")
		p.WantCounts(map[string]int{"GET": 1, "whoami": 1})
	})
}

// What is in memory kept its end, so that identity ttl lowered from an hour to a minute had a
// token that ended elsewhere read on for the rest of the hour. Unknown tokens and denials likewise.
func TestLifetimesOfIdentitiesChangeAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lasting := func(ttl, rejected time.Duration) *options {
			return &options{
				Cache:    &caching{TTL: 24 * time.Hour},
				Identity: &identifying{TTL: time.Duration(ttl), RejectedTTL: ptr(rejected)},
			}
		}
		p := newProxy(t, lasting(time.Hour, time.Hour))
		p.hs.Tokens["locked"] = bob
		p.hs.locks("locked", 401, lockedBody)
		lookups := func(what string, want int) {
			t.Helper()
			before := p.hs.Count("whoami")
			for range 2 {
				p.Get("bob-token", alice)
				p.Get("made-up", alice)
				p.Get("locked", alice)
			}
			if got := p.hs.Count("whoami") - before; got != want {
				t.Errorf("%s: %d lookups, want %d", what, got, want)
			}
		}
		lookups("at first", 3)
		time.Sleep(30 * time.Minute)
		lookups("as long as they are good", 0)
		p.reload(lasting(time.Minute, time.Minute))
		lookups("lowered", 3)
		time.Sleep(30 * time.Minute)
		p.reload(lasting(time.Hour, time.Hour))
		lookups("raised", 0)
		p.reload(lasting(time.Hour, 0))
		lookups("rejections off", 4)
	})
}

// Of all that is remembered, and logged, nothing has a token in it, whatever it was shown for:
// access tokens, refresh tokens, made up, revoked, refused, of bridges.
func TestNoTokenIsRememberedOrLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const secret = "SECRETabcdefghijk"
		h := &options{SyncPresence: "limit", Homeserver: "synapse", RepeatWrites: "absorb", OverLimit: "coalesce", Preflight: "local"}
		p := newProxy(t, h)
		logs := p.logged()
		for n, userID := range []string{alice, bob, carol} {
			p.hs.Tokens[fmt.Sprint(secret, n)] = userID
		}
		p.hs.Tokens["as-"+secret] = "@bridge:example.com"
		p.hs.Tokens[secret+"-locked"] = "@locked:example.com"
		p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
			token := r.Header.Get("Authorization")
			switch {
			case r.URL.Path == clientAPI+"login", r.URL.Path == clientAPI+"register", r.URL.Path == clientAPI+"refresh":
				answer(w, 200, `{"user_id":"@alice:example.com","access_token":"`+secret+`0","refresh_token":"`+secret+`-r"}`)
			case token == "Bearer "+secret+"-locked":
				answer(w, 401, lockedBody)
			case token == "Bearer "+secret+"-down":
				return true, failed(502, errors.New("no connection"))
			case token == "Bearer "+secret+"-panic" && strings.HasSuffix(r.URL.Path, "whoami"):
				panic("bug")
			case token == "Bearer "+secret+"-odd":
				answer(w, 204, "")
			default:
				return false, nil
			}
			return true, nil
		})
		tokens := []string{secret + "0", secret + "1", secret + "2", "as-" + secret, secret + "-locked", secret + "-down", secret + "-panic", secret + "-odd", secret + "-made-up"}
		for range 2 {
			for _, token := range tokens {
				for _, query := range []string{"", "?user_id=@ghost:example.com", "?user_id=", "?access_token=" + token} {
					p.Do(behind("GET", statusPath(alice)+query, token, ""))
					p.Do(behind("PUT", statusPath(alice)+query, token, message(1)))
					p.Do(behind("PUT", statusPath(alice)+query, token, message(2)))
					p.Do(behind("GET", syncPath+query, token, ""))
				}
				for _, path := range []string{"login", "register", "refresh", "logout", "logout/all", "delete_devices"} {
					p.Do(behind("POST", clientAPI+path, token, `{"refresh_token":"`+secret+`-r"}`))
				}
				p.Do(behind("POST", "/oauth2/revoke", "", "token="+token))
			}
			time.Sleep(time.Hour) // nothing waits any more
			synctest.Wait()
		}
		found := testkit.Reachable(p.memory)
		for _, entry := range logs.All() {
			found = append(found, entry.Message, fmt.Sprint(entry.Fields))
		}
		if all := strings.Join(found, "\n"); !strings.Contains(all, lockedBody) && !strings.Contains(all, "@alice:example.com") {
			t.Error("the search finds nothing, so it proves nothing")
		} else if i := strings.Index(all, "SECRET"); i >= 0 {
			t.Errorf("a token is kept in clear: %.200q", all[max(0, i-100):])
		}
		if len(logs.All()) == 0 {
			t.Error("nothing was logged")
		}
	})
}
