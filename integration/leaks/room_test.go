package leaks_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"pgregory.net/rapid"
)

// What passes by and says who may see whom: lists of members, and syncs.

// crowd are members of every room, so that the module may find that the homeserver shows presences
// by it. Nobody logs in as one of them.
var crowd = func() (users []string) {
	for i := range 10 {
		users = append(users, fmt.Sprintf("@crowd%d:example.com", i))
	}
	return users
}()

// excluded is the room by which a homeserver that leaves one out shows no presence.
const excluded = 1

func roomID(room int) string { return fmt.Sprintf("!room%d:example.com", room) }

var listRoute = regexp.MustCompile(`^rooms/!room([01]):example\.com/(joined_members|members)$`)

// syncCache is what Synapse keeps for two minutes of the syncs that it has answered.
type syncCache map[string]cachedSync

type cachedSync struct {
	at   time.Time
	body string
}

// list answers a request for the members of a room as Synapse does: who isn't in it is refused, but an
// appservice isn't.
func (hs *homeserver) list(r *http.Request, in *reading, w *world, viewer string) *answer {
	match := listRoute.FindStringSubmatch(in.path)
	if match == nil {
		return nil
	}
	room := int(match[1][0] - '0')
	if !w.joined[membership{room, viewer}] && !w.sessions[in.shown.token].appservice {
		return &answer{403, "application/json", `{"errcode":"M_FORBIDDEN","error":"You aren't a member of the room."}`}
	}
	joined, chunk := map[string]any{}, []any{}
	for at := range w.joined {
		if at.room == room {
			joined[at.user] = map[string]any{"display_name": nil}
		}
	}
	if match[2] == "joined_members" {
		return &answer{200, "application/json", jsonOf(map[string]any{"joined": joined})}
	}
	event := func(user, membership string) {
		chunk = append(chunk, map[string]any{
			"type": "m.room.member", "sender": user, "state_key": user, "content": map[string]any{"membership": membership},
		})
	}
	for user := range joined {
		event(user, "join")
	}
	event(admin, "leave")
	if hs.parameters(r.URL.RawQuery)["at"] != "" { // everybody has been there once
		for token := range w.sessions {
			event(w.sessions[token].owner, "join")
		}
	}
	return &answer{200, "application/json", jsonOf(map[string]any{"chunk": chunk})}
}

// sync answers a GET /sync with the presence of all whom the viewer may see, or with what it has
// answered to the same before.
func (hs *homeserver) sync(r *http.Request, in *reading, w *world, viewer string) *answer {
	if in.path != "sync" || r.Method != http.MethodGet {
		return nil
	}
	since := hs.parameters(r.URL.RawQuery)["since"]
	key := viewer + " " + w.sessions[in.shown.token].device + " " + since
	if kept, ok := hs.syncs[key]; ok && hs.name == "synapse" && time.Since(kept.at) < 2*time.Minute {
		return &answer{200, "application/json", kept.body}
	}
	events := []any{}
	for at := range w.joined {
		if hs.maySee(w, viewer, at.user) {
			events = append(events, map[string]any{"type": "m.presence", "sender": at.user, "content": json.RawMessage(hs.state(viewer, at.user))})
		}
	}
	body := jsonOf(map[string]any{"next_batch": "s", "presence": map[string]any{"events": events}})
	hs.syncs[key] = cachedSync{time.Now(), body}
	return &answer{200, "application/json", body}
}

// passing is a request whose answer says who may see whom.
func (m *machine) passing(t *rapid.T, token string) *exchange {
	c := m.spellCredential(t, token, often(t, "plain credential", 80))
	client := "/_matrix/client/" + pick(t, "version", "v3", "v3", "r0", "unstable") + "/"
	join := func(more string) {
		if c.query == "" {
			c.query = "?" + more
		} else {
			c.query += "&" + more
		}
	}
	if often(t, "sync", 40) {
		join(pick(t, "since", "since=a", "since=b", "since=a&timeout=0", "since=%61", "timeout=0"))
		return m.request(http.MethodGet, client+"sync", c, nil, "")
	}
	if often(t, "at", 10) {
		join(pick(t, "how", "at=s1", "%61t=s1", "membership=join;at=s1"))
	}
	path := client + "rooms/" + url.PathEscape(roomID(pick(t, "room", 0, 0, 1))) + "/" + pick(t, "list", "joined_members", "members")
	return m.request(pick(t, "method", "GET", "GET", "GET", "HEAD"), path, c, nil, "")
}

// Enter is that viewers open a room: they get the list of its members and look at them, some of
// whom have just left, or leave meanwhile.
func (m *machine) Enter(t *rapid.T) {
	viewer, other, target := m.three(t)
	m.meet(viewer, other, target)
	own, others := m.tokenOf(t, viewer), m.tokenOf(t, other)
	plain := credential{fields: []string{"Authorization: Bearer " + own}, plain: true}
	m.alone(t, m.request(http.MethodGet, "/_matrix/client/v3/rooms/"+roomID(0)+"/joined_members", plain, nil, ""))
	if often(t, "trial", 70) {
		for _, user := range crowd {
			m.alone(t, m.read(t, own, user, true))
		}
	}
	m.alone(t, m.read(t, others, target, true))
	for range rapid.IntRange(1, 4).Draw(t, "times") {
		switch pick(t, "what", "list", "list", "leave", "kick", "wait", "read") {
		case "list":
			m.alone(t, m.passing(t, pick(t, "whose", own, others, m.someToken(t))))
		case "leave":
			m.Elsewhere(t)
		case "kick":
			time.Sleep(time.Millisecond)
			user := pick(t, "kicked", viewer, target)
			m.hs.change(func(w *world) { w.leave(user) })
		case "wait":
			m.wait(t, m.court.rules.ttl)
		}
		m.alone(t, m.read(t, pick(t, "reader", own, others), pick(t, "read", target, viewer, other), true))
	}
}

// Sync is that a viewer syncs, perhaps asks for the same again, and has left between.
func (m *machine) Sync(t *rapid.T) {
	viewer, other, target := m.three(t)
	m.meet(viewer, other, target)
	own, others := m.tokenOf(t, viewer), m.tokenOf(t, other)
	m.alone(t, m.read(t, own, viewer, true)) // it is known whose the token is
	if often(t, "long after the start", 60) {
		time.Sleep(5 * time.Minute)
	}
	sync := func() {
		c := credential{fields: []string{"Authorization: Bearer " + pick(t, "whose", own, own, m.tokenOf(t, viewer))}, plain: true}
		c.query = "?" + strings.Join([]string{pick(t, "since", "since=a", "since=a", "since=b"), pick(t, "more", "timeout=0", "filter=1")}, "&")
		m.alone(t, m.request(http.MethodGet, "/_matrix/client/v3/sync", c, nil, ""))
	}
	for range rapid.IntRange(1, 4).Draw(t, "times") {
		sync()
		m.alone(t, m.read(t, others, target, true))
		m.alone(t, m.read(t, own, target, true))
		switch pick(t, "then", "leave", "leave", "wait", "wait longer", "nothing") {
		case "leave":
			time.Sleep(time.Millisecond)
			m.hs.change(func(w *world) { w.leave(viewer) })
		case "wait":
			m.wait(t, m.court.rules.ttl)
		case "wait longer":
			time.Sleep(100 * time.Second)
		}
	}
}
