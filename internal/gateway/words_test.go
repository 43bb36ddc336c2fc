package gateway

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// modelled is the scripted homeserver with a model of a real one behind it: it takes syncs,
// presence writes and activities, and shows what comes of them.
type modelled struct {
	*testkit.Homeserver
	hs      *homeserver
	unnamed bool // it doesn't tell which one it is

	mu      sync.Mutex
	reached []string // the words of syncs, "" for none, as the homeserver reads them
}

// behaves has the scripted homeserver do as a real one.
func (p *proxy) behaves(name string) *modelled {
	m := &modelled{Homeserver: testkit.NewHomeserver(name, time.Now()), hs: p.hs}
	p.hs.AnswerBy(m.serve)
	return m
}

func (m *modelled) serve(w http.ResponseWriter, r *http.Request) (handled bool, err error) {
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	m.hs.Mu.Lock()
	user := m.hs.Tokens[token]
	m.hs.Mu.Unlock()
	route, isPresence := matrix.ParsePresenceRoute(r.URL.EscapedPath())
	isSync := strings.HasSuffix(r.URL.Path, "/sync")
	switch {
	case strings.Contains(r.URL.Path, "/version"):
		w.Header().Set("Content-Type", "application/json")
		name := m.Name
		if m.unnamed {
			name = "another"
		}
		_, _ = fmt.Fprintf(w, `{"server":{"name":%q}}`, name)
	case user == "":
		return false, nil
	case isSync:
		var body []byte
		if r.Method == http.MethodPost {
			body, _ = io.ReadAll(r.Body)
		}
		query := r.URL.RawQuery
		if m.Name == "dendrite" {
			if word := r.FormValue("set_presence"); word != "" {
				query = "set_presence=" + url.QueryEscape(word)
			}
		}
		word, _ := m.Reads(query, body)
		m.mu.Lock()
		m.reached = append(m.reached, word)
		m.mu.Unlock()
		status, end := m.Sync(user, token, query, body, time.Now())
		if timeout, err := time.ParseDuration(r.URL.Query().Get("timeout") + "ms"); err == nil && status == 200 {
			select {
			case <-time.After(timeout):
			case <-r.Context().Done():
			}
		}
		end(time.Now())
		answer(w, status, `{"next_batch":"s"}`)
	case isPresence && r.Method == http.MethodPut:
		body, _ := io.ReadAll(r.Body)
		answer(w, m.Put(user, token, body, time.Now()), `{}`)
	case isPresence:
		state, _ := m.Presence(route.UserID, time.Now())
		answer(w, 200, fmt.Sprintf(`{"presence":%q}`, state))
	case strings.Contains(r.URL.Path, "/typing/"):
		m.Active(user, token, time.Now())
		answer(w, 200, `{}`)
	default:
		return false, nil
	}
	return true, nil
}

// shows is what a reader sees through the proxy.
func (p *proxy) shows(viewer, userID string) string {
	p.t.Helper()
	var body struct{ Presence string }
	if err := json.Unmarshal([]byte(bodyOf(p.Get(viewer, userID))), &body); err != nil {
		p.t.Fatal(err)
	}
	return body.Presence
}

// wantShown fails unless readers see what the homeserver has.
func (p *proxy) wantShown(m *modelled, userID, after string) (state string) {
	p.t.Helper()
	state, _ = m.Presence(userID, time.Now())
	if got := p.shows("bob-token", userID); got != state {
		p.t.Errorf("after %s a reader sees %q, and the homeserver has %q", after, got, state)
	}
	return state
}

// syncWords are all classes of what a sync can say of presence: known, of another case,
// unknown, empty, missing, twice, in other spellings, and in the body of a sliding sync no
// string besides.
var syncWords = []struct {
	query string
	body  *string
}{
	{query: "set_presence=online"}, {query: "set_presence=unavailable"}, {query: "set_presence=offline"},
	{query: "set_presence=busy"}, {query: "set_presence=org.matrix.msc3026.busy"},
	{query: "set_presence=ONLINE"}, {query: "set_presence=Unavailable"}, {query: "set_presence=oFFline"}, {query: "set_presence=Busy"},
	{query: "set_presence=foo"}, {query: "set_presence=unchanged"}, {query: "set_presence=+online"}, {query: "set_presence=%ff"},
	{query: "set_presence="}, {query: "set_presence"}, {query: "x=1"}, {query: "Set_Presence=offline"},
	{query: "set_presence=offline&set_presence=online"}, {query: "set_presence=online&set_presence=offline"},
	{query: "set_presence&set_presence=unavailable"}, {query: "set_presence=unavailable&set_presence"},
	{query: "set%5Fpresence=%6Fffline"}, {query: "set_presence=%zz"},
	{query: "set_presence=online%00"}, {query: "set_presence=%00"}, {query: "set_presence=online+"}, {query: "set_presence=offline%20"}, {query: "set_presence=%09online"},
	{query: "set_presence=online%0A"}, {query: "set_presence==online"}, {query: "set_presence=offline="}, {query: "set_presence=online%26x"}, {query: "set_presence=ONL%C4%B0NE"},
	{query: "set_presence=offline&set_presence=offline"}, {query: "set_presence=offline&set%5Fpresence=online"}, {query: "set_presence=&set_presence=offline"},
	{query: "&&set_presence=offline&&"}, {query: "set_presence+=offline"}, {query: "set_presence%00=offline"}, {query: "x=%E9&set_presence=offline"},
	{query: "x=%zz&set_presence=offline"}, {query: "set_presence=offline&x=%zz"}, {query: "set_presence=off%zzline"}, {query: "set_presence=offline&set_presence=%zz"},
	{query: "x=1;set_presence=offline"}, {query: "set_presence=offline;x=1"}, {query: "x=1;set_presence=unavailable&set_presence=online"},
	{body: new("")}, {body: new("{}")},
	{body: new(`{"set_presence":"online"}`)}, {body: new(`{"set_presence":"offline"}`)}, {body: new(`{"set_presence":"busy"}`)},
	{body: new(`{"set_presence":"OFFLINE"}`)}, {body: new(`{"set_presence":"foo"}`)}, {body: new(`{"set_presence":""}`)},
	{body: new(`{"set_presence":"org.matrix.msc3026.busy"}`)}, {body: new(`{"SET_PRESENCE":"offline"}`)},
	{body: new(`{"set_presence":null}`)}, {body: new(`{"set_presence":1}`)}, {body: new(`{"set_presence":{}}`)}, {body: new(`{"set_presence":["offline"]}`)},
	{body: new(`{"set_presence":"offline","set_presence":"online"}`)}, {body: new(`{"set_presence":"online","set_presence":"offline"}`)},
	{body: new(`{"set_presence":null,"set_presence":"offline"}`)}, {body: new(`{"set\u005fpresence":"offl\u0069ne"}`)},
	{body: new(`{"set_presence":"online "}`)}, {body: new(`{"set_presence":"online\u0000"}`)}, {body: new(" {\"set_presence\" :\t\"offline\"}\n")}, {body: new(`{"set_presence":"offline"}x`)},
	{body: new(`{"x":{"set_presence":"offline"}}`)}, {body: new(`{"x":[{"set_presence":"offline"}],"set_presence":"online"}`)}, {body: new(`{"set_presence":"offline","lists":{}}`)},
	{body: new(`{"x":"\"set_presence\":","set_presence":"offline"}`)}, {body: new(`{"set_presence":true}`)}, {body: new(`{"set_presence ":"offline"}`)},
	{body: new(`[]`)}, {body: new(`{`)}, {body: new(`null`)},
}

// Whatever a sync says, in whatever way, readers see at once what the homeserver makes of
// it, and over the limit it isn't made to say what nobody asked for. On tuwunel a word that
// it doesn't know makes the device offline; it once was nothing to us, so that in turns with
// "online" it went 15 times up and down in 16 syncs, and readers saw the old state for
// a ttl.
func TestEveryWordOfASyncIsReadAsTheHomeserverDoes(t *testing.T) {
	for _, name := range []string{"synapse", "dendrite", "tuwunel"} {
		for mode, handler := range map[string]func() *options{
			"limit":       func() *options { return &options{SyncPresence: "limit", Homeserver: name} },
			"absorb":      func() *options { return &options{RepeatWrites: "absorb", Homeserver: name} },
			"learned":     func() *options { return &options{SyncPresence: "limit", RepeatWrites: "absorb"} },
			"never known": func() *options { return &options{SyncPresence: "limit", RepeatWrites: "absorb"} },
			"watched":     func() *options { return &options{RepeatWrites: "absorb"} },
		} {
			t.Run(name+"/"+mode, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newProxy(t, handler())
					m := p.behaves(name)
					m.unnamed = mode == "never known" || mode == "watched"
					for i, word := range syncWords {
						who := actor{fmt.Sprintf("@user%d:example.com", i), fmt.Sprintf("token-%d", i)}
						p.hs.Mu.Lock()
						p.hs.Tokens[who.token] = who.userID
						p.hs.Mu.Unlock()
						p.knows(who.token)
						p.walkWord(m, who, word.query, word.body)
					}
				})
			})
		}
	}
}

// actor is a user with one device.
type actor struct{ userID, token string }

func (p *proxy) walkWord(m *modelled, who actor, query string, body *string) {
	t := p.t
	sends := func(query string, body *string) (asks, says string) {
		t.Helper()
		r := request("GET", syncPath+"?timeout=0&since=s&"+query, who.token, "")
		var sent []byte
		if body != nil {
			r, sent = request("POST", slidingPath+"?timeout=0&pos=1", who.token, *body), []byte(*body)
		}
		asks, _ = m.Reads(r.URL.RawQuery, sent)
		p.Do(r)
		return asks, m.reached[len(m.reached)-1]
	}
	what := query
	if body != nil {
		what = *body
	}
	sends("set_presence=unavailable", nil)
	time.Sleep(12 * time.Second) // until it counts on Dendrite
	sends("set_presence=unavailable", nil)
	time.Sleep(2 * time.Second)
	p.wantShown(m, who.userID, what+": the first sync") // and keep it
	asked, changes, last := map[string]bool{"unavailable": true}, 0, "unavailable"
	for n := range 16 {
		next, nextBody, name := query, body, what
		if n%2 == 1 {
			next, nextBody, name = "set_presence=online", nil, "online"
		}
		asks, says := sends(next, nextBody)
		if says != asks && says != "" && (!asked[says] || testkit.StateRank(says) > testkit.StateRank(asks)) {
			t.Errorf("%s: %s, which asks for %q, is made to say %q", what, name, asks, says)
		}
		asked[asks] = true
		state := p.wantShown(m, who.userID, what+": "+name)
		if state != last {
			changes++
		}
		last = state
		time.Sleep(1500 * time.Millisecond)
		p.wantShown(m, who.userID, what+": "+name+" and a while")
	}
	// 5 at first, 2 more in 24 s, and down again after each.
	if p.gateway.cfg.SyncPresence == SyncLimit && p.gateway.cfg.Dialect != Auto && changes > 14 {
		t.Errorf("%s in turns with online changed the presence %d times in 16 syncs", what, changes)
	}
}

// Whatever a write says, the syncs after it are judged by what the homeserver made of it. On
// tuwunel a PUT of a word that it doesn't know was noted as online, or as busy; a later sync
// over the limit was then made to say that, which nobody had asked for.
func TestSyncsAfterAWriteOfEveryWord(t *testing.T) {
	for _, name := range []string{"synapse", "dendrite", "tuwunel"} {
		for _, word := range []string{
			`"online"`, `"unavailable"`, `"offline"`, `"busy"`, `"org.matrix.msc3026.busy"`, `"ONLINE"`, `"Busy"`, `"foo"`, `""`,
			`null`, `1`, `{}`, `"offline","presence":"online"`, `"online","presence":"offline"`, `"online","Presence":"offline"`,
		} {
			t.Run(name+"/"+word, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newProxy(t, &options{
						SyncPresence: "limit", RepeatWrites: "absorb", WriteLimit: &rate{Off: true}, Homeserver: name,
						SyncLimit: &rate{Events: 1, Window: 1e15}, PresenceValues: []string{"online", "unavailable", "offline", "busy", "org.matrix.msc3026.busy", "foo", ""},
					})
					p.knows("alice-token")
					m := p.behaves(name)
					asked := make(map[string]bool)
					for n := range 12 {
						p.Put("alice-token", alice, `{"presence":`+word+`}`)
						p.wantShown(m, alice, "the write")
						time.Sleep(1100 * time.Millisecond)
						p.wantShown(m, alice, "the write and a while")
						asks := []string{"online", "unavailable", "online"}[n%3]
						p.Do(request("GET", syncPath+"?timeout=0&since=s&set_presence="+asks, "alice-token", ""))
						says := m.reached[len(m.reached)-1]
						if says != asks && says != "" && (!asked[says] || testkit.StateRank(says) > testkit.StateRank(asks)) {
							t.Errorf("round %d: a sync for %q is made to say %q", n, asks, says)
						}
						asked[asks] = true
						p.wantShown(m, alice, "the sync")
						time.Sleep(1100 * time.Millisecond)
						p.wantShown(m, alice, "the sync and a while")
					}
				})
			})
		}
	}
}
