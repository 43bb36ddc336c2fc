package integration_test

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// syncWords are classes of what a sync can say of presence: known, of another case, unknown,
// empty, missing, twice, and in other spellings.
var syncWords = []string{
	"set_presence=online", "set_presence=unavailable", "set_presence=offline", "set_presence=busy", "set_presence=org.matrix.msc3026.busy",
	"set_presence=ONLINE", "set_presence=Unavailable", "set_presence=oFFline", "set_presence=foo", "set_presence=unchanged",
	"set_presence=+online", "set_presence=%ff", "set_presence=", "set_presence", "x=1", "Set_Presence=offline",
	"set_presence=offline&set_presence=online", "set_presence=unavailable&set_presence=offline",
	"set_presence&set_presence=unavailable", "set%5Fpresence=%6Fffline", "set_presence=%zz",
	"x=1;set_presence=unavailable", "set_presence=unavailable;x=1", "x=1;set_presence=unavailable&set_presence=online",
}

// person is a user of a homeserver who looks at their own presence.
type person struct {
	homeserver.User
	hs *homeserver.Homeserver
}

func newPerson(t *testing.T, hs *homeserver.Homeserver) person {
	t.Helper()
	u, err := hs.Register(t.Context(), fmt.Sprintf("person-%d", casts.Add(1)), "a password")
	if err != nil {
		t.Fatal(err)
	}
	return person{u, hs}
}

func (p person) path() string {
	return "/_matrix/client/v3/presence/" + url.PathEscape(p.ID) + "/status"
}

func (p person) sees(t *testing.T, base string) string {
	t.Helper()
	return get(p.path(), p.AccessToken).to(t, base).field("presence")
}

func (p person) writes(t *testing.T, base, presence string) {
	t.Helper()
	if a := put(p.path(), p.AccessToken, fmt.Sprintf(`{"presence":%q}`, presence)).to(t, base); a.status != http.StatusOK {
		t.Fatalf("a write of %q: %s", presence, a)
	}
}

func (p person) syncs(t *testing.T, base, query string) answer {
	t.Helper()
	return get("/_matrix/client/v3/sync?timeout=0&"+query, p.AccessToken).to(t, base)
}

// TestWordsOfSyncs: what each real homeserver makes of every class of words is what policy
// says, and through the sidecar a reader sees it at once.
func TestWordsOfSyncs(t *testing.T) {
	dialects := map[string]matrix.Dialect{"synapse": matrix.Synapse, "dendrite": matrix.Dendrite}
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		s := syncSite(t, hs.URL, "sync_presence limit", "repeat_writes absorb", "homeserver "+hs.Name)
		for _, query := range syncWords {
			t.Run(query, func(t *testing.T) {
				q := matrix.ParseSyncQuery(dialects[hs.Name], query)
				for _, before := range []string{"unavailable", "online"} {
					want := before
					if q.Sets != matrix.NoPresence {
						want = q.Sets.String()
					}
					p := newPerson(t, hs)
					p.writes(t, hs.URL, before)
					suite.Eventually(t, "the write shows", func() bool { return p.sees(t, hs.URL) == before })
					p.syncs(t, hs.URL, query)
					if got := p.sees(t, hs.URL); got != want || !q.Certain {
						t.Errorf("%q makes who was %q %q, and policy says %q, %v", query, before, got, want, q.Certain)
					}
				}

				p := newPerson(t, hs)
				isKnown(t, s.URL, p.User)
				for range 2 {
					for _, query := range []string{query, "set_presence=unavailable", query, "set_presence=online"} {
						direct := p.syncs(t, s.URL, query)
						has := p.sees(t, hs.URL)
						if got := p.sees(t, s.URL); got != has {
							t.Errorf("after %q, answered %d, a reader sees %q, and the homeserver has %q", query, direct.status, got, has)
						}
					}
				}
			})
		}
	})
}

// TestSyncThatSaysItsPresenceInAForm: Dendrite reads a form in the body of a GET, where the query
// says nothing. Readers see at once what it makes of that.
func TestSyncThatSaysItsPresenceInAForm(t *testing.T) {
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		s := syncSite(t, hs.URL, "sync_presence limit", "homeserver "+hs.Name)
		p := newPerson(t, hs)
		isKnown(t, s.URL, p.User)
		for range 3 {
			for _, word := range []string{"unavailable", "online"} {
				r := get("/_matrix/client/v3/sync?timeout=0", p.AccessToken)
				r.contentType = "multipart/form-data; boundary=x"
				r.body = "--x\r\nContent-Disposition: form-data; name=\"set_presence\"\r\n\r\n" + word + "\r\n--x--\r\n"
				a := r.to(t, s.URL)
				has := p.sees(t, hs.URL)
				if got := p.sees(t, s.URL); a.status != http.StatusOK || got != has {
					t.Errorf("after a form of %q, answered %d, a reader sees %q, and the homeserver has %q", word, a.status, got, has)
				}
			}
		}
	})
}

// TestBotThatSyncsOffline: a bot says by its syncs that it is offline, so that they show
// nothing, and by its writes that it is online. What it is in the end is what it is without
// the sidecar. On Dendrite it once ended offline for good, because a sync of its over the
// limit was made to say online.
func TestBotThatSyncsOffline(t *testing.T) {
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		up := newUpstream(t, hs.URL, nil)
		s := syncSite(t, up.URL, "sync_presence limit", "sync_limit 1/1h burst 1", "repeat_writes absorb", "homeserver "+hs.Name)
		direct, behind := newPerson(t, hs), newPerson(t, hs)
		isKnown(t, s.URL, behind.User)
		for n := range 12 {
			for bot, base := range map[person]string{direct: hs.URL, behind: s.URL} {
				bot.syncs(t, base, "set_presence=offline")
				bot.writes(t, base, []string{"online", "unavailable", "online"}[n%3])
				bot.syncs(t, base, "set_presence=offline")
			}
		}
		for _, query := range up.syncs() {
			if q, err := url.ParseQuery(query); err != nil || q.Get("set_presence") != "offline" && q.Get("set_presence") != keep[hs.Name] {
				t.Errorf("a sync reached the homeserver as %q", query)
			}
		}
		same := func() bool {
			without, with := direct.sees(t, hs.URL), behind.sees(t, hs.URL)
			return without == "online" && with == without && behind.sees(t, s.URL) == without
		}
		suite.Eventually(t, "both are online", same)
		for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
			if !same() {
				t.Fatalf("directly the bot is %q, behind the sidecar %q", direct.sees(t, hs.URL), behind.sees(t, hs.URL))
			}
		}
	})
}

// TestPauseBetweenLongPolls: Synapse takes a device for offline whose long poll began 30
// seconds ago, if it looks in the pause before the next one. A reader who looked at that
// moment too once kept it for a ttl, although the user was back at once.
func TestPauseBetweenLongPolls(t *testing.T) {
	if !suite.Full() {
		t.Skip("takes 32 seconds at least; use -size full")
	}
	hs := suite.Homeserver(t, "synapse", homeserver.Options{})
	s := syncSite(t, hs.URL, "sync_presence limit", "homeserver synapse")
	p := newPerson(t, hs)
	isKnown(t, s.URL, p.User)
	first := p.syncs(t, s.URL, "set_presence=online")
	since := url.QueryEscape(first.field("next_batch"))
	get("/_matrix/client/v3/sync?timeout=32000&since="+since, p.AccessToken).to(t, s.URL)
	suite.Eventually(t, "Synapse looks", func() bool { return p.sees(t, hs.URL) == "offline" })
	if got := p.sees(t, s.URL); got != "offline" {
		t.Fatalf("in the pause a reader sees %q", got)
	}
	get("/_matrix/client/v3/sync?timeout=0&since="+since, p.AccessToken).to(t, s.URL)
	if got := p.sees(t, s.URL); got != "online" {
		t.Errorf("back again, a reader sees %q", got)
	}
}
