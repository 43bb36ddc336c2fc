package gateway

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/passing"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/wallclock"
)

// room is a room on a scripted homeserver, with enough users for it to pass its trial. All of them
// may see each other.
type room struct {
	*proxy
	users []string
	// list is what its homeserver answers to a GET of the members, and change is called with
	// that answer's header.
	list   func(user string) string
	change func(w http.ResponseWriter)
}

const listPath = "/_matrix/client/v3/rooms/!r:example.com/joined_members"

func newRoom(t *testing.T, o *options) *room {
	t.Helper()
	if o.Homeserver == "" {
		o.Homeserver = "synapse"
	}
	p := &room{proxy: newProxy(t, o), change: func(http.ResponseWriter) {}}
	for i := range 20 {
		user := fmt.Sprintf("@user%d:example.com", i)
		p.users = append(p.users, user)
		p.hs.Tokens[tokenOf(user)] = user
		p.hs.Presence[user] = fmt.Sprintf(`{"presence":"online","status_msg":"%d"}`, i)
	}
	p.list = func(string) string {
		return `{"joined":{"` + strings.Join(p.users, `":{"display_name":"x"},"`) + `":{}}}`
	}
	p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if !strings.HasSuffix(r.URL.Path, "members") {
			return false, nil
		}
		p.hs.Mu.Lock()
		body := p.list(p.hs.Tokens[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")])
		p.hs.Mu.Unlock()
		p.change(w)
		answer(w, 200, body)
		return true, nil
	})
	return p
}

func tokenOf(user string) string { return "token-" + user }

// opens has a user open the room: get the list of its members, and then each one's presence. It
// returns how many of the reads the homeserver got.
func (p *room) opens(user string) (asked int) {
	p.t.Helper()
	p.Want(p.Do(request("GET", listPath, tokenOf(user), "")), 200, p.list(user), "")
	p.isAsked()
	return p.reads(user)
}

// isAsked waits until whose a token is has been asked: that may go on after the answer.
func (p *room) isAsked() {
	for p.memory.learning.Len() > 0 {
		runtime.Gosched()
	}
}

func (p *room) reads(user string) (asked int) {
	p.t.Helper()
	before := p.hs.Count("GET")
	for i, target := range p.users {
		p.Want(p.Get(tokenOf(user), target), 200, fmt.Sprintf(`{"presence":"online","status_msg":"%d"}`, i), "")
	}
	return p.hs.Count("GET") - before
}

func TestTheSecondViewerOfARoomAsksNothing(t *testing.T) {
	for _, homeserver := range []string{"synapse", "dendrite", "tuwunel"} {
		p := newRoom(t, &options{Homeserver: homeserver})
		if asked := p.opens(p.users[0]); asked != len(p.users) {
			t.Errorf("%s: the first one asked %d times", homeserver, asked)
		}
		if asked := p.opens(p.users[1]); asked != 0 {
			t.Errorf("%s: the second one asked %d times", homeserver, asked)
		}
		if asked := p.reads(p.users[2]); asked != 0 { // who hasn't got a list
			t.Errorf("%s: the third one asked %d times", homeserver, asked)
		}
		p.wantMetrics(map[string]float64{"learned_total list": 2, "room_hits_total": 40, "entries room_members": 20})
	}
}

// Lists are no presence requests: whoever makes tokens up for them makes us ask nothing.
func TestMadeUpTokensThatListMembersAreNotAskedAbout(t *testing.T) {
	p := newRoom(t, &options{Homeserver: "synapse"})
	list := p.list
	p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
		user := p.hs.Tokens[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
		switch {
		case !strings.HasSuffix(r.URL.Path, "members"):
			return false, nil
		case user == "":
			answer(w, 401, `{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token"}`)
		default:
			answer(w, 200, list(user))
		}
		return true, nil
	})
	for i := range 20 {
		p.Want(p.Do(request("GET", listPath, fmt.Sprint("made-up-", i), "")), 401, `{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token"}`, "")
	}
	for p.memory.learning.Len() > 0 {
		runtime.Gosched()
	}
	p.wantMetrics(map[string]float64{"upstream_requests_total whoami": 0})
	if asked := p.opens(p.users[0]); asked != len(p.users) {
		t.Errorf("who has an account asked %d times", asked)
	}
	p.wantMetrics(map[string]float64{"upstream_requests_total whoami": 1, "learned_total list": 1})
}

func TestWhatTeachesNothing(t *testing.T) {
	list := func(path string) func(p *room) {
		return func(p *room) {
			for _, user := range p.users[:2] {
				p.Do(request("GET", path, tokenOf(user), ""))
				p.isAsked()
				p.reads(user)
			}
		}
	}
	for name, tt := range map[string]struct {
		o      options
		change func(w http.ResponseWriter)
		opens  func(p *room)
	}{
		"learn off":           {o: options{LearnOff: true}},
		"an excluded room":    {o: options{ExcludeRooms: []string{"!x:example.com", "!r:example.com"}}},
		"a state per viewer":  {o: options{Cache: &caching{PerViewer: true}}},
		"a cache between":     {change: func(w http.ResponseWriter) { w.Header().Set("Age", "3") }},
		"an unknown coding":   {change: func(w http.ResponseWriter) { w.Header().Set("Content-Encoding", "br") }},
		"no JSON":             {change: func(w http.ResponseWriter) { w.Header().Set("X", "y") }, opens: nil},
		"members at a time":   {opens: list("/_matrix/client/v3/rooms/!r:example.com/members?at=s1")},
		"another room's path": {opens: list("/_matrix/client/v3/rooms/!r:example.com/%6Aoined_members")},
		"another version":     {opens: list("/_matrix/client/unstable/rooms/!r:example.com/joined_members")},
		"no list":             {opens: list("/_matrix/client/v3/rooms/!r:example.com/joined_member")},
		"who isn't in the list": {opens: func(p *room) {
			p.list = func(user string) string {
				return `{"joined":{"` + strings.Join(p.users[2:], `":{},"`) + `":{}}}`
			}
			list(listPath)(p)
		}},
		"a list that breaks off": {opens: func(p *room) {
			whole := p.list("")
			p.list = func(string) string { return whole[:len(whole)-1] }
			list(listPath)(p)
		}},
		"a HEAD": {opens: func(p *room) {
			for _, user := range p.users[:2] {
				p.Do(request("HEAD", listPath, tokenOf(user), ""))
				p.reads(user)
			}
		}},
		"a range": {opens: func(p *room) {
			for _, user := range p.users[:2] {
				r := request("GET", listPath, tokenOf(user), "")
				r.Header.Set("Range", "bytes=0-")
				p.Do(r)
				p.reads(user)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "no JSON" {
				tt.change = func(w http.ResponseWriter) {}
				tt.opens = func(p *room) {
					p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
						if !strings.HasSuffix(r.URL.Path, "members") {
							return false, nil
						}
						w.Header().Set("Content-Type", "text/html")
						fmt.Fprint(w, p.list(""))
						return true, nil
					})
					list(listPath)(p)
				}
			}
			p := newRoom(t, &tt.o)
			if tt.change != nil {
				p.change = tt.change
			}
			if tt.opens == nil {
				tt.opens = func(p *room) { p.opens(p.users[0]); p.opens(p.users[1]) }
			}
			if tt.opens(p); p.hs.Count("GET") != 2*len(p.users) {
				t.Errorf("the homeserver was asked %d times, want %d", p.hs.Count("GET"), 2*len(p.users))
			}
			p.wantMetrics(map[string]float64{"learned_total list": 0, "room_hits_total": 0})
		})
	}
}

func TestListsWithGzipTeach(t *testing.T) {
	p := newRoom(t, &options{})
	whole := p.list("")
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	fmt.Fprint(w, whole)
	w.Close()
	p.list = func(string) string { return packed.String() }
	p.change = func(w http.ResponseWriter) { w.Header().Set("Content-Encoding", "gzip") }
	p.opens(p.users[0])
	if asked := p.opens(p.users[1]); asked != 0 {
		t.Errorf("the second one asked %d times", asked)
	}
}

// A guest gets the list of a room that lets guests in, and the homeserver shows them no presence.
func TestGuestsHaveNoPermissionByRoom(t *testing.T) {
	p := newRoom(t, &options{})
	p.opens(p.users[0])
	guest := p.users[1]
	p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
		switch isGuest := r.Header.Get("Authorization") == "Bearer "+tokenOf(guest); {
		case isGuest && strings.HasSuffix(r.URL.Path, "whoami"):
			answer(w, 200, fmt.Sprintf(`{"user_id":%q,"is_guest":true}`, guest))
		case isGuest && strings.Contains(r.URL.Path, "/presence/"):
			answer(w, 403, `{"errcode":"M_GUEST_ACCESS_FORBIDDEN","error":"Guest access not allowed"}`)
		default:
			return false, nil
		}
		return true, nil
	})
	for _, target := range p.users[2:] {
		p.WantError(p.Get(tokenOf(guest), target), 403, "M_GUEST_ACCESS_FORBIDDEN")
	}
	// That says nothing about the room.
	if asked := p.reads(p.users[2]); asked != 0 {
		t.Errorf("another one asked %d times", asked)
	}
}

func TestMembershipChangesThatPassEndPermissions(t *testing.T) {
	const rooms = "/_matrix/client/v3/rooms/!r:example.com/"
	for name, tt := range map[string]struct {
		method, path, body string
		by                 int // whose request it is
		ends               bool
	}{
		"a leave":           {"POST", rooms + "leave", "{}", 1, true},
		"a kick":            {"POST", rooms + "kick", `{"user_id":"@user1:example.com"}`, 0, true},
		"a reason of 60 kB": {"POST", rooms + "kick", `{"reason":"` + strings.Repeat("x", 60_000) + `","user_id":"@user1:example.com"}`, 0, true},
		"a ban":             {"POST", rooms + "ban", `{"user_id":"@user1:example.com"}`, 0, true},
		"a member event":    {"PUT", rooms + "state/m.room.member/@user1:example.com", `{"membership":"leave"}`, 0, true},
		"a room's deletion": {"DELETE", "/_synapse/admin/v2/rooms/!r:example.com", "{}", 0, true},
		"another's leave":   {"POST", rooms + "leave", "{}", 0, false},
		"another's kick":    {"POST", rooms + "kick", `{"user_id":"@user19:example.com"}`, 0, false},
		"a message":         {"PUT", rooms + "send/m.room.message/1", `{"user_id":"@user1:example.com"}`, 0, false},
	} {
		for _, status := range []int{200, 403} {
			t.Run(fmt.Sprint(name, " ", status), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newRoom(t, &options{})
					for _, user := range p.users[:3] {
						p.opens(user)
					}
					before := p.hs.Count("GET")
					p.Want(p.Get(tokenOf(p.users[1]), p.users[5]), 200, "", "matrix_presence; hit")
					p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
						if strings.Contains(r.URL.Path, "/presence/") {
							return false, nil
						}
						io.Copy(io.Discard, r.Body)
						answer(w, status, `{"errcode":"M_FORBIDDEN","error":"x"}`)
						return true, nil
					})
					time.Sleep(time.Second)
					p.Do(request(tt.method, tt.path, tokenOf(p.users[tt.by]), tt.body))
					p.Get(tokenOf(p.users[1]), p.users[5])
					p.Get(tokenOf(p.users[5]), p.users[1])
					want := 0
					if tt.ends && status == 200 {
						want = 2
					}
					if asked := p.hs.Count("GET") - before - map[bool]int{true: 0, false: 1}[want > 0]; asked != want {
						t.Errorf("the homeserver was asked %d times, want %d", asked, want)
					}
				})
			})
		}
	}
}

// A path of an admin API may be served by something else, if nothing is routed there. What that answers anybody with ended
// the permissions of everybody, and was told to all nodes.
func TestMembershipsByAdminsTakeTheAnswerOfAHomeserver(t *testing.T) {
	for name, tt := range map[string]struct {
		token, contentType string
		ends               bool
	}{
		"an admin":        {"admin", "application/json", true},
		"without a token": {"", "application/json", false},
		"no JSON":         {"admin", "text/html", false},
	} {
		for _, path := range []string{"v2/rooms/!r:example.com", "v1/deactivate/@user1:example.com"} {
			t.Run(name+" "+path, func(t *testing.T) {
				p := newRoom(t, &options{})
				p.opens(p.users[1])
				p.Get(tokenOf(p.users[1]), p.users[5])
				p.Want(p.Get(tokenOf(p.users[1]), p.users[5]), 200, "", "matrix_presence; hit")
				p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if !strings.HasPrefix(r.URL.Path, "/_synapse/") {
						return false, nil
					}
					w.Header().Set("Content-Type", tt.contentType)
					w.WriteHeader(200)
					_, _ = io.WriteString(w, "{}")
					return true, nil
				})
				p.Do(request("DELETE", "/_synapse/admin/"+path, tt.token, "{}"))
				before := p.hs.Count("GET")
				p.Get(tokenOf(p.users[1]), p.users[5])
				if asked := p.hs.Count("GET") - before; (asked > 0) != tt.ends {
					t.Errorf("the homeserver was asked %d times", asked)
				}
			})
		}
	}
}

func TestARefusalByARoomEndsItForAll(t *testing.T) {
	p := newRoom(t, &options{Cache: &caching{TTL: time.Hour}})
	p.opens(p.users[0])
	if asked := p.opens(p.users[1]); asked != 0 {
		t.Fatalf("the second one asked %d times", asked)
	}
	// The homeserver shows the state no more, and has to be asked since it was written.
	p.hs.Hidden[p.users[1]+" "+p.users[5]] = true
	p.memory.presence.Invalidate(p.users[5], p.memory.now(), 0)
	p.WantError(p.Get(tokenOf(p.users[1]), p.users[5]), 403, "M_FORBIDDEN")
	if asked := p.reads(p.users[2]); asked < len(p.users)-trialOfRooms {
		t.Errorf("another one asked %d times", asked)
	}
}

// trialOfRooms is more users than a trial takes that was refused once.
const trialOfRooms = 11

// synced has the homeserver answer syncs with the presences of these users.
func (p *room) synced(w http.ResponseWriter, users ...string) {
	var events []string
	for _, user := range users {
		p.hs.Mu.Lock()
		events = append(events, fmt.Sprintf(`{"type":"m.presence","sender":%q,"content":%s}`, user, p.hs.Presence[user]))
		p.hs.Mu.Unlock()
	}
	answer(w, 200, `{"next_batch":"s2","presence":{"events":[`+strings.Join(events, ",")+`]},"rooms":{}}`)
}

func TestSyncsTellWhoMayBeSeenAndWhoHasChanged(t *testing.T) {
	for name, tt := range map[string]struct {
		wait    time.Duration // since the start
		queries []string
		o       options
		teaches bool
	}{
		"first":             {wait: batchUnknown, queries: []string{"since=a"}, teaches: true},
		"initial":           {wait: batchUnknown, queries: []string{""}, teaches: true},
		"after a start":     {wait: batchUnknown - time.Second, queries: []string{"since=a"}},
		"again":             {wait: batchUnknown, queries: []string{"since=a", "since=a&set_presence=offline"}},
		"again, spelled":    {wait: batchUnknown, queries: []string{"since=a", "timeout=0&since=%61"}},
		"that may wait":     {wait: batchUnknown, queries: []string{"since=a&timeout=30000"}, teaches: true},
		"that began before": {wait: time.Hour, queries: []string{"since=a&timeout=3600000"}},
		"an hour later":     {wait: time.Hour + batchLasts, queries: []string{"since=a&timeout=3600000"}, teaches: true},
		"longer than noted": {wait: 10 * time.Hour, queries: []string{"since=a&timeout=3600001"}},
		"nobody says":       {wait: 10 * time.Hour, queries: []string{"since=a&full_state=true"}},
		"no full state":     {wait: batchUnknown, queries: []string{"since=a&full_state=false"}, teaches: true},
		"from another":      {wait: batchUnknown, queries: []string{"since=a", "since=b"}, teaches: true},
		"unclear":           {wait: batchUnknown, queries: []string{"since=a&since=b"}},
		"learn off":         {wait: batchUnknown, queries: []string{"since=a"}, o: options{LearnOff: true}},
		"an unknown server": {wait: batchUnknown, queries: []string{"since=a"}, o: options{Homeserver: "auto"}},
		"limited syncs":     {wait: batchUnknown, queries: []string{"since=a"}, o: options{SyncPresence: "limit"}, teaches: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newRoom(t, &tt.o)
				viewer, target := p.users[0], p.users[1]
				time.Sleep(tt.wait)
				p.Get(tokenOf(viewer), viewer) // it is known whose the token is
				for i, query := range tt.queries {
					shown := []string{}
					if i == len(tt.queries)-1 {
						p.Get(tokenOf(target), target)
						shown = append(shown, target)
					}
					p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
						if !strings.HasSuffix(r.URL.Path, "/sync") {
							return false, nil
						}
						p.synced(w, shown...)
						return true, nil
					})
					p.Do(request("GET", syncPath+"?"+query, tokenOf(viewer), ""))
				}
				before := p.hs.Count("GET")
				p.Want(p.Get(tokenOf(viewer), target), 200, `{"presence":"online","status_msg":"1"}`, "")
				if asked := p.hs.Count("GET") - before; (asked == 0) != tt.teaches {
					t.Errorf("the homeserver was asked %d times", asked)
				}
				// The next sync tells that the target has changed.
				p.hs.Mu.Lock()
				p.hs.Presence[target] = `{"presence":"offline"}`
				p.hs.Mu.Unlock()
				p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if !strings.HasSuffix(r.URL.Path, "/sync") {
						return false, nil
					}
					p.synced(w, target)
					return true, nil
				})
				p.Do(request("GET", syncPath+"?since=new", tokenOf(viewer), ""))
				want := `{"presence":"online","status_msg":"1"}`
				if tt.teaches || tt.wait > batchUnknown || name == "again" || name == "again, spelled" || name == "unclear" {
					want = `{"presence":"offline"}`
				}
				p.Want(p.Get(tokenOf(viewer), target), 200, want, "")
			})
		})
	}
}

// Synapse keeps its answer to any of these for whoever asks for the same batch. Once a kicked viewer could have one given
// again to a sync that teaches, and so permit themselves what the homeserver refuses.
func TestASyncThatTeachesNothingIsNotTaughtLater(t *testing.T) {
	odd := func(method, query, field string) func(token string) *http.Request {
		return func(token string) *http.Request {
			r := request(method, syncPath+query, token, "")
			if field != "" {
				r.Header.Set(field, "bytes=0-")
			}
			return r
		}
	}
	for name, tt := range map[string]struct {
		first func(token string) *http.Request
		since string
		off   bool // the gateway that passes the first on learns nothing
		news  bool // the second asks for something else
	}{
		"an unknown parameter":   {first: odd("GET", "?since=s5&x=1", ""), since: "?since=s5"},
		"two batches":            {first: odd("GET", "?since=s5&since=s6", ""), since: "?since=s5"},
		"an escaped name":        {first: odd("GET", "?%73ince=s5&x", ""), since: "?since=s5"},
		"another separator":      {first: odd("GET", "?x=1;since=s5", ""), since: "?since=s5"},
		"a name without a batch": {first: odd("GET", "?since=", ""), since: ""},
		"no batch":               {first: odd("GET", "?x", ""), since: ""},
		"a HEAD":                 {first: odd("HEAD", "?since=s5", ""), since: "?since=s5"},
		"a range":                {first: odd("GET", "?since=s5", "Range"), since: "?since=s5"},
		"under unstable": {first: func(token string) *http.Request {
			return request("GET", "/_matrix/client/unstable/sync?since=s5", token, "")
		}, since: "?since=s5"},
		"an uncertain credential": {first: odd("GET", "?since=s5&user_id=a&user_id=b", ""), since: "?since=s5"},
		"a gateway that is deaf":  {first: odd("GET", "?since=s5", ""), since: "?since=s5", off: true},
		"and a HEAD":              {first: odd("HEAD", "?since=s5", ""), since: "?since=s5", off: true},
		"another batch":           {first: odd("GET", "?since=s5&x=1", ""), since: "?since=s7", news: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newRoom(t, new(options))
				first := p.proxy
				if tt.off {
					first = p.beside(&options{LearnOff: true, Homeserver: "synapse"})
				}
				viewer, target := p.users[0], p.users[1]
				time.Sleep(batchUnknown)
				p.Get(tokenOf(viewer), viewer)
				p.Get(tokenOf(target), target)
				p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if !strings.HasSuffix(r.URL.Path, "/sync") {
						return false, nil
					}
					p.synced(w, target)
					return true, nil
				})
				first.Do(tt.first(tokenOf(viewer)))
				p.Do(request("GET", syncPath+tt.since, tokenOf(viewer), ""))
				before := p.hs.Count("GET")
				p.Get(tokenOf(viewer), target)
				if asked := p.hs.Count("GET") - before; (asked == 0) != tt.news {
					t.Errorf("the homeserver was asked %d times", asked)
				}
			})
		})
	}
}

// A wall clock that is set forward has our memory age, and not what Synapse keeps.
func TestSyncThatMayBeAnsweredAgainTeachesNothingWhateverTheWallClockSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer wallclock.Shift(0)
		p := newRoom(t, new(options))
		viewer, target := p.users[0], p.users[1]
		sync := func(since string) {
			p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
				if !strings.HasSuffix(r.URL.Path, "/sync") {
					return false, nil
				}
				p.synced(w, target)
				return true, nil
			})
			p.Do(request("GET", syncPath+since, tokenOf(viewer), ""))
		}
		asked := func() int {
			before := p.hs.Count("GET")
			p.Get(tokenOf(viewer), target)
			return p.hs.Count("GET") - before
		}
		known := func() {
			p.Get(tokenOf(viewer), viewer)
			p.Get(tokenOf(target), target)
		}
		wallclock.Shift(time.Hour) // soon after the start
		known()
		if sync("?since=s1"); asked() == 0 {
			t.Error("it isn't known what was asked before the start")
		}
		time.Sleep(batchUnknown)
		known()
		sync("?since=s5")
		p.memory.presence.MembershipChanged(viewer, p.memory.now(), 0) // a kick
		wallclock.Shift(2 * time.Hour)
		known()
		if sync("?since=s5"); asked() == 0 {
			t.Error("it may have been answered as before the kick")
		}
		p.memory.presence.MembershipChanged(viewer, p.memory.now(), 0)
		time.Sleep(2 * time.Second)
		known()
		if sync("?since=s6"); asked() != 0 {
			t.Error("another one has taught nothing")
		}
	})
}

// What a sync of whom nobody knows may have been answered is what anybody's sync may be answered
// again.
func TestASyncOfNobodyKnownIsAnybodys(t *testing.T) {
	now := time.Now()
	b := newBatches(now)
	now = now.Add(time.Hour)
	if b.repeats("", "s1", now, 0); !b.repeats("@a:hs", "s1", now.Add(time.Second), 0) {
		t.Error("the batch is new to a user")
	}
	if b.repeats("@a:hs", "s2", now, 0) || b.repeats("@b:hs", "s2", now, 0) || !b.repeats("@b:hs", "s2", now, 0) {
		t.Error("a batch is another user's")
	}
	if !b.repeats("@b:hs", "s2", now.Add(batchLasts-time.Second), 0) || b.repeats("@b:hs", "s3", now, time.Minute) {
		t.Error("a batch is forgotten too soon")
	}
	if !b.repeats("@b:hs", "s3", now.Add(time.Minute+batchLasts-time.Second), 0) {
		t.Error("a sync that waits is forgotten too soon")
	}
	if b.repeats("@b:hs", "s2", now.Add(3*batchLasts), 0) {
		t.Error("a batch is never forgotten")
	}
}

func TestWhoseATokenIsIsLearnedFromWhatPasses(t *testing.T) {
	const v3 = "/_matrix/client/v3/"
	filter := func(token, user, query string) func(p *room) {
		return func(p *room) { p.Do(request("POST", v3+"user/"+user+"/filter"+query, token, "{}")) }
	}
	for name, tt := range map[string]struct {
		o       options
		does    func(p *room)
		answers string // to what isn't about presence
		status  int
		whoami  int
	}{
		"a filter":                {does: filter("alice-token", alice, ""), whoami: 0},
		"account data":            {does: func(p *room) { p.Do(request("GET", v3+"user/"+alice+"/account_data/x", "alice-token", "")) }},
		"a filter on tuwunel":     {o: options{Homeserver: "tuwunel"}, does: filter("alice-token", alice, ""), whoami: 1},
		"a refused filter":        {does: filter("alice-token", alice, ""), status: 403, whoami: 1},
		"an appservice's filter":  {does: filter("alice-token", alice, "?user_id="+alice), whoami: 1},
		"nothing":                 {does: func(*room) {}, whoami: 1},
		"learn off":               {o: options{LearnOff: true}, does: filter("alice-token", alice, ""), whoami: 1},
		"a whoami":                {does: func(p *room) { p.Do(request("GET", v3+"account/whoami", "alice-token", "")) }, answers: `{"user_id":"` + alice + `"}`},
		"a whoami without a user": {does: func(p *room) { p.Do(request("GET", v3+"account/whoami", "alice-token", "")) }, whoami: 1},
		"a login": {does: func(p *room) { p.Do(request("POST", v3+"login", "", "{}")) },
			answers: `{"user_id":"` + alice + `","access_token":"alice-token"}`},
		"a registration": {does: func(p *room) { p.Do(request("POST", v3+"register", "", "{}")) },
			answers: `{"user_id":"` + alice + `","access_token":"alice-token"}`},
		// Neither names a user on any homeserver, and the second may not be a homeserver's.
		"a refresh that names a user": {does: func(p *room) { p.Do(request("POST", v3+"refresh", "", "{}")) },
			answers: `{"user_id":"` + alice + `","access_token":"alice-token"}`, whoami: 1},
		"another service's token": {does: func(p *room) { p.Do(request("POST", "/app/oauth2/token", "", "{}")) },
			answers: `{"user_id":"` + alice + `","access_token":"alice-token"}`, whoami: 1},
		"a login and a logout of all": {does: func(p *room) {
			p.Do(request("POST", v3+"login", "", "{}"))
			p.Do(request("POST", v3+"logout/all", "alice-token", "{}"))
		}, answers: `{"user_id":"` + alice + `","access_token":"alice-token"}`, whoami: 1},
		"a login and a logout": {does: func(p *room) {
			p.Do(request("POST", v3+"login", "", "{}"))
			p.Do(request("POST", v3+"logout", "alice-token", "{}"))
		}, answers: `{"user_id":"` + alice + `","access_token":"alice-token"}`, whoami: 1},
		"a login, long ago": {does: func(p *room) {
			p.Do(request("POST", v3+"login", "", "{}"))
			time.Sleep(2 * time.Minute) // the read itself tells that it is still good
		}, answers: `{"user_id":"` + alice + `","access_token":"alice-token"}`, whoami: 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newRoom(t, &tt.o)
				p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if tt.status == 0 {
						tt.status = 200
					}
					if strings.Contains(r.URL.Path, "/presence/") {
						return false, nil
					}
					answer(w, tt.status, tt.answers+strings.Repeat("{}", max(0, 1-len(tt.answers))))
					return true, nil
				})
				tt.does(p)
				synctest.Wait()
				p.hs.AnswerBy(nil)
				before := p.hs.Count("whoami")
				p.Want(p.Get("alice-token", alice), 200, "", "")
				if asked := p.hs.Count("whoami") - before; asked != tt.whoami {
					t.Errorf("%d questions whose the token is, want %d", asked, tt.whoami)
				}
			})
		})
	}
}

func TestAListenersFaultReachesNoClient(t *testing.T) {
	for name, begin := range map[string]func(int) passing.Reader{
		"at the beginning": func(int) passing.Reader { panic("a fault") },
		"while it reads":   func(int) passing.Reader { return faulty{} },
	} {
		faults := 0
		recorder := httptest.NewRecorder()
		h := &hearer{responseWriter: responseWriter{recorder}, begin: begin, panicked: func(any) { faults++ }}
		answer(h, 200, `{"joined":`)
		fmt.Fprint(h, `{}}`)
		h.end()
		if recorder.Body.String() != `{"joined":{}}` || recorder.Code != 200 || faults != 1 {
			t.Errorf("%s: %d %s, %d faults", name, recorder.Code, recorder.Body, faults)
		}
	}
}

type faulty struct{}

func (faulty) Write([]byte) bool { panic("a fault") }

// Each part of an answer goes out before the next one comes.
func TestWhatIsHeardIsNotHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newRoom(t, &options{})
		p.Get(tokenOf(p.users[0]), p.users[0])
		recorder := httptest.NewRecorder()
		next := nextFunc(func(w http.ResponseWriter, r *http.Request) error {
			answer(w, 200, `{"joined":`)
			if got := recorder.Body.String(); got != `{"joined":` {
				t.Errorf("the client has %q", got)
			}
			if err := http.NewResponseController(w).Flush(); err != nil || !recorder.Flushed {
				t.Errorf("flushing: %v", err)
			}
			fmt.Fprint(w, `{}}`)
			return nil
		})
		r := prepared(request("GET", listPath, tokenOf(p.users[0]), ""))
		if err := p.gateway.Serve(recorder, r, next); err != nil || recorder.Body.String() != `{"joined":{}}` {
			t.Errorf("%v, and %s", err, recorder.Body)
		}
	})
}

// A list costs the reading of all of it, so the next one of a room is not read for a moment, if its
// reader is in the one before.
func TestListsOfOneRoomAreReadNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newRoom(t, &options{})
		for _, user := range p.users[:3] {
			p.Get(tokenOf(user), user) // it is known whose the token is
		}
		list := func(user string) {
			p.Want(p.Do(request("GET", listPath, tokenOf(user), "")), 200, p.list(user), "")
		}
		list(p.users[0])
		list(p.users[1])
		p.wantMetrics(map[string]float64{"learned_total list": 1})
		time.Sleep(defaultTTL / 4)
		list(p.users[2])
		list(p.users[0])
		p.wantMetrics(map[string]float64{"learned_total list": 2})
	})
}
