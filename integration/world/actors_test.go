package world_test

import (
	"fmt"
	"net"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/bubble"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/model"
)

// actor is somebody who sends requests.
type actor struct {
	name    string
	user    string
	address net.IP
	devices []string
	hostile bool     // has no account
	guest   bool     // has one for a while
	ghosts  []string // users that an appservice acts for
}

const (
	stranger = "@stranger:example.com"
	aNAT     = "192.0.2.1"
)

// actors are those who are there. Some are behind one address.
var actors = []*actor{
	{name: "alice", user: "@alice:example.com", address: net.ParseIP(aNAT), devices: []string{"PHONE", "LAPTOP", "TABLET"}},
	{name: "bob", user: "@bob:example.com", address: net.ParseIP(aNAT), devices: []string{"PHONE"}},
	{name: "carol", user: "@carol:example.com", address: net.ParseIP("2001:db8::1"), devices: []string{"LAPTOP"}},
	{name: "bridge", user: "@bridge:example.com", address: net.ParseIP("10.0.0.5"), devices: []string{"AS"}, ghosts: ghosts(30)},
	{name: "admin", user: "@admin:example.com", address: net.ParseIP("198.51.100.1"), devices: []string{"ADMIN"}},
	{name: "guest", user: "@guest:example.com", address: net.ParseIP("203.0.113.77"), devices: []string{"GUEST"}, guest: true},
}

// neighbours are twenty people behind one address.
var neighbours = func() (all []*actor) {
	for n := range 20 {
		name := fmt.Sprintf("neighbour%d", n)
		all = append(all, &actor{name: name, user: "@" + name + ":example.com", address: net.ParseIP(aNAT), devices: []string{"PHONE"}})
	}
	return all
}()

// mallory has no account, and is behind the address of others.
var mallory = &actor{name: "mallory", user: "@mallory:example.com", address: net.ParseIP(aNAT), devices: []string{"NONE"}, hostile: true}

func ghosts(n int) (users []string) {
	for i := range n {
		users = append(users, fmt.Sprintf("@ghost_%d:example.com", i+1))
	}
	return users
}

// tokenOf is the access token of a device, which is made anew when it logs in again.
func tokenOf(a *actor, device string) string { return bubble.TokenMark + "-" + a.name + "-" + device }

// secondToken is the one that it has then.
func secondToken(a *actor, device string) string { return tokenOf(a, device) + "-2" }

func sessionOf(a *actor, device string) model.Session {
	return model.Session{User: a.user, Device: device, Admin: a.name == "admin", Appservice: len(a.ghosts) > 0, Guest: a.guest}
}

// found gives a homeserver its accounts.
func found(p *plan) *model.Homeserver {
	hs := model.New(p.dialect)
	hs.Ahead, hs.Gzip = p.ahead, p.gzip
	hs.Change(func(now *model.Accounts) {
		for _, a := range append(neighbours, actors...) {
			for _, device := range a.devices {
				now.Sessions[tokenOf(a, device)] = sessionOf(a, device)
			}
			for _, user := range append(a.ghosts, a.user) {
				now.Joined[model.Membership{Room: 0, User: user}] = true
			}
		}
		now.Joined[model.Membership{Room: 1, User: stranger}] = true
		now.Joined[model.Membership{Room: 0, User: "@x/y:example.com"}] = true
		now.Joined[model.Membership{Room: 0, User: "@friend:elsewhere.example"}] = true
	})
	return hs
}

// founded is the homeserver of the staging site: whoever has no account at the other one is
// there who they like.
func founded(d *model.Dialect) *model.Homeserver {
	hs := model.New(d)
	hs.Change(func(now *model.Accounts) {
		for i, a := range actors {
			now.Sessions[fmt.Sprintf("%s-made-up-%d", bubble.TokenMark, i+1)] = model.Session{User: a.user, Device: "STAGING", Admin: true}
			now.Joined[model.Membership{Room: 0, User: a.user}] = true
		}
		now.Joined[model.Membership{Room: 0, User: stranger}] = true
	})
	return hs
}
