package plan

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// block is a part of a server that knows nobody of the other parts: whole rooms, and all who are in
// them. What its people do depends on its number and the description, and on nothing that the module
// does, so that two configurations are compared under the same load.
type block struct {
	*world
	load   *Load
	random *rand.Rand
	people []*person
	rooms  map[string][]*User
}

// person is a user, or a bridge's ghost.
type person struct {
	user    *User
	rooms   []string
	devices []*client
	session int // the number of the one that they are in, 0 if they are away
	n       int // sessions until now
}

// client is a device and what it last said.
type client struct {
	*Device
	person    *person
	isBrowser bool
	presence  matrix.Presence
	statusMsg string
}

// newBlock returns the block of a number with so many users, and as many ghosts of each bridge.
func newBlock(l *Load, number, users int, ghosts []int, w *world) *block {
	b := &block{
		world: w, load: l, rooms: make(map[string][]*User),
		random: rand.New(rand.NewPCG(uint64(number), 0x706c616e)), //nolint:gosec // G115, G404: a number; not for secrets
	}
	w.members = func(room string) []*User { return b.rooms[room] }
	for i := range users {
		b.people = append(b.people, &person{user: &User{fmt.Sprintf("@user%d:%d.test", i, number), i}})
	}
	for i, n := range ghosts {
		for j := range n {
			index := len(b.people)
			b.people = append(b.people, &person{user: &User{fmt.Sprintf("@bridge_%d_%d:%d.test", i, j, number), index}})
			b.startGhost(b.people[index], i)
		}
	}
	b.makeRooms()
	for _, p := range b.people[:users] {
		b.startPerson(p)
	}
	return b
}

// makeRooms puts everybody into rooms: of each kind as many as a user has, cut from a shuffled
// list of all.
func (b *block) makeRooms() {
	for kind, k := range b.load.Rooms {
		for left := k.PerUser; left > 0; left-- {
			some := slices.Clone(b.people)
			b.random.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
			some = some[:int(float64(len(some))*min(1, left))]
			for i := 0; i < len(some); i += k.Size {
				id := fmt.Sprintf("!%d_%d:test", kind, len(b.rooms))
				for _, p := range some[i:min(i+k.Size, len(some))] {
					p.rooms = append(p.rooms, id)
					b.rooms[id] = append(b.rooms[id], p.user)
				}
			}
		}
	}
}

// never is a mean of what doesn't happen while anything is simulated.
const never = 1000 * time.Hour

// exponential is a random time span with a mean in nanoseconds, which may be any number.
func (b *block) exponential(mean float64) time.Duration {
	return time.Duration(b.random.ExpFloat64() * min(mean, float64(never)))
}

// each does something again and again in a session, so often in an hour.
func (b *block) each(p *person, session int, perHour float64, do func()) {
	if perHour <= 0 {
		return
	}
	mean := float64(time.Hour) / perHour
	var again func()
	again = func() {
		if p.session == session {
			do()
			b.agenda.in(b.exponential(mean), again)
		}
	}
	b.agenda.in(b.exponential(mean), again)
}

// startPerson begins the life of a user, who is online or away.
func (b *block) startPerson(p *person) {
	switch l := b.load; {
	case l.Online == 0:
	case b.random.Float64() < l.Online:
		b.agenda.in(time.Duration(b.random.Float64()*float64(l.SyncEvery)), func() { b.comesOnline(p) })
	default:
		b.agenda.in(b.exponential(b.away()), func() { b.comesOnline(p) })
	}
}

// away is for how many nanoseconds a user is away.
func (b *block) away() float64 {
	return float64(b.load.Session) * (1 - b.load.Online) / b.load.Online
}

// comesOnline begins a session of a user with all their devices.
func (b *block) comesOnline(p *person) {
	p.n++
	p.session = p.n
	session, n := p.session, int(b.load.Devices)
	if b.random.Float64() < b.load.Devices-float64(n) {
		n++
	}
	for len(p.devices) < n {
		d := b.device(p.user, fmt.Sprintf("%s %d", p.user.ID, len(p.devices)), false)
		p.devices = append(p.devices, &client{Device: d, person: p, isBrowser: b.random.Float64() < b.load.Browsers})
	}
	for _, c := range p.devices[:n] {
		c.presence = matrix.Online
		b.syncs(c, session)
		b.each(p, session, b.load.Idles, func() { c.presence = otherThan(c.presence) })
		b.each(p, session, b.load.Writes, func() { b.writes(c) })
		b.each(p, session, b.load.Opens, func() { b.opens(c, session) })
	}
	b.agenda.in(b.exponential(float64(b.load.Session)), func() {
		p.session = 0
		for _, c := range p.devices {
			b.leave(c.Device)
		}
		if b.load.Online < 1 {
			b.agenda.in(b.exponential(b.away()), func() { b.comesOnline(p) })
		} else {
			b.comesOnline(p)
		}
	})
}

func otherThan(p matrix.Presence) matrix.Presence {
	if p == matrix.Online {
		return matrix.Unavailable
	}
	return matrix.Online
}

// syncs has a device sync as long as a session lasts.
func (b *block) syncs(c *client, session int) {
	if c.person.session != session {
		return
	}
	const longPoll = 30 * time.Second
	lasts := time.Duration((0.5 + b.random.Float64()) * float64(b.load.SyncEvery))
	b.send(&Request{Kind: Sync, By: c.Device, Presence: c.presence, Lasts: min(lasts, longPoll), Timeout: longPoll})
	b.agenda.in(lasts, func() { b.syncs(c, session) })
}

// writes has a device write its presence, perhaps another than before.
func (b *block) writes(c *client) {
	if b.random.Float64() < b.load.Changes {
		c.presence = otherThan(c.presence)
	}
	b.send(&Request{Kind: Write, By: c.Device, Presence: c.presence, StatusMsg: c.statusMsg})
}

// opening is a room that a device shows.
type opening struct {
	by      *client
	session int
	members []*User
	until   time.Time
	begun   time.Time // the round of looks
	next    int
}

// lookEvery is the time from one look to the next when a room is opened: browsers and homeservers
// handle a few at a time.
const lookEvery = 5 * time.Millisecond

// opens has a device open one of its rooms.
func (b *block) opens(c *client, session int) {
	if len(c.person.rooms) == 0 || b.load.Looks == 0 {
		return
	}
	room := c.person.rooms[b.random.IntN(len(c.person.rooms))]
	members := b.rooms[room]
	o := &opening{by: c, session: session, until: b.agenda.now.Add(time.Duration(b.load.Shown)), begun: b.agenda.now}
	for i, from := 0, b.random.IntN(len(members)); i < len(members) && len(o.members) < b.load.Looks; i++ {
		if m := members[(from+i)%len(members)]; m != c.person.user {
			o.members = append(o.members, m)
		}
	}
	wait := time.Duration(0)
	if b.random.Float64() < b.load.Lists {
		b.send(&Request{Kind: List, By: c.Device, Room: room})
		wait = 10 * time.Millisecond // the client shows whom it has got
	}
	if len(o.members) > 0 {
		b.agenda.in(wait, func() { b.looks(o) })
	}
}

// looks has a device look at the next member, and perhaps at all of them again later.
func (b *block) looks(o *opening) {
	if o.by.person.session != o.session {
		return
	}
	target := o.members[o.next]
	if o.by.isBrowser {
		b.send(&Request{Kind: Preflight, By: o.by.Device, Target: target})
	}
	b.send(&Request{Kind: Read, By: o.by.Device, Target: target})
	if o.next++; o.next < len(o.members) {
		b.agenda.in(lookEvery, func() { b.looks(o) })
		return
	}
	poll := time.Duration(b.load.Poll)
	if again := o.begun.Add(poll); poll > 0 && again.Before(o.until) {
		o.next, o.begun = 0, again
		b.agenda.at(again.Sub(start), func() {
			o.begun = b.agenda.now
			b.looks(o)
		})
	}
}

// startGhost begins the life of a bridge's user.
func (b *block) startGhost(p *person, bridge int) {
	of := b.load.Bridges[bridge]
	every, changes := time.Duration(of.Every), time.Duration(of.Changes)
	c := &client{Device: b.device(p.user, fmt.Sprintf("bridge %d", bridge), true), person: p, presence: matrix.Online}
	changed := time.Duration(b.random.Float64() * float64(changes))
	var again func()
	again = func() {
		if at := b.agenda.now.Sub(start); at >= changed {
			c.presence = otherThan(c.presence)
			changed = at + changes
		}
		b.send(&Request{Kind: Write, By: c.Device, Presence: c.presence})
		b.agenda.in(time.Duration((0.75+b.random.Float64()/2)*float64(every)), again)
	}
	b.agenda.in(time.Duration(b.random.Float64()*float64(every)), again)
}
