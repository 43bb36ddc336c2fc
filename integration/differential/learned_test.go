package differential_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

const v3 = "/_matrix/client/v3/"

// learning has the sidecar learn from what passes, and ask whose a token is again after a moment.
const learning = `
matrix_presence {
	write_limit off
	read_limit off
	homeserver %s
	learn on
	cache {
		ttl 1h
		forbidden_ttl 1h
	}
	identity {
		ttl 1h
	}
}
reverse_proxy `

// TestWhatTheHomeserverServesToItsUserOnly tries what the sidecar takes for a proof of whose a token
// is: made up, of another, ended or locked it must not be served.
func TestWhatTheHomeserverServesToItsUserOnly(t *testing.T) {
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		c := newCast(t, hs)
		dialect := map[string]matrix.Dialect{"synapse": matrix.Synapse, "dendrite": matrix.Dendrite}[hs.Name]
		room, err := hs.Client().Room(t.Context(), c.friend, c.stranger)
		if err != nil {
			t.Fatal(err)
		}
		room = url.PathEscape(room)
		own := func(user homeserver.User) []request {
			user.ID = url.PathEscape(user.ID)
			return []request{
				{method: "POST", target: v3 + "user/" + user.ID + "/filter", body: "{}"},
				{method: "PUT", target: v3 + "user/" + user.ID + "/account_data/x", body: "{}"},
				{method: "GET", target: v3 + "user/" + user.ID + "/account_data/x"},
				{method: "PUT", target: v3 + "user/" + user.ID + "/rooms/" + room + "/account_data/x", body: "{}"},
				{method: "GET", target: v3 + "user/" + user.ID + "/rooms/" + room + "/account_data/x"},
			}
		}
		anybodys := []request{
			{method: "GET", target: statusPath(c.friend.ID)},
			{method: "GET", target: v3 + "sync?timeout=0"},
			{method: "GET", target: v3 + "rooms/" + room + "/members"},
			{method: "GET", target: v3 + "rooms/" + room + "/joined_members"},
		}
		served := func(r request, token string) bool {
			r.headers = bearer(token)
			return c.direct.send(t, r).Status == http.StatusOK
		}
		for _, r := range append(own(c.friend), anybodys...) {
			if !served(r, c.friend.AccessToken) {
				t.Errorf("%s is not served to its user", r)
			}
			if served(r, madeUp(c.friend.AccessToken)) || served(r, "made-up") {
				t.Errorf("%s is served to a token that nobody has given out", r)
			}
		}
		for _, r := range own(c.friend) {
			route, ok := matrix.ParseOwnRoute(r.method, r.target)
			if !ok || route.UserID != c.friend.ID || !route.Proves(dialect) {
				t.Errorf("%s: %+v, %v", r, route, ok)
			}
			if served(r, c.stranger.AccessToken) {
				t.Errorf("%s is served to another user", r)
			}
		}
		ended, err := hs.Login(t.Context(), c.friend.ID, "a password")
		if err != nil {
			t.Fatal(err)
		}
		c.direct.send(t, request{"POST", v3 + "logout", bearer(ended.AccessToken), "{}"})
		for _, r := range append(own(c.friend), anybodys...) {
			if served(r, ended.AccessToken) {
				t.Errorf("%s is served to a token that has ended", r)
			}
		}
	})
}

// madeUp is a token that reads like another: of the same form, and naming the same user.
func madeUp(token string) string {
	begin, _, _ := strings.Cut(token[4:], "_")
	return "syt_" + begin + "_AAAAAAAAAAAAAAAAAAAA_AAAAAA"
}

// Synapse's own tokens name their users, however they were got, and no other homeserver's do.
func TestTokensNameTheUserWhoseTheyAre(t *testing.T) {
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		c := newCast(t, hs)
		admin, err := hs.Client().RegisterAdmin(t.Context(), fmt.Sprint("admin-", casts.Add(1)), "a password")
		if err != nil {
			t.Fatal(err)
		}
		tokens := map[string]string{"registered": c.friend.AccessToken, "with all signs": c.seen[1].AccessToken}
		get := func(name, path, token, body string) {
			a := c.direct.send(t, request{"POST", path, bearer(token), body})
			var issued struct {
				AccessToken  string `json:"access_token"`
				RefreshToken string `json:"refresh_token"`
			}
			if err := json.Unmarshal(a.Body, &issued); err != nil || issued.AccessToken == "" {
				t.Logf("%s: %s gives out no token: %s", name, hs.Name, a)
				return
			}
			tokens[name] = issued.AccessToken
			if issued.RefreshToken != "" {
				tokens["refreshed"] = c.refresh(t, issued.RefreshToken)
			}
		}
		login := fmt.Sprintf(`{"type":"m.login.password","identifier":{"type":"m.id.user","user":%q},"password":"a password","refresh_token":true}`, c.seen[0].ID)
		get("login", v3+"login", "", login)
		get("an appservice's ghost", v3+"login", homeserver.ASToken,
			fmt.Sprintf(`{"type":"m.login.application_service","identifier":{"type":"m.id.user","user":%q}}`, c.ghost))
		get("an admin as a user", "/_synapse/admin/v1/users/"+url.PathEscape(c.friend.ID)+"/login", admin.AccessToken, "{}")
		for name, token := range tokens {
			who, err := hs.Client().Whoami(t.Context(), token)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			localpart, ok := matrix.TokenLocalpart(token)
			if ok != (hs.Name == "synapse") || ok && hs.UserID(localpart) != who.ID {
				t.Errorf("%s: a token of %s names %q, %v", name, who.ID, localpart, ok)
			}
		}
	})
}

func (c *cast) refresh(t *testing.T, token string) string {
	t.Helper()
	a := c.direct.send(t, request{"POST", v3 + "refresh", nil, fmt.Sprintf(`{"refresh_token":%q}`, token)})
	if a.field("access_token") == "" {
		t.Fatalf("refreshing: %s", a)
	}
	return a.field("access_token")
}

var ago = regexp.MustCompile(`"last_active_ago":\d+`)

// withoutAgo returns a body without its last_active_ago, and that.
func withoutAgo(t *testing.T, body []byte) (rest string, active time.Duration) {
	t.Helper()
	found := ago.Find(body)
	if found == nil {
		return string(body), 0
	}
	ms, err := strconv.Atoi(strings.TrimPrefix(string(found), `"last_active_ago":`))
	if err != nil {
		t.Fatal(err)
	}
	return ago.ReplaceAllString(string(body), `"last_active_ago":`), time.Duration(ms) * time.Millisecond
}

// TestWhatWasLearnedIsAnsweredAsTheHomeserverDoes opens a room as several users do. From the second on
// nothing is asked for that passes by, and each answer is the homeserver's.
func TestWhatWasLearnedIsAnsweredAsTheHomeserverDoes(t *testing.T) {
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		c := newCast(t, hs)
		f := newFrontWith(t, c, fmt.Sprintf(learning, hs.Name))
		everybody := append(append(c.writers(), c.seen...), c.friend)
		room, err := hs.Client().Room(t.Context(), c.friend, everybody[:len(everybody)-1]...)
		if err != nil {
			t.Fatal(err)
		}
		for _, list := range []string{"joined_members", "members?not_membership=leave", "members"} {
			asked := make(map[string]int)
			for _, viewer := range everybody {
				a, _ := f.send(t, request{"GET", v3 + "rooms/" + url.PathEscape(room) + "/" + list, bearer(viewer.AccessToken), ""})
				if a.Status != http.StatusOK {
					t.Fatalf("%s: %s", list, a)
				}
				for _, target := range everybody {
					r := request{"GET", statusPath(target.ID), bearer(viewer.AccessToken), ""}
					through, sent := f.send(t, r)
					asked[viewer.ID] += len(sent)
					compareLearned(t, r, through, c.direct.send(t, r))
				}
			}
			t.Logf("%s, %s: the users asked %v", hs.Name, list, asked)
			if last := everybody[len(everybody)-1].ID; asked[last] > 0 {
				t.Errorf("%s: the last to open the room asked %d times", list, asked[last])
			}
		}
		// Who isn't in there sees what the homeserver shows them.
		for _, target := range everybody {
			r := request{"GET", statusPath(target.ID), bearer(c.stranger.AccessToken), ""}
			through, _ := f.send(t, r)
			compareLearned(t, r, through, c.direct.send(t, r))
		}
	})
}

// compareLearned compares an answer with the homeserver's own, which came just after it.
func compareLearned(t *testing.T, r request, through, direct answer) {
	t.Helper()
	got, activeAsWeSay := withoutAgo(t, through.Body)
	want, active := withoutAgo(t, direct.Body)
	if through.Status != direct.Status || got != want || active-activeAsWeSay > 10*time.Second || activeAsWeSay-active > time.Second {
		t.Errorf("%s\nthrough the sidecar %s\nby the homeserver %s", r, through, direct)
	}
}

// TestSynapseGivesTheAnswerToASyncAgain tries for which syncs Synapse keeps an answer, for whoever asks for the same batch:
// each has to be noted, or what comes later would teach what was true before.
func TestSynapseGivesTheAnswerToASyncAgain(t *testing.T) {
	hs := suite.Homeserver(t, "synapse", homeserver.Options{})
	c := newCast(t, hs)
	headers := bearer(c.friend.AccessToken)
	sync := func(format, batch string) request {
		return request{"GET", v3 + "sync?timeout=0&" + fmt.Sprintf(format, batch), headers, ""}
	}
	again, timeout := make(map[string]bool), 0
	for name, odd := range map[string]func(batch string) request{
		"the same":             func(batch string) request { return sync("since=%s", batch) },
		"an unknown parameter": func(batch string) request { return sync("since=%s&x=1", batch) },
		"another batch after":  func(batch string) request { return sync("since=%s&since=x", batch) },
		"an escaped name":      func(batch string) request { return sync("%%73ince=%s", batch) },
		"another separator":    func(batch string) request { return sync("x=1;since=%s", batch) },
		"users that are named": func(batch string) request { return sync("since=%s&user_id=@a:x&user_id=@b:x", batch) },
		"a HEAD":               func(batch string) request { r := sync("since=%s", batch); r.method = "HEAD"; return r },
		"under unstable": func(batch string) request {
			r := sync("since=%s", batch)
			r.target = strings.Replace(r.target, "v3", "unstable", 1)
			return r
		},
	} {
		timeout++ // Synapse keeps this one's answer too
		batch := c.direct.send(t, request{"GET", v3 + fmt.Sprint("sync?timeout=", timeout), headers, ""}).field("next_batch")
		news := func(status string) {
			c.direct.send(t, c.write(c.seen[0], status))
			c.waitFor(t, c.seen[0], status)
		}
		news("before " + name) // it keeps no answer without news
		r := odd(batch)
		c.direct.send(t, r)
		news(name)
		plain := c.direct.send(t, sync("since=%s", batch))
		again[name] = plain.Status == http.StatusOK && !strings.Contains(string(plain.Body), `"status_msg":"`+name+`"`)
		_, query, _ := strings.Cut(r.target, "?")
		if again[name] && !slices.Contains(matrix.EachSince(query), batch) {
			t.Errorf("%s: Synapse gives the answer again, and it isn't noted", r)
		}
	}
	t.Logf("given again: %v", again)
	if !again["the same"] || !again["an unknown parameter"] {
		t.Error("Synapse gives nothing again: this test shows nothing")
	}
}
