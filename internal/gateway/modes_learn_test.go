package gateway

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// neighbourhood is what both homeservers of [modes] have in common: rooms, who is joined to them, and
// whose tokens are. Who shares a room that counts may see each other.
type neighbourhood struct {
	mu     sync.Mutex // guards all below
	joined map[[2]string]bool
	tokens map[string]string
	syncs  map[string]string // what was answered to the same sync, which Synapse says again
	issued int
}

// Rooms of a neighbourhood. Nobody is shown to anybody because of the last.
var neighbourRooms = []string{"!green:example.com", "!grey:example.com", "!left-out:example.com"}

func neighbours() (users []string) {
	for i := range 14 {
		users = append(users, fmt.Sprintf("@user%d:example.com", i))
	}
	return users
}

func newNeighbourhood(m *modes) *neighbourhood {
	n := &neighbourhood{joined: make(map[[2]string]bool), tokens: make(map[string]string), syncs: make(map[string]string)}
	for i, user := range neighbours() {
		n.logsIn(user)
		n.logsIn(user)
		n.joined[[2]string{neighbourRooms[i%2], user}] = true
		n.joined[[2]string{neighbourRooms[2], user}] = i%5 == 0
	}
	for _, p := range []*proxy{m.observing, m.enforcing} {
		p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) { return n.answer(p, w, r), nil })
	}
	return n
}

// logsIn gives a user one more token, which names them as Synapse's do.
func (n *neighbourhood) logsIn(user string) {
	n.issued++
	localpart, _, _ := strings.Cut(user[1:], ":")
	n.tokens[testkit.NamedToken(localpart, fmt.Sprint("random", n.issued))] = user
}

// maySee tells who shares a room that counts. The lock is held.
func (n *neighbourhood) maySee(viewer, target string) bool {
	return viewer == target || slices.ContainsFunc(neighbourRooms[:2], func(room string) bool {
		return n.joined[[2]string{room, viewer}] && n.joined[[2]string{room, target}]
	})
}

// answer is what a homeserver of the two answers. What a request does, it does at both.
func (n *neighbourhood) answer(p *proxy, w http.ResponseWriter, r *http.Request) (answered bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	p.hs.Mu.Lock()
	maps.DeleteFunc(p.hs.Tokens, func(string, string) bool { return true })
	maps.Copy(p.hs.Tokens, n.tokens)
	clear(p.hs.Hidden)
	user := n.tokens[token]
	for _, target := range neighbours() {
		if !n.maySee(user, target) {
			p.hs.Hidden[user+" "+target] = true
		}
	}
	p.hs.Mu.Unlock()
	if user == "" {
		return false
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/_matrix/client/v3/"), "/")
	switch {
	case parts[0] == "rooms" && parts[2] == "joined_members":
		answer(w, 200, n.list(parts[1]))
	case parts[0] == "rooms" && parts[2] == "members":
		answer(w, 200, n.members(parts[1]))
	case parts[0] == "rooms":
		body, _ := io.ReadAll(r.Body)
		who := user
		if _, named, ok := strings.Cut(string(body), `"user_id":"`); ok {
			who, _, _ = strings.Cut(named, `"`)
		}
		n.joined[[2]string{parts[1], who}] = parts[2] == "join"
		answer(w, 200, `{}`)
	case parts[0] == "sync":
		p.hs.Mu.Lock()
		defer p.hs.Mu.Unlock()
		answer(w, 200, n.sync(p, user, r.URL.RawQuery))
	case parts[0] == "user" && parts[1] != user:
		answer(w, 403, `{"errcode":"M_FORBIDDEN","error":"Cannot get filters for other users"}`)
	case parts[0] == "logout":
		answer(w, 200, `{}`)
	default:
		return false
	}
	return true
}

// inRoom returns who is joined to a room. The lock is held.
func (n *neighbourhood) inRoom(room string) (users []string) {
	for _, user := range neighbours() {
		if n.joined[[2]string{room, user}] {
			users = append(users, user)
		}
	}
	return users
}

func (n *neighbourhood) list(room string) string {
	var members []string
	for _, user := range n.inRoom(room) {
		members = append(members, fmt.Sprintf("%q:{}", user))
	}
	return `{"joined":{` + strings.Join(members, ",") + `}}`
}

func (n *neighbourhood) members(room string) string {
	var events []string
	for _, user := range n.inRoom(room) {
		events = append(events, fmt.Sprintf(`{"type":"m.room.member","room_id":%q,"sender":%q,"state_key":%q,"content":{"membership":"join"},"event_id":"$1","origin_server_ts":1}`, room, user, user))
	}
	return `{"chunk":[` + strings.Join(events, ",") + `]}`
}

// sync tells a user of one whom they may see, and the same when asked for the same again. The locks are held.
func (n *neighbourhood) sync(p *proxy, user, query string) string {
	if said, ok := n.syncs[user+query]; ok {
		return said
	}
	var events []string
	for _, target := range neighbours() {
		if state, ok := p.hs.Presence[target]; ok && n.maySee(user, target) && len(events) < 3 {
			events = append(events, fmt.Sprintf(`{"type":"m.presence","sender":%q,"content":%s}`, target, state))
		}
	}
	n.syncs[user+query] = `{"next_batch":"s1","presence":{"events":[` + strings.Join(events, ",") + `]},"rooms":{}}`
	return n.syncs[user+query]
}

// tellApart tells that both memories have a place of its own for each user wherever several may share one by
// chance, as that costs the one a question that the other doesn't ask.
func (m *modes) tellApart(users []string) bool {
	defer time.Sleep(time.Hour) // nothing of it is left
	for _, p := range []*proxy{m.observing, m.enforcing} {
		presence, keys := p.memory.presence, make(map[byte]bool)
		for i, user := range users {
			keys[presence.MemberKey([]byte(user))[1]] = true // by which a trial counts users
			before := p.memory.now()
			time.Sleep(time.Second)
			ticket := presence.Ticket(user, before)
			for _, other := range users[:i] {
				presence.Invalidate(other, before, 0)
				presence.MembershipChanged(other, p.memory.now(), 0)
			}
			if presence.Overtaken(ticket) || !presence.MembershipHolds(user, user, before) {
				return false
			}
		}
		if len(keys) < len(users) {
			return false
		}
	}
	return true
}

// passes sends a request that isn't about presence to both.
func (m *modes) passes(method, path, token, body string) {
	for _, p := range []*proxy{m.observing, m.enforcing} {
		p.Do(request(method, path, token, body))
		synctest.Wait()
	}
}

// Also what passes by counts alike: lists of members, syncs, what only a token's user is served, and the
// first reads of new tokens, which go to the homeserver as they came in mode enforce and in any case in mode observe.
func TestModesLearnAlike(t *testing.T) {
	for name, o := range map[string]options{
		"with room": {},
		"with limits": {
			ReadLimit: &rate{Events: 1, Window: 3 * time.Second, Burst: 5}, WriteLimit: &rate{Off: true},
			Cache: &caching{TTL: 10 * time.Second}, Identity: &identifying{TTL: 20 * time.Second, RejectedLimit: &rate{Off: true}},
		},
		"with a room named": {ExcludeRooms: neighbourRooms[2:]},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o.Homeserver = "synapse"
				m, random := newModes(t, o), rand.New(rand.NewPCG(5, 11))
				for !m.tellApart(neighbours()) {
					m = newModes(t, o)
				}
				n := newNeighbourhood(m)
				seen := make(map[string]int)
				for range 3000 {
					seen[m.step(n, random)]++
					if t.Failed() {
						return
					}
					time.Sleep(time.Duration(random.IntN(150)) * time.Millisecond)
				}
				for _, outcome := range []string{"hit read", "miss read", "rejected read", "forwarded write"} {
					if seen[outcome] == 0 {
						t.Errorf("there was no %s, only %v", outcome, seen)
					}
				}
				m.learnedAlike(t, seen)
			})
		})
	}
}

// step does something at both, and returns what became of it if it was about presence.
func (m *modes) step(n *neighbourhood, random *rand.Rand) (outcome string) {
	users := neighbours()
	n.mu.Lock()
	token := testkit.Pick(random, slices.Sorted(maps.Keys(n.tokens))...)
	user := n.tokens[token]
	n.mu.Unlock()
	room, other := testkit.Pick(random, neighbourRooms...), testkit.Pick(random, users...)
	client := "/_matrix/client/v3/"
	switch random.IntN(60) {
	case 0, 40, 41:
		m.passes("GET", client+"rooms/"+room+"/joined_members", token, "")
	case 1, 42, 43:
		m.passes("GET", client+"rooms/"+room+"/members?not_membership=leave", token, "")
	case 2, 3:
		m.passes("GET", fmt.Sprintf("%ssync?since=s%d", client, random.IntN(50)), token, "")
	case 4:
		m.passes("GET", client+"user/"+user+"/filter/1", token, "")
	case 5:
		m.passes("GET", client+"account/whoami", token, "")
	case 6:
		m.passes("POST", client+"rooms/"+room+"/"+testkit.Pick(random, "join", "leave", "join"), token, "{}")
	case 7:
		m.passes("POST", client+"rooms/"+room+"/kick", token, fmt.Sprintf(`{"user_id":%q}`, other))
	case 8: // past both
		n.mu.Lock()
		for _, p := range []*proxy{m.observing, m.enforcing} {
			p.hs.Mu.Lock()
			p.hs.Presence[other] = `{"presence":"offline"}`
			p.hs.Mu.Unlock()
		}
		n.joined[[2]string{room, other}] = random.IntN(2) == 0
		n.mu.Unlock()
	case 9:
		n.mu.Lock()
		n.logsIn(user)
		if len(n.tokens) > 40 {
			delete(n.tokens, token) // elsewhere
		}
		n.mu.Unlock()
	case 10, 11:
		// In mode observe nobody knows of a write by a new token that it is its user's until it is over, so that no
		// answer is kept soon after it: one more is observed as a miss.
		m.passes("GET", client+"account/whoami", token, "")
		body := fmt.Sprintf(`{"presence":"unavailable","status_msg":"%d"}`, random.IntN(100))
		return m.do(func() *http.Request { return request("PUT", statusPath(user), token, body) })
	case 12:
		localpart, _, _ := strings.Cut(other[1:], ":")
		made := testkit.NamedToken(localpart, fmt.Sprint("madeup", random.IntN(1000)))
		return m.get(made, user, "")
	default:
		return m.get(token, other, "")
	}
	return ""
}

// learnedAlike compares what both have learned, of what doesn't depend on who asked first.
func (m *modes) learnedAlike(t *testing.T, seen map[string]int) {
	o, e := m.observing.memory.counters, m.enforcing.memory.counters
	t.Logf("%v; by room %d and %d, by a first read %d", seen, o.byRoom.Load(), e.byRoom.Load(), e.lookups[lookupByRead].Load())
	if o.learned[learnedChange].Load() == 0 || o.learned[learnedList].Load() == 0 || e.byRoom.Load() == 0 || e.lookups[lookupByRead].Load() == 0 {
		t.Error("too little was learned: this shows little")
	}
}
