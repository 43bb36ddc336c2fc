package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
)

// person is a device of a user, or an appservice that speaks for one.
type person struct {
	id, token string
	ghost     bool   // the token is the appservice's
	room      string // that they are in, the last one
	since     atomic.Pointer[string]
}

// bigRoom is how many members of the big room are in one room: a homeserver takes minutes
// to let thousands join one. The viewer is in all of them.
const bigRoom = 200

// populate registers everybody, puts them into rooms and gives each a presence.
//
// People are in rooms of 50. The first of these rooms also has the popular targets and the
// bridge's ghosts. The members of the big room and the popular targets are users of the
// appservice: they are quickly made, and the homeserver treats their presence like
// everybody's.
func (w *world) populate(ctx context.Context, s size) error {
	client := w.server.Client()
	register := func(name string) (*person, error) {
		user, err := client.Register(ctx, name, "the password of "+name)
		return &person{id: user.ID, token: user.AccessToken}, err
	}
	for i := range s.people {
		p, err := register(fmt.Sprintf("person%d", i))
		if err != nil {
			return err
		}
		w.people = append(w.people, p)
	}
	var err error
	if w.outsider, err = register("outsider"); err != nil {
		return err
	}
	user, err := client.Login(ctx, w.people[warrior].id, fmt.Sprintf("the password of person%d", warrior))
	if err != nil {
		return err
	}
	w.second = &person{id: user.ID, token: user.AccessToken}

	for _, g := range []struct {
		all  *[]*person
		name string
		n    int
	}{{&w.members, "ghost_member", s.members}, {&w.targets, "ghost_popular", s.targets}, {&w.ghosts, "bridge_", s.ghosts}} {
		for i := range g.n {
			name := fmt.Sprintf("%s%d", g.name, i)
			if err := client.RegisterGhost(ctx, homeserver.ASToken, name); err != nil {
				return err
			}
			*g.all = append(*g.all, &person{id: w.server.UserID(name), token: homeserver.ASToken, ghost: true})
		}
	}

	if err := w.fillRooms(ctx); err != nil {
		return err
	}
	var all [][]*person
	for _, group := range [][]*person{w.people, w.members, w.targets, w.ghosts, {w.outsider}} {
		for i := 0; i < len(group); i += roomSize {
			all = append(all, group[i:min(i+roomSize, len(group))])
		}
	}
	return inParallel(all, func(some []*person) error { return w.settle(ctx, some) })
}

// fillRooms makes the rooms, and has people join them.
func (w *world) fillRooms(ctx context.Context) error {
	var rooms [][]*person
	for i := 0; i < len(w.people); i += roomSize {
		rooms = append(rooms, w.people[i:min(i+roomSize, len(w.people)):min(i+roomSize, len(w.people))])
	}
	rooms[0] = append(append(rooms[0], w.targets...), w.ghosts...)
	if w.hides { // where everybody sees everybody, rooms cost only time
		for i := 0; i < len(w.members); i += bigRoom {
			rooms = append(rooms, append([]*person{w.people[0]}, w.members[i:min(i+bigRoom, len(w.members))]...))
		}
	}
	return inParallel(rooms, func(room []*person) error {
		id, err := w.join(ctx, room)
		if room[0] == w.people[0] && len(room) > 1 && room[1] == w.people[1] {
			w.room = id
		}
		return err
	})
}

// join makes a room of the first, and lets the others join it.
func (w *world) join(ctx context.Context, room []*person) (id string, err error) {
	var created struct {
		RoomID string `json:"room_id"`
	}
	client := w.server.Client()
	err = client.Do(ctx, http.MethodPost, "/_matrix/client/v3/createRoom", room[0].token, map[string]any{"preset": "public_chat"}, &created)
	if err != nil {
		return "", err
	}
	if len(room) > 1 && !room[1].ghost { // else it is one more room of the first's
		for _, p := range room {
			p.room = created.RoomID
		}
	}
	for _, p := range room[1:] {
		path := p.speak("/_matrix/client/v3/join/" + url.PathEscape(created.RoomID))
		if err := client.Do(ctx, http.MethodPost, path, p.token, map[string]any{}, nil); err != nil {
			return "", err
		}
	}
	return created.RoomID, nil
}

// settle lets people write directly that they are offline, so that no timer of the
// homeserver is running for them, and notes it in the ledger.
func (w *world) settle(ctx context.Context, some []*person) error {
	for _, p := range some {
		a := w.write(ctx, w.server.URL, request{kind: write, by: p, presence: "offline", change: true})
		if a.status != http.StatusOK {
			return fmt.Errorf("writing the first presence of %s: %d %s", p.id, a.status, a.body)
		}
	}
	return nil
}

// speak adds whom an appservice speaks for to a path without a query.
func (p *person) speak(path string) string {
	if !p.ghost {
		return path
	}
	return path + "?user_id=" + url.QueryEscape(p.id)
}

// inParallel does something with all, four at a time, and returns the first error.
func inParallel[T any](all []T, do func(T) error) error {
	var wg sync.WaitGroup
	var once sync.Once
	var first error
	work := make(chan T)
	for range 4 {
		wg.Go(func() {
			for one := range work {
				if err := do(one); err != nil {
					once.Do(func() { first = err })
				}
			}
		})
	}
	for _, one := range all {
		work <- one
	}
	close(work)
	wg.Wait()
	return first
}
