package leaks_test

import (
	"iter"
	"maps"
	"sync"
	"time"
)

// world is what the homeserver knows about accounts and rooms from one moment to
// another. It is immutable once another has followed it.
type world struct {
	from, until time.Time // until is not part of it; zero in the present one

	sessions    map[string]session // by access token
	joined      map[membership]bool
	locked      map[string]bool // users
	deactivated map[string]bool
}

type session struct {
	owner, device string
	appservice    bool
	admin         bool
}

type membership struct {
	room int
	user string
}

// shareRoom reports whether two users are in one room.
func (w *world) shareRoom(a, b string) bool {
	for in := range w.joined {
		if in.user == a && w.joined[membership{in.room, b}] {
			return true
		}
	}
	return false
}

// hasDevice reports whether a user has a device of that name.
func (w *world) hasDevice(user, device string) bool {
	for _, s := range w.sessions {
		if s.owner == user && s.device == device {
			return true
		}
	}
	return false
}

// join lets a user join a room, if the account is not deactivated.
func (w *world) join(room int, user string) {
	if !w.deactivated[user] {
		w.joined[membership{room, user}] = true
	}
}

// leave lets a user leave all rooms.
func (w *world) leave(user string) {
	maps.DeleteFunc(w.joined, func(in membership, _ bool) bool { return in.user == user })
}

// endSessions logs a user out of all devices for which end is true.
func (w *world) endSessions(user string, end func(token string, s session) bool) {
	maps.DeleteFunc(w.sessions, func(token string, s session) bool {
		return s.owner == user && !s.appservice && end(token, s)
	})
}

// deactivate ends an account.
func (w *world) deactivate(user string) {
	w.deactivated[user] = true
	w.endSessions(user, func(string, session) bool { return true })
	w.leave(user)
}

// history is the succession of worlds.
type history struct {
	mu     sync.Mutex
	worlds []*world
}

func newHistory() *history {
	return &history{worlds: []*world{{
		from:        time.Now(),
		sessions:    make(map[string]session),
		joined:      make(map[membership]bool),
		locked:      make(map[string]bool),
		deactivated: make(map[string]bool),
	}}}
}

func (h *history) now() *world {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.worlds[len(h.worlds)-1]
}

// change puts another world in the place of the present one.
func (h *history) change(f func(w *world)) (before, after *world) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before = h.worlds[len(h.worlds)-1]
	after = &world{
		from:        time.Now(),
		sessions:    maps.Clone(before.sessions),
		joined:      maps.Clone(before.joined),
		locked:      maps.Clone(before.locked),
		deactivated: maps.Clone(before.deactivated),
	}
	f(after)
	before.until = after.from
	h.worlds = append(h.worlds, after)
	return before, after
}

// between yields the worlds that there were after lo and up to hi, the last first.
func (h *history) between(lo, hi time.Time) iter.Seq[*world] {
	h.mu.Lock()
	worlds := h.worlds
	h.mu.Unlock()
	return func(yield func(*world) bool) {
		for i := len(worlds) - 1; i >= 0; i-- {
			w := worlds[i]
			if i < len(worlds)-1 && !w.until.After(lo) {
				return
			}
			if !w.from.After(hi) && !yield(w) {
				return
			}
		}
	}
}
