package testkit

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Homeserver is a model of what one of the real ones makes of presence: how it reads
// words, merges devices and takes silent ones for gone. It is written from
// the homeservers' sources, and knows nothing of how this module reads them. Time is a
// parameter; what timers do meanwhile is caught up with at the next call.
type Homeserver struct {
	Name string // synapse, dendrite or tuwunel

	// Changed is called, if it isn't nil, when what is shown of a user changes, in the order of
	// time for each user. It must not call back.
	Changed func(user, state string, at time.Time)

	mu    sync.Mutex // guards all below
	users map[string]*modelUser
	ticks time.Time // when the timers last looked
}

type modelUser struct {
	devices map[string]*modelDevice
	shown   string
	// timed is when a timer last changed what is shown, if nothing else has since.
	timed time.Time

	// Dendrite: when which state was asked for by a sync, what came of that last, and when
	// an offline is looked at again.
	seen    map[string]time.Time
	synced  string
	at      time.Time
	recheck []time.Time
}

type modelDevice struct {
	state  string
	active time.Time
	syncs  int
}

var stateRank = map[string]int{"offline": 1, "unavailable": 2, "online": 3, "busy": 4}

// StateRank orders states as homeservers merge them. Nothing is 0.
func StateRank(state string) int { return stateRank[state] }

// NewHomeserver returns a model of a homeserver that starts now.
func NewHomeserver(name string, now time.Time) *Homeserver {
	return &Homeserver{Name: name, users: make(map[string]*modelUser), ticks: now}
}

func (hs *Homeserver) user(id string) *modelUser {
	u := hs.users[id]
	if u == nil {
		u = &modelUser{devices: make(map[string]*modelDevice), shown: "offline", seen: make(map[string]time.Time)}
		hs.users[id] = u
	}
	return u
}

func (u *modelUser) device(id string) *modelDevice {
	d := u.devices[id]
	if d == nil {
		d = &modelDevice{state: "offline"}
		u.devices[id] = d
	}
	return d
}

// merge shows the highest state of the devices.
func (u *modelUser) merge() {
	u.shown = "offline"
	for _, d := range u.devices {
		if stateRank[d.state] > stateRank[u.shown] {
			u.shown = d.state
		}
	}
}

// Presence returns what the user's presence is, and when a timer made it that: the zero
// time if something else did.
func (hs *Homeserver) Presence(user string, now time.Time) (state string, timed time.Time) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.pass(now)
	u := hs.user(user)
	return u.shown, u.timed
}

// Forget is what a restart does, or a race: nothing is left of a user, whom it shows as offline,
// as if a timer had done that.
func (hs *Homeserver) Forget(user string, now time.Time) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.pass(now)
	delete(hs.users, user)
	hs.user(user).timed = now
}

// Silence is for how long nothing has come of the one of a user's devices that are online of
// which nothing has come for longest.
func (hs *Homeserver) Silence(user string, now time.Time) (longest time.Duration) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.pass(now)
	for _, d := range hs.user(user).devices {
		if d.state == "online" {
			longest = max(longest, now.Sub(d.active))
		}
	}
	return longest
}

// change runs what a request does, after what the timers did before.
func (hs *Homeserver) change(user string, now time.Time, f func(u *modelUser)) {
	hs.pass(now)
	u := hs.user(user)
	before := u.shown
	f(u)
	if u.shown != before {
		u.timed = time.Time{}
		hs.report(user, u, now)
	}
}

func (hs *Homeserver) report(user string, u *modelUser, at time.Time) {
	if hs.Changed != nil {
		hs.Changed(user, u.shown, at)
	}
}

// pass lets the timers run until now.
func (hs *Homeserver) pass(now time.Time) {
	period := 5 * time.Second // of Synapse, exactly; of tuwunel, often enough
	if hs.Name == "dendrite" {
		period = time.Second
	}
	for !hs.ticks.Add(period).After(now) {
		hs.ticks = hs.ticks.Add(period)
		for id, u := range hs.users {
			before := u.shown
			switch hs.Name {
			case "synapse":
				u.timeoutSynapse(hs.ticks)
			case "dendrite":
				u.timeoutDendrite(hs.ticks)
			case "tuwunel":
				u.timeoutTuwunel(hs.ticks)
			}
			if u.shown != before {
				u.timed = hs.ticks
				hs.report(id, u, hs.ticks)
			}
		}
	}
	for id, u := range hs.users {
		before := u.shown
		if u.recheckDendrite(now); u.shown != before {
			hs.report(id, u, u.timed)
		}
	}
}

// timeoutSynapse is handle_timeout of synapse/handlers/presence.py.
func (u *modelUser) timeoutSynapse(now time.Time) {
	if u.shown == "offline" {
		return
	}
	changed := false
	for id, d := range u.devices {
		silent := now.Sub(d.active)
		if d.state == "online" && silent > 5*time.Minute {
			d.state, changed = "unavailable", true
		}
		if d.syncs == 0 && silent > 30*time.Second {
			delete(u.devices, id)
			changed = true
		}
	}
	if changed {
		u.merge()
	}
}

// timeoutDendrite is cleanPresence of syncapi/sync/requestpool.go, as if that looked all the time.
func (u *modelUser) timeoutDendrite(now time.Time) {
	u.recheckDendrite(now)
	if u.synced != "" && now.Sub(u.at) > 5*time.Minute {
		u.syncDendrite("unavailable", now, true)
		u.synced = ""
	}
}

// recheckDendrite is the second look at an offline, each at its time.
func (u *modelUser) recheckDendrite(now time.Time) {
	for len(u.recheck) > 0 && !u.recheck[0].After(now) {
		at, before := u.recheck[0], u.shown
		u.recheck = u.recheck[1:]
		if u.syncDendrite("offline", at, false); u.shown != before {
			u.timed = at
		}
	}
}

func (u *modelUser) timeoutTuwunel(now time.Time) {
	for _, d := range u.devices {
		silent := now.Sub(d.active)
		if d.state == "online" && silent > 5*time.Minute {
			d.state = "unavailable"
		}
		if silent > 30*time.Minute {
			d.state = "offline"
		}
	}
	u.merge()
}

// syncDendrite is updatePresenceInternal of syncapi/sync/requestpool.go.
func (u *modelUser) syncDendrite(word string, now time.Time, again bool) {
	const timeout = 10 * time.Second
	u.seen[word] = now
	set := "offline"
	for _, state := range []string{"online", "unavailable"} {
		if at, ok := u.seen[state]; ok && now.Sub(at) < timeout {
			set = state
			break
		}
	}
	if set == "offline" && again {
		u.recheck = append(u.recheck, now.Add(timeout))
	}
	before := u.synced
	u.synced, u.at = set, now
	if before != set {
		u.shown = set
	}
}

// Reads returns what a sync says: a word of presence, or "" if it says nothing, and the
// status with which the homeserver answers it. The body is that of a sliding sync, nil for
// a GET.
func (hs *Homeserver) Reads(rawQuery string, body []byte) (sets string, status int) {
	word, given := "", false
	switch {
	case body != nil && hs.Name != "tuwunel":
		if hs.Name == "dendrite" {
			return "", http.StatusNotFound
		}
		return "", http.StatusOK // Synapse's has nothing to do with presence
	case body != nil:
		var members map[string]json.RawMessage
		if len(body) > 0 && json.Unmarshal(body, &members) != nil {
			return "", http.StatusBadRequest
		}
		var raw json.RawMessage
		if raw, given = members["set_presence"]; given && (raw[0] != '"' || json.Unmarshal(raw, &word) != nil) {
			return "", http.StatusBadRequest
		}
	case hs.Name == "dendrite":
		form, _ := url.ParseQuery(rawQuery)
		word = form.Get("set_presence")
		given = word != ""
	default:
		n := 0
		for _, part := range strings.FieldsFunc(rawQuery, func(c rune) bool { return c == '&' || c == ';' && hs.Name == "synapse" }) {
			name, value, pair := strings.Cut(part, "=")
			if loose(name) != "set_presence" || !pair && hs.Name == "synapse" {
				continue
			}
			if n++; n == 1 {
				word, given = loose(value), true
			}
		}
		if n > 1 && hs.Name == "tuwunel" {
			return "", http.StatusBadRequest
		}
	}
	if !given {
		return "online", http.StatusOK
	}
	switch hs.Name {
	case "synapse":
		switch word {
		case "online", "unavailable":
			return word, http.StatusOK
		case "offline":
			return "", http.StatusOK
		}
		return "", http.StatusBadRequest
	case "dendrite":
		if word = strings.ToLower(word); !slices.Contains([]string{"online", "unavailable", "offline"}, word) {
			return "", http.StatusOK
		}
		return word, http.StatusOK
	}
	return tuwunelWord(word), http.StatusOK
}

// loose decodes what it can of a part of a query.
func loose(s string) string {
	if decoded, err := url.QueryUnescape(s); err == nil {
		return decoded
	}
	return s
}

func tuwunelWord(word string) string {
	if stateRank[word] == 0 {
		return "offline"
	}
	return word
}

// Sync begins a sync, and returns how it is answered and what ends it.
func (hs *Homeserver) Sync(user, device, rawQuery string, body []byte, now time.Time) (status int, end func(now time.Time)) {
	word, status := hs.Reads(rawQuery, body)
	if word == "" {
		return status, func(time.Time) {}
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.change(user, now, func(u *modelUser) {
		if hs.Name == "dendrite" {
			u.syncDendrite(word, now, true)
			return
		}
		d := u.device(device)
		d.state, d.active = word, now
		d.syncs++
		u.merge()
	})
	return status, func(now time.Time) {
		hs.mu.Lock()
		defer hs.mu.Unlock()
		hs.pass(now)
		// One that was taken for gone while its sync was open isn't: Synapse looks.
		if d := hs.user(user).devices[device]; d != nil && d.syncs > 0 {
			d.syncs--
		}
	}
}

// Put is a presence write of the user's own, and returns how it is answered.
func (hs *Homeserver) Put(user, device string, body []byte, now time.Time) (status int) {
	word := ""
	if hs.Name == "dendrite" {
		var content struct{ Presence string }
		if json.Unmarshal(body, &content) != nil {
			return http.StatusBadRequest
		}
		word = strings.ToLower(content.Presence)
	} else {
		var content map[string]any
		if json.Unmarshal(body, &content) != nil {
			return http.StatusBadRequest
		}
		var ok bool
		if word, ok = content["presence"].(string); !ok {
			return http.StatusBadRequest
		}
	}
	if hs.Name == "tuwunel" {
		word = tuwunelWord(word)
	} else if rank := stateRank[word]; rank == 0 || rank == stateRank["busy"] {
		return http.StatusBadRequest
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.change(user, now, func(u *modelUser) {
		if hs.Name == "dendrite" {
			u.shown = word
			return
		}
		d := u.device(device)
		d.state, d.active = word, now
		u.merge()
	})
	return http.StatusOK
}

// WouldShow returns what a user's presence would be after a write, which it doesn't make.
func (hs *Homeserver) WouldShow(user, device string, body []byte, now time.Time) (state string) {
	hs.mu.Lock()
	hs.pass(now)
	u := *hs.user(user)
	u.devices, u.seen, u.recheck = make(map[string]*modelDevice), maps.Clone(u.seen), slices.Clone(u.recheck)
	for id, d := range hs.user(user).devices {
		u.devices[id] = new(*d)
	}
	other := &Homeserver{Name: hs.Name, users: map[string]*modelUser{user: &u}, ticks: hs.ticks}
	hs.mu.Unlock()
	other.Put(user, device, body, now)
	state, _ = other.Presence(user, now)
	return state
}

// Active is what a user does by which a homeserver takes them for active.
func (hs *Homeserver) Active(user, device string, now time.Time) {
	if hs.Name == "dendrite" {
		return
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.change(user, now, func(u *modelUser) {
		d := u.device(device)
		d.active = now
		if hs.Name == "tuwunel" || d.state == "unavailable" {
			d.state = "online"
		}
		u.merge()
	})
}
