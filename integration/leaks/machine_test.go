package leaks_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"pgregory.net/rapid"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/bubble"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// machine is the state machine: a world, Caddy, and those who use it. Its exported
// methods are its steps.
type machine struct {
	hs      *homeserver
	court   *court
	journal *bubble.Journal
	clients []*client

	cast     []string // users
	tokens   []string // that ever were
	requests int
	sizes    string // of the tables
	nodes    bool   // two of them
}

const rooms = 2

// newMachine starts Caddy before a world of its own. It must be called in a bubble.
func newMachine(t *rapid.T, seen *tally) *machine {
	m := &machine{
		hs: newHomeserver(pick(t, "homeserver", dialects...)),
		clients: []*client{
			{from: net.IPv4(192, 0, 2, 1)}, {from: net.IPv4(192, 0, 2, 1)}, {from: net.ParseIP("2001:db8::1")},
		},
	}
	m.court = &court{hs: m.hs, seen: seen}
	m.nodes = often(t, "two nodes", 30)
	m.hs.perViewer = often(t, "per viewer", 15)
	m.hs.feed.seed, m.hs.feed.trouble = rapid.Uint64().Draw(t, "the feed's seed"), pick(t, "the feed's trouble", 0, 20, 70)
	m.hs.excludes = m.hs.name == "synapse" && often(t, "a room is left out", 20)

	for range 2 {
		pair := pick(t, "users", lookalikes...)
		for _, user := range pair {
			if !slices.Contains(m.cast, user) {
				m.cast = append(m.cast, user)
			}
		}
	}
	if often(t, "long state", 20) { // above what is kept, or even collected
		m.hs.padding[m.cast[0]] = strings.Repeat("x", pick(t, "length", 5<<10, 70<<10))
	}
	m.hs.change(func(w *world) {
		m.logIn(w, session{owner: admin, device: "ADMIN", admin: true})
		m.logIn(w, session{owner: appservice, appservice: true})
		for _, user := range bridged {
			w.sessions["(no token) "+user] = session{owner: user, device: "AS"}
			w.joined[membership{0, user}] = true
		}
		for _, user := range crowd {
			w.joined[membership{0, user}], w.joined[membership{excluded, user}] = true, true
		}
		for i, user := range m.cast {
			m.logIn(w, session{owner: user, device: devices[i%len(devices)]})
			if i != 1 { // the double of the first is a stranger
				w.joined[membership{0, user}] = true
			}
		}
	})

	m.sizes = pick(t, "tables", "", "", "tokens 16", "states 1 permissions 2 tokens 16", "states 3 permissions 64 tokens 2")
	m.court.strict = !strings.Contains(m.sizes, "permissions") && !m.nodes // each node's refusals are its own
	m.journal = open(t, m.hs, m.configuration(t))
	t.Cleanup(func() {
		for _, c := range m.clients {
			c.close()
		}
	})
	return m
}

// configuration draws directives with lifetimes of their own.
func (m *machine) configuration(t *rapid.T) string {
	const s = time.Second
	l := lifetimes{
		ttl:       pick(t, "ttl", 30*s, 10*s, 2*s),
		forbidden: pick(t, "forbidden_ttl", 5*s, 0, 20*s),
		stale:     pick(t, "stale_if_error", 0, 20*s, 300*s),
		settle:    pick(t, "settle", s, 0),
		identity:  pick(t, "identity ttl", 120*s, 15*s, 3*s),
		rejected:  pick(t, "rejected_ttl", 10*s, 0),
	}
	m.court.identity = max(m.court.identity, l.identity)

	caching := []string{"ttl " + l.ttl.String(), "forbidden_ttl " + l.forbidden.String(), "settle " + l.settle.String()}
	if l.stale > 0 {
		caching = append(caching, "stale_if_error "+l.stale.String())
	}
	if m.hs.perViewer {
		caching = append(caching, "per_viewer")
	}
	nodes := ""
	if m.nodes {
		caching, nodes = append(caching, "name "+cacheName), "cluster memory\n"
	}
	identity := []string{"ttl " + l.identity.String(), "rejected_ttl " + l.rejected.String(),
		"rejected_limit " + pick(t, "rejected_limit", "off", "10/1m burst 50")}
	sizes := strings.Fields(m.sizes)
	for i := 0; i < len(sizes); i += 2 {
		if option := sizes[i] + " " + sizes[i+1]; sizes[i] == "tokens" {
			identity = append(identity, option)
		} else {
			caching = append(caching, option)
		}
	}
	homeserver := "homeserver " + m.hs.name + "\n"
	if often(t, "homeserver auto", 10) {
		homeserver = ""
	}
	learn := "learn {\nmembers " + pick(t, "members", "100000", "3") + "\nexclude_rooms !other:example.com " + roomID(excluded) + "\n}\n"
	switch {
	case m.hs.perViewer, often(t, "learn off", 15):
		learn = pick(t, "how", "learn off\n", "")
	case !m.hs.excludes:
		learn = "learn on\n"
	}
	feed := ""
	if m.hs.name == "synapse" && !m.hs.perViewer && !m.nodes && often(t, "feed", 75) {
		l.live = max(l.ttl, pick(t, "live_ttl", 600*s, 60*s, 10*s))
		feed = "feed model " + l.live.String() + "\n"
	}
	m.court.rules = l
	return homeserver + learn + nodes + feed + "write_limit " + pick(t, "write_limit", "off", "6/1m burst 5") +
		"\nread_limit off\ncache {\n" + strings.Join(caching, "\n") + "\n}\nidentity {\n" + strings.Join(identity, "\n") + "\n}\n"
}

// logIn makes a token. Synapse's name their users, who are all of one server, but for an appservice's.
func (m *machine) logIn(w *world, s session) string {
	token := fmt.Sprintf("%s-%d", bubble.TokenMark, len(m.tokens))
	if localpart, server, _ := strings.Cut(strings.TrimPrefix(s.owner, "@"), ":"); m.hs.name == "synapse" && server == "example.com" && !s.appservice {
		token = testkit.NamedToken(localpart, token)
	}
	m.tokens = append(m.tokens, token)
	w.sessions[token] = s
	return token
}

// Check implements rapid.StateMachine.
func (m *machine) Check(t *rapid.T) {
	m.hs.mu.Lock()
	leaks := slices.Clone(m.hs.leaks)
	m.hs.mu.Unlock()
	if len(leaks) > 0 {
		t.Fatalf("at the homeserver: %q", leaks)
	}
	tokens, panics := m.journal.Found()
	if len(tokens) > 0 {
		t.Fatalf("a token is in the log: %s", tokens[0])
	}
	if len(panics) > 0 {
		t.Fatalf("a panic: %s", panics[0])
	}
}

// The users and tokens that a step is about.

func (m *machine) user(t *rapid.T) string { return pick(t, "user", m.cast...) }

// three draws a viewer, another one and a target, who are three mostly.
func (m *machine) three(t *rapid.T) (viewer, other, target string) {
	users := rapid.Permutation(m.cast).Draw(t, "users")
	target = users[len(users)-1]
	if often(t, "oneself", 5) {
		target = users[0]
	}
	return users[0], users[1], target
}

func (m *machine) target(t *rapid.T) string {
	return pick(t, "target", slices.Concat(m.cast, m.cast, m.cast, bridged, []string{appservice, nobody, "nonsense"})...)
}

// ownerOf returns whose token it is, or draws a user.
func (m *machine) ownerOf(t *rapid.T, token string) string {
	if s, ok := m.hs.now().sessions[token]; ok && !s.appservice {
		return s.owner
	}
	return m.user(t)
}

// tokenOf draws a token of a user that is good, if there is one.
func (m *machine) tokenOf(t *rapid.T, user string) string {
	w := m.hs.now()
	var own []string
	for _, token := range m.tokens {
		if w.sessions[token].owner == user {
			own = append(own, token)
		}
	}
	if len(own) == 0 {
		return m.anyToken(t)
	}
	return pick(t, "own token", own...)
}

func (m *machine) someToken(t *rapid.T) string {
	switch pick(t, "whose token", "own", "own", "own", "own", "any", "appservice") {
	case "own":
		return m.tokenOf(t, m.user(t))
	case "appservice":
		return m.tokenOf(t, appservice)
	}
	return m.anyToken(t)
}

// The requests.

func (m *machine) request(method, target string, c credential, fields []string, body string) *exchange {
	m.requests++
	x := &exchange{
		id: m.requests, method: method, target: target + c.query,
		fields: append(slices.Clone(c.fields), fields...), body: body, plain: c.plain,
	}
	x.understand(m.hs.dialect)
	return x
}

func (m *machine) read(t *rapid.T, token, target string, plain bool) *exchange {
	method, body := http.MethodGet, ""
	if !plain {
		method = pick(t, "method", "GET", "GET", "GET", "GET", "HEAD", "HEAD")
		body = pick(t, "body", "", "", "", "", "", "", "", "x")
	}
	c := m.spellCredential(t, token, plain)
	if plain || often(t, "plain path", 40) {
		return m.request(method, presencePath(t, target, true), c, otherFields(t), body)
	}
	c.plain = false
	return m.request(method, presencePath(t, target, false), c, otherFields(t), body)
}

func (m *machine) write(t *rapid.T, token, target string) *exchange {
	c := m.spellCredential(t, token, often(t, "plain credential", 60))
	body := pick(t, "presence", `{"presence":"online"}`, `{"presence":"offline","status_msg":"gone"}`, `{"presence":"online","user_id":"`+admin+`"}`)
	return m.request(http.MethodPut, presencePath(t, target, often(t, "plain path", 50)), c, otherFields(t), body)
}

// revocation is a request that ends sessions of a user.
func (m *machine) revocation(t *rapid.T, user string) *exchange {
	token := m.tokenOf(t, user)
	client := "/_matrix/client/" + pick(t, "version", "v3", "r0", "unstable", "api/v1") + "/"
	device := pick(t, "device", devices...)
	escape := func(s string) string { return escapeIf(s, upper, needsEscape) }
	method, path, body := http.MethodPost, "", "{}"
	switch kind := pick(t, "revocation", "logout", "logout/all", "devices", "delete_devices", "account/password", "mail", "admin", "admin"); kind {
	case "logout", "logout/all":
		path = client + kind
	case "devices":
		method, path = http.MethodDelete, client+"devices/"+escape(device)
	case "delete_devices":
		path, body = client+kind, jsonOf(map[string]any{"devices": []string{device, "other"}})
	case "account/password":
		path, body = client+kind, pick(t, "logout_devices", `{"new_password":"x"}`, `{"logout_devices":true}`, `{"logout_devices":false}`)
	case "mail":
		return m.request(method, client+"account/password", credential{}, nil, jsonOf(map[string]any{"by_mail": user}))
	case "admin":
		token = m.tokenOf(t, admin)
		name := escapeSegment(t, user)
		switch pick(t, "admin's", "unlock", "lock", "unlock", "password", "reset", "device", "devices", "dendrite") {
		case "lock":
			method, path, body = http.MethodPut, "/_synapse/admin/v2/users/"+name, `{"locked":true}`
		case "unlock":
			method, path, body = http.MethodPut, "/_synapse/admin/v2/users/"+name, `{"locked":false}`
		case "password":
			method, path, body = http.MethodPut, "/_synapse/admin/v2/users/"+name, `{"password":"x"}`
		case "reset":
			path = "/_synapse/admin/v1/reset_password/" + name
		case "device":
			method, path = http.MethodDelete, "/_synapse/admin/v2/users/"+name+"/devices/"+escape(device)
		case "devices":
			path, body = "/_synapse/admin/v2/users/"+name+"/delete_devices", jsonOf(map[string]any{"devices": []string{device}})
		case "dendrite":
			path = "/_dendrite/admin/resetPassword/" + name
		}
	}
	if often(t, "for good", 5) {
		switch pick(t, "deactivation", "own", "admin's", "put") {
		case "own":
			method, path, body, token = http.MethodPost, client+"account/deactivate", "{}", m.tokenOf(t, user)
		case "admin's":
			method, path, body, token = http.MethodPost, "/_synapse/admin/v1/deactivate/"+escape(user), "{}", m.tokenOf(t, admin)
		case "put":
			method, path, body, token = http.MethodPut, "/_synapse/admin/v2/users/"+escape(user), `{"deactivated":true}`, m.tokenOf(t, admin)
		}
	}
	return m.request(method, path, m.spellCredential(t, token, often(t, "plain credential", 60)), nil, body)
}

func jsonOf(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// alone sends a request while nothing else is under way.
func (m *machine) alone(t *rapid.T, x *exchange) {
	time.Sleep(time.Millisecond)
	x.alone = true
	m.clients[pick(t, "client", 0, 1, 2)].send(x, 0)
	m.hs.rest()
	m.verdict(t, x)
}

// verdict judges what happened, in the order in which the answers came.
func (m *machine) verdict(t *rapid.T, all ...*exchange) {
	slices.SortStableFunc(all, func(a, b *exchange) int { return cmp.Compare(a.ended.UnixNano(), b.ended.UnixNano()) })
	for _, x := range all {
		if x.in.of == ofAccount || x.in.of == ofAdmin {
			m.court.revocations = append(m.court.revocations, x)
		}
	}
	for _, x := range all {
		wrong := m.court.judge(x)
		if wrong == "" {
			wrong = m.court.judgeRefusal(x)
		}
		if wrong != "" {
			t.Fatalf("%s (%s): %s\n%v\namong\n%s", wrong, m.hs.name, m.explain(x), x, list(all))
		}
	}
}

func list(all []*exchange) string {
	var b strings.Builder
	for _, x := range all {
		fmt.Fprintln(&b, x)
	}
	return b.String()
}

// explain says what was true of a read, and when.
func (m *machine) explain(x *exchange) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%+v, read as %+v by one of %q\n", m.court.rules, x.in, m.court.viewers(x))
	for w := range m.hs.between(x.began.Add(-time.Hour), x.ended) {
		user, no := m.hs.viewer(w, &x.in)
		fmt.Fprintf(&b, "\tfrom %s: %q (%v), may see the target: %v\n", w.from.Format("04:05.000000"), user, no, no == nil && m.hs.maySee(w, user, x.in.target))
	}
	return b.String()
}

// The steps.

// Read reads a presence.
func (m *machine) Read(t *rapid.T) {
	m.alone(t, m.read(t, m.someToken(t), m.target(t), often(t, "plain", 40)))
}

// Write writes one's own presence, or somebody else's.
func (m *machine) Write(t *rapid.T) {
	user := m.user(t)
	token := m.tokenOf(t, user)
	if often(t, "other token", 30) {
		token = m.someToken(t)
	}
	if often(t, "other target", 50) {
		user = m.target(t)
	}
	m.alone(t, m.write(t, token, user))
}

// Revoke ends sessions through Caddy, after which the token may be used again.
func (m *machine) Revoke(t *rapid.T) {
	reader := m.someToken(t)
	target := m.target(t)
	m.alone(t, m.read(t, reader, target, true))
	m.alone(t, m.revocation(t, m.ownerOf(t, reader)))
	m.alone(t, m.read(t, reader, target, true))
}

// Elsewhere changes the world without Caddy's seeing it.
func (m *machine) Elsewhere(t *rapid.T) {
	time.Sleep(time.Millisecond)
	m.hs.change(m.elsewhere(t, pick(t, "user", append(m.cast, bridged...)...)))
}

func (m *machine) elsewhere(t *rapid.T, user string) func(w *world) {
	room := pick(t, "room", 0, rooms-1)
	event := pick(t, "event", "join", "leave", "join", "leave", "login", "login", "logout", "unlock", "unlock", "lock", "appservice")
	if often(t, "for good", 3) {
		event = "deactivate"
	}
	switch event {
	case "leave":
		return func(w *world) { delete(w.joined, membership{room, user}) }
	case "join":
		return func(w *world) { w.join(room, user) }
	case "login":
		device := pick(t, "device", devices...)
		return func(w *world) {
			if !w.deactivated[user] && !isBridged(user) {
				m.logIn(w, session{owner: user, device: device})
			}
		}
	case "logout":
		token := m.tokenOf(t, user)
		return func(w *world) {
			if w.sessions[token].owner == user {
				delete(w.sessions, token)
			}
		}
	case "unlock":
		return func(w *world) { delete(w.locked, user) }
	case "lock":
		return func(w *world) { w.locked[user] = true }
	case "appservice": // another registration, with another token
		return func(w *world) {
			for token, s := range w.sessions {
				if s.appservice {
					delete(w.sessions, token)
				}
			}
			m.logIn(w, session{owner: appservice, appservice: true})
		}
	default:
		return func(w *world) { w.deactivate(user) }
	}
}

// Wait lets time pass, around the ends of lifetimes above all.
func (m *machine) Wait(t *rapid.T) {
	l := m.court.rules
	m.wait(t, l.ttl, l.forbidden, l.identity, l.settle, l.rejected, l.stale, l.live)
}

func (m *machine) wait(t *rapid.T, lifetimes ...time.Duration) {
	lifetime := pick(t, "lifetime", lifetimes...)
	time.Sleep(max(0, pick(t, "time", lifetime, lifetime-2*time.Millisecond, lifetime+time.Millisecond, lifetime/2, lifetime/4)))
}

// Linger is what a permission's lifetime is about: a viewer leaves the only room, and
// comes back for a state that others keep fresh.
func (m *machine) Linger(t *rapid.T) {
	viewer, other, target := m.three(t)
	first, second, others := m.tokenOf(t, viewer), m.tokenOf(t, viewer), m.tokenOf(t, other)
	m.meet(viewer, other, target)
	m.alone(t, m.read(t, first, target, often(t, "plain", 80)))
	time.Sleep(time.Millisecond)
	m.hs.change(func(w *world) { w.leave(viewer) })
	for range rapid.IntRange(1, 3).Draw(t, "times") {
		m.wait(t, m.court.rules.ttl)
		m.alone(t, m.read(t, others, target, true))
		if m.court.rules.stale > 0 && often(t, "outage", 40) {
			m.wait(t, m.court.rules.ttl, m.court.rules.stale)
			m.hs.mood = mood{seed: rapid.Uint64().Draw(t, "seed"), broken: 100}
		}
		m.alone(t, m.read(t, second, target, often(t, "plain", 80)))
		m.hs.mood = mood{}
	}
}

// meet lets users join one room.
func (m *machine) meet(users ...string) {
	time.Sleep(time.Millisecond)
	m.hs.change(func(w *world) {
		for _, user := range users {
			w.join(0, user)
		}
	})
}

// Follow is that the homeserver tells by itself, or fails to, that a viewer has left, or was logged out.
func (m *machine) Follow(t *rapid.T) {
	viewer, other, target := m.three(t)
	m.meet(viewer, other, target)
	own, others := m.tokenOf(t, viewer), m.tokenOf(t, other)
	m.alone(t, m.read(t, own, target, true))
	m.alone(t, m.read(t, others, target, true))
	l := m.court.rules
	m.wait(t, l.ttl, l.live, l.live)
	m.alone(t, m.read(t, own, target, true))
	time.Sleep(time.Millisecond)
	m.hs.feed.fate = pick(t, "fate", drawn, drawn, cutOffWithIt, missing)
	switch pick(t, "loss", "leave", "leave", "the target leaves", "logout", "lock", "elsewhere", "comes back") {
	case "comes back":
		m.hs.change(func(w *world) { w.leave(viewer) })
		m.wait(t, l.ttl, l.live)
		m.alone(t, m.read(t, own, target, true))
		m.meet(viewer, target)
	case "leave":
		m.hs.change(func(w *world) { w.leave(viewer) })
	case "the target leaves":
		m.hs.change(func(w *world) { w.leave(target) })
	case "logout":
		m.hs.change(func(w *world) { delete(w.sessions, own) })
	case "lock":
		m.hs.change(func(w *world) { w.locked[viewer] = true })
	default:
		m.Elsewhere(t)
	}
	for range rapid.IntRange(1, 3).Draw(t, "times") {
		time.Sleep(pick(t, "soon", 0, 5*time.Millisecond, 25*time.Millisecond, 10*time.Second, l.ttl+time.Second))
		m.alone(t, m.read(t, pick(t, "reader", own, own, others), pick(t, "whom", target, target, viewer), true))
	}
	m.hs.feed.fate = drawn
}

// Gap is that the homeserver has told of a viewer who has left, and nobody hears it; that is noticed soon, and from
// then on what was known lives as long as without a feed.
func (m *machine) Gap(t *rapid.T) {
	l := m.court.rules
	if l.live == 0 {
		t.Skip("no feed")
	}
	viewer, other, target := m.three(t)
	m.meet(viewer, other, target)
	own, others := m.tokenOf(t, viewer), m.tokenOf(t, other)
	m.wait(t, l.settle+time.Second, l.ttl)
	m.alone(t, m.read(t, own, target, true))
	m.alone(t, m.read(t, others, target, true))
	time.Sleep(time.Millisecond)
	m.hs.feed.fate = pick(t, "fate", missing, missing, cutOffWithIt)
	who := pick(t, "who leaves", viewer, viewer, target)
	m.hs.change(func(w *world) { w.leave(who) })
	m.hs.feed.fate = drawn
	for range rapid.IntRange(1, 3).Draw(t, "times") {
		time.Sleep(pick(t, "soon", noticed, l.ttl+time.Millisecond, l.ttl+noticed, l.live))
		m.alone(t, m.read(t, others, target, true))
		m.alone(t, m.read(t, own, target, true))
	}
}

// Reuse is what an identity's lifetime is about: a token is used that was ended, while
// its user's other token keeps the permission fresh.
func (m *machine) Reuse(t *rapid.T) {
	viewer, target := m.user(t), m.user(t)
	var ended, kept string
	time.Sleep(time.Millisecond)
	m.hs.change(func(w *world) {
		if w.deactivated[viewer] {
			return
		}
		ended = m.logIn(w, session{owner: viewer, device: "ENDED"})
		kept = m.logIn(w, session{owner: viewer, device: "KEPT"})
		w.join(0, viewer)
		w.join(0, target)
	})
	if ended == "" {
		t.Skip("deactivated")
	}
	m.alone(t, m.read(t, ended, target, true))
	time.Sleep(time.Millisecond)
	bearer := credential{fields: []string{"Authorization: Bearer " + ended}, plain: true}
	if often(t, "broken", 20) {
		m.hs.mood = mood{seed: rapid.Uint64().Draw(t, "seed"), broken: 100}
	}
	switch pick(t, "end", "elsewhere", "logout", "device", "admin", "mail") {
	case "elsewhere":
		m.hs.change(func(w *world) { delete(w.sessions, ended) })
	case "logout":
		m.alone(t, m.request("POST", "/_matrix/client/v3/logout", m.spellCredential(t, ended, often(t, "plain", 50)), nil, ""))
	case "device":
		bearer.fields[0] = "Authorization: Bearer " + kept
		m.alone(t, m.request("DELETE", "/_matrix/client/v3/devices/ENDED", bearer, nil, ""))
	case "admin":
		bearer.fields[0] = "Authorization: Bearer " + m.tokenOf(t, admin)
		m.alone(t, m.request("DELETE", "/_synapse/admin/v2/users/"+url.PathEscape(viewer)+"/devices/ENDED", bearer, nil, ""))
	case "mail":
		m.alone(t, m.request("POST", "/_matrix/client/v3/account/password", credential{}, nil, jsonOf(map[string]any{"by_mail": viewer})))
	}
	m.hs.mood = mood{}
	for range pick(t, "others", 0, 0, 2, 4) { // whose revocations may push this one out of a small table
		var other string
		user := m.user(t)
		m.hs.change(func(w *world) { other = m.logIn(w, session{owner: user, device: "OTHER"}) })
		bearer.fields[0] = "Authorization: Bearer " + other
		m.alone(t, m.request("POST", "/_matrix/client/v3/logout/all", bearer, nil, ""))
	}
	for range rapid.IntRange(1, 3).Draw(t, "times") {
		m.alone(t, m.read(t, kept, target, true))
		m.alone(t, m.read(t, ended, target, often(t, "plain", 80)))
		m.wait(t, m.court.rules.identity)
	}
	m.alone(t, m.read(t, kept, target, true))
	m.alone(t, m.read(t, ended, target, true))
}

// Spell reads in odd spellings what is in memory.
func (m *machine) Spell(t *rapid.T) {
	viewer, _, target := m.three(t)
	m.meet(viewer, target)
	token := m.tokenOf(t, viewer)
	m.alone(t, m.read(t, token, target, true))
	for range rapid.IntRange(1, 5).Draw(t, "times") {
		c := m.spellCredential(t, token, often(t, "plain credential", 70))
		c.plain = false // of a path that isn't
		m.alone(t, m.request(pick(t, "method", "GET", "GET", "HEAD"), presencePath(t, target, false), c, nil, ""))
	}
}

// Masquerade reads as an appservice for several users and devices by turns.
func (m *machine) Masquerade(t *rapid.T) {
	token := m.tokenOf(t, pick(t, "whose", appservice, appservice, appservice, m.cast[0]))
	target := m.user(t)
	m.meet(bridged[0], target)
	for range rapid.IntRange(2, 6).Draw(t, "times") {
		if often(t, "admin", 15) {
			c := credential{fields: []string{"Authorization: Bearer " + m.tokenOf(t, admin)}, plain: true}
			m.alone(t, m.request(http.MethodPut, "/_synapse/admin/v2/users/"+bridged[0], c, nil, pick(t, "do", `{"locked":true}`, `{"locked":false}`)))
		}
		c := credential{fields: []string{"Authorization: Bearer " + token}, plain: true}
		query := []string{
			pick(t, "user", "user_id="+url.QueryEscape(bridged[0]), "user_id="+url.QueryEscape(bridged[1]), "user_id="+url.QueryEscape(m.cast[0]), "user_id=", "x"),
			pick(t, "device", "x", "device_id=AS", "device_id=none", "org.matrix.msc3202.device_id=none"),
		}
		c.query = "?" + strings.Join(query, "&")
		m.alone(t, m.request(http.MethodGet, presencePath(t, target, true), c, nil, ""))
	}
}

// Reload gives Caddy other lifetimes.
func (m *machine) Reload(t *rapid.T) {
	if err := load(m.journal, m.configuration(t)); err != nil {
		t.Fatal(err)
	}
}

// Outage reads while the homeserver is broken.
func (m *machine) Outage(t *rapid.T) {
	m.hs.mood = mood{seed: rapid.Uint64().Draw(t, "seed"), slow: pick(t, "slow", 0, 30), broken: pick(t, "broken", 100, 50)}
	for range rapid.IntRange(1, 4).Draw(t, "reads") {
		x := m.read(t, m.tokenOf(t, m.user(t)), m.target(t), often(t, "plain", 80))
		time.Sleep(time.Millisecond)
		m.clients[0].send(x, 0)
		m.hs.rest()
		m.verdict(t, x)
		if often(t, "wait", 50) {
			m.wait(t, m.court.rules.ttl, m.court.rules.stale)
		}
	}
	m.hs.mood = mood{}
}

// Burst does many things at once, by many clients, before a homeserver that takes its
// time.
func (m *machine) Burst(t *rapid.T) {
	target := m.user(t)
	viewers := []string{m.someToken(t), m.someToken(t), m.someToken(t)}
	var at time.Duration
	step := pick(t, "step", 3*time.Millisecond, 40*time.Millisecond, 700*time.Millisecond, 4*time.Second)
	m.together(t, func(b *burst) {
		for range rapid.IntRange(2, 14).Draw(t, "requests") {
			at += time.Duration(rapid.IntRange(1, 1000).Draw(t, "pause")) * step / 1000
			token := pick(t, "viewer", viewers...)
			switch pick(t, "what", "read", "read", "read", "read", "read", "read", "read", "elsewhere", "elsewhere", "revocation", "write") {
			case "read":
				if often(t, "another viewer", 20) {
					token = m.someToken(t)
				}
				b.send(at, m.read(t, token, pick(t, "focus", target, target, target, m.target(t)), often(t, "plain", 80)))
			case "revocation":
				b.send(at, m.revocation(t, m.ownerOf(t, token)))
			case "write":
				b.send(at, m.write(t, m.tokenOf(t, target), target))
			default:
				b.change(at, m.elsewhere(t, m.ownerOf(t, token)))
			}
		}
	})
	for range rapid.IntRange(0, 2).Draw(t, "afterwards") {
		m.alone(t, m.read(t, pick(t, "viewer", viewers...), target, true))
	}
}

// Crowd is Linger or Reuse with many at once: a viewer has left or was logged out, and
// just before that is noticed something has to be fetched, which takes a while. Or
// the loss comes while it is on its way.
func (m *machine) Crowd(t *rapid.T) {
	viewer, other, target := m.three(t)
	m.meet(viewer, other, target)
	own, others := m.tokenOf(t, viewer), m.tokenOf(t, other)
	m.alone(t, m.read(t, own, target, true))
	m.alone(t, m.read(t, others, target, true))
	time.Sleep(time.Millisecond)
	l := m.court.rules
	lifetime := l.ttl
	loss := pick(t, "loss", "leave", "leave", "logout", "lock", "meanwhile left", "meanwhile left", "meanwhile logged out", "meanwhile revoked", "meanwhile revoked")
	switch loss {
	case "leave":
		m.hs.change(func(w *world) { w.leave(viewer) })
	case "logout":
		lifetime = min(l.ttl, l.identity)
		m.hs.change(func(w *world) { delete(w.sessions, own) })
	case "lock":
		lifetime = min(l.ttl, l.identity)
		m.hs.change(func(w *world) { w.locked[viewer] = true })
	}
	readers := []string{own, own, others}
	var meanwhile func(w *world)
	switch loss {
	case "meanwhile left": // by one device, and asked again by another
		m.hs.change(func(w *world) { others = m.logIn(w, session{owner: viewer, device: "NEW"}) })
		m.alone(t, m.read(t, others, target, true))
		time.Sleep(l.ttl)
		meanwhile = func(w *world) { w.leave(viewer) }
		readers = []string{others, others, own}
	case "meanwhile logged out", "meanwhile revoked": // of a device that nothing is known of
		m.hs.change(func(w *world) { own = m.logIn(w, session{owner: viewer, device: "NEW"}) })
		meanwhile = func(w *world) { delete(w.sessions, own) }
		others, readers = own, []string{own}
	default:
		m.wait(t, lifetime-l.settle-20*time.Millisecond)
	}
	if others != own || loss == "meanwhile logged out" && often(t, "write", 50) {
		m.alone(t, m.request(http.MethodPut, presencePath(t, target, true), m.spellCredential(t, m.tokenOf(t, target), true), nil, `{"presence":"online"}`))
		time.Sleep(l.settle + time.Millisecond)
	}
	m.together(t, func(b *burst) {
		b.send(0, m.read(t, pick(t, "first", others, others, own), target, true))
		var at time.Duration
		switch soon := time.Duration(rapid.IntRange(1, 2000).Draw(t, "meanwhile")) * time.Millisecond; {
		case loss == "meanwhile revoked":
			b.send(soon, m.request(http.MethodPost, "/_matrix/client/v3/logout", m.spellCredential(t, own, often(t, "plain", 60)), nil, ""))
		case meanwhile != nil:
			b.change(soon, meanwhile)
		}
		for range rapid.IntRange(1, 5).Draw(t, "reads") {
			at += time.Duration(rapid.IntRange(1, 5000).Draw(t, "pause")) * time.Millisecond
			b.send(at, m.read(t, pick(t, "viewer", readers...), target, often(t, "plain", 90)))
		}
	})
	m.alone(t, m.read(t, own, target, true))
}

// burst is what happens at once.
type burst struct {
	m     *machine
	t     *rapid.T
	sent  []*exchange
	plans []func()
}

// send plans a request.
func (b *burst) send(at time.Duration, x *exchange) {
	b.sent = append(b.sent, x)
	var patience time.Duration
	if often(b.t, "impatient", 15) {
		patience = time.Duration(rapid.IntRange(1, 3000).Draw(b.t, "patience")) * time.Millisecond
	}
	c := client{from: b.m.clients[pick(b.t, "client", 0, 1, 2)].from}
	b.plans = append(b.plans, func() {
		time.Sleep(at)
		c.send(x, patience)
		c.close()
	})
}

// change plans a change of the world.
func (b *burst) change(at time.Duration, f func(w *world)) {
	b.plans = append(b.plans, func() {
		time.Sleep(at)
		b.m.hs.change(f)
	})
}

// together draws what is to happen, lets it happen before a slow homeserver, and judges.
func (m *machine) together(t *rapid.T, draw func(b *burst)) {
	m.hs.mood = mood{
		seed: rapid.Uint64().Draw(t, "seed"),
		slow: pick(t, "slow", 80, 100, 30), broken: pick(t, "broken", 0, 0, 0, 15),
	}
	b := &burst{m: m, t: t}
	draw(b)
	var under sync.WaitGroup
	for _, plan := range b.plans {
		under.Go(plan)
	}
	under.Wait()
	m.hs.rest()
	m.hs.mood = mood{}
	m.court.seen.bursts++
	m.verdict(t, b.sent...)
}
