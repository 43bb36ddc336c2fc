package plan

import (
	"fmt"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

// Script says how requests are to be played that come from somewhere else than a description.
type Script struct {
	Settings   *gateway.Settings
	Homeserver string // "synapse" or "dendrite"
	Nodes      int

	// Sees tells who may see whom, and Members who is joined to a room. Both get and return user IDs. A nil
	// Sees is that everybody may see everybody.
	Sees    func(viewer, target string) bool
	Members func(room string) []string
}

// Player plays requests one after the other, through a whole configuration.
type Player struct {
	world   *world
	users   map[string]*User
	devices map[deviceKey]*Device
}

type deviceKey struct {
	userID, token    string
	isGhost, unknown bool
}

// NewPlayer returns one that has played nothing.
func NewPlayer(s Script) (*Player, error) {
	dialect, ok := homeservers[s.Homeserver]
	if !ok {
		return nil, fmt.Errorf("homeserver: it can be synapse or dendrite, not %q", s.Homeserver)
	}
	if s.Nodes < 1 || s.Nodes > maxNodes {
		return nil, fmt.Errorf("nodes: there can be 1 to %d, not %d", maxNodes, s.Nodes)
	}
	p := &Player{users: make(map[string]*User), devices: make(map[deviceKey]*Device)}
	sees := everybodySees
	if s.Sees != nil {
		sees = func(viewer, target *User) bool { return s.Sees(viewer.ID, target.ID) }
	}
	p.world = newWorld(s.Settings, s.Settings.Sizes, s.Nodes, dialect, sees, func(room string) (joined []*User) {
		if s.Members != nil {
			for _, id := range s.Members(room) {
				joined = append(joined, p.User(id))
			}
		}
		return joined
	})
	return p, nil
}

// User returns the user with an ID.
func (p *Player) User(id string) *User {
	u := p.users[id]
	if u == nil {
		u = &User{id, len(p.users)}
		p.users[id] = u
	}
	return u
}

// Users is how many there are.
func (p *Player) Users() int { return len(p.users) }

// Device returns the device of a user with a token. A ghost is a user of a bridge, whose token it
// has.
func (p *Player) Device(userID, token string, isGhost bool) *Device {
	return p.device(deviceKey{userID, token, isGhost, false})
}

// Stranger returns a device with a token that the homeserver doesn't know, at an address.
func (p *Player) Stranger(token, address string) *Device {
	d := p.device(deviceKey{"", token, false, true})
	d.Unknown, d.Address = true, address
	return d
}

func (p *Player) device(key deviceKey) *Device {
	d := p.devices[key]
	if d == nil {
		d = p.world.device(p.User(key.userID), key.token, key.isGhost)
		p.devices[key] = d
	}
	return d
}

// Play has a request come at its time. Requests must come in order; one that is late comes now.
func (p *Player) Play(r Request) {
	p.Until(r.At)
	p.world.send(&r)
}

// Until lets all happen that is due by a time since the start, and returns what has happened by then.
func (p *Player) Until(at time.Duration) Counts {
	p.world.agenda.runUntil(max(at, p.world.agenda.now.Sub(start)))
	return p.world.count()
}

// AtHomeserver applies a write or a sync that took another way than through the module.
func (p *Player) AtHomeserver(r Request) {
	p.Until(r.At)
	for _, h := range []*homeserver{p.world.homeserver, p.world.direct} {
		did := *h.did
		switch r.Kind {
		case Write:
			h.write(r.By, r.Presence, r.StatusMsg, p.world.agenda.now)
		case Sync:
			h.sync(r.By, r.Presence, p.world.agenda.now)
		}
		*h.did = did
	}
}
