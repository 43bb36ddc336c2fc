package survival_test

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
)

// person is somebody with a presence.
type person struct {
	id string

	writing  sync.Mutex // held while a write of theirs is under way: one at a time
	written  int64      // version of the last write that was sent; guarded by writing
	accepted int64      // of the last that was answered with 200, perhaps to be delivered later; likewise
	// acknowledged is the version of the last write that was answered with 200, seen the
	// largest that any reader was shown. No read that begins later may show less.
	acknowledged, seen atomic.Int64

	changing sync.Mutex // held while sessions are made or ended
	devices  [2]atomic.Pointer[session]
}

// floor is the least version that a read which begins now may show.
func (p *person) floor() int64 { return max(p.acknowledged.Load(), p.seen.Load()) }

// raise makes a floor at least so high.
func raise(floor *atomic.Int64, version int64) {
	for {
		old := floor.Load()
		if old >= version || floor.CompareAndSwap(old, version) {
			return
		}
	}
}

// session is a token of somebody's.
type session struct {
	owner *person
	token string
	state atomic.Int32
}

// The states of a session, in their order.
const (
	live  int32 = iota
	going       // a logout has been sent, or failed: the token may be good or not
	gone        // the logout was answered with 200
)

// town is everybody.
type town struct {
	people  []*person // the first ones read, too
	viewers int
	greedy  *person // goes over every limit
	bridged []*person
	// repeating write the same again and again, hasty more than they may, and don't mind if
	// it is delivered later.
	repeating, hasty []*person
	bad              []string // tokens that don't exist, shown again and again
}

// appservice is the token that acts for the bridged.
const appservice = "appservice-token"

func newTown(p plan) *town {
	t := &town{viewers: p.viewers, greedy: &person{id: "@greedy:example.com"}}
	for i := range p.people {
		t.people = append(t.people, &person{id: fmt.Sprintf("@person%d:example.com", i)})
	}
	for i := range p.bridged {
		t.bridged = append(t.bridged, &person{id: fmt.Sprintf("@bridge_%d:example.com", i)})
	}
	for i := range p.busy {
		t.repeating = append(t.repeating, &person{id: fmt.Sprintf("@repeating_%d:example.com", i)})
		t.hasty = append(t.hasty, &person{id: fmt.Sprintf("@hasty_%d:example.com", i)})
	}
	for i := range 50 {
		t.bad = append(t.bad, fmt.Sprintf("bad-%d", i))
	}
	return t
}

// moveIn gives everybody a session at the homeserver, viewers two.
func (t *town) moveIn(hs *scripted.Homeserver) {
	for i, p := range slices.Concat(t.people, []*person{t.greedy}, t.repeating, t.hasty) {
		for d := range p.devices {
			if d == 0 || i < t.viewers {
				p.devices[d].Store(&session{owner: p, token: hs.Login(p.id)})
			}
		}
	}
}

// everybody is all who write.
func (t *town) everybody() []*person {
	return slices.Concat([]*person{t.greedy}, t.people, t.bridged, t.repeating, t.hasty)
}

// viewer picks one who reads, and a device.
func (t *town) viewer(random *rand.Rand) (p *person, device int) {
	return t.people[random.IntN(t.viewers)], random.IntN(2)
}

// hides tells that a viewer may not see a target. It goes by the pair, so that one viewer
// is refused what another gets.
func hides(viewer, target string) bool {
	if viewer == target {
		return false
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(viewer + " " + target))
	return h.Sum32()%10 == 0
}
