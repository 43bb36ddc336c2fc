package cache

import (
	"hash/maphash"
	"sync/atomic"
	"time"
)

// memberships says from when on answers about who may see whom count again. A homeserver
// shows a presence to those who share a room with its user, so whether one user may see
// another changes only if one of the two joins or leaves a room.
//
// It has the time of the last change for each user, by a hash, in an array of fixed size. A
// permission or a denial knows when its request departed, and counts if that was after the last
// change of its viewer, of its target and of all users. So a change ends all that it may
// concern at once, and finds none of it:
//
//	1 read:   departs for the homeserver at 10
//	1 read:   the homeserver answers 200
//	2 change: the viewer is kicked at the homeserver, and we are told so at 11
//	1 read:   its answer arrives, and is kept as of 10
//	3 read:   finds it, and that the viewer's answers count from 11 on: a miss
//
// Two users with the same hash end each other's permissions. That costs a question, and shows
// nobody anything.
//
// A homeserver of several processes may apply a change in one of them before another, which
// answers reads, knows it. So answers count from the end of a time of settle on:
//
//	1 change: the process that changes memberships applies a kick, we are told so at 11
//	2 read:   departs at 12, the process that answers it doesn't know of the kick yet: 200
//	1 change: that one applies it at 13
//	3 read:   finds the answer of 12, which doesn't count before 11 + settle
type memberships struct {
	seed maphash.Seed
	all  atomic.Int64 // on the table's clock, as users
	// users has the first departure whose answer counts, which only grows. It is nil until the
	// first change: many a site has a table and never hears of one.
	users atomic.Pointer[membershipArray]
}

type membershipArray [membershipSlots]atomic.Int64

// membershipSlots take half a megabyte. On a server with 10 changes a second a user loses
// what is known of them to a neighbour's change once in two hours.
const membershipSlots = 1 << 16

func newMemberships() *memberships { return &memberships{seed: maphash.MakeSeed()} }

func (m *memberships) slot(userID string) uint64 {
	return maphash.String(m.seed, userID) % membershipSlots
}

// changed lets answers to requests that depart before a time count no more.
func (m *memberships) changed(userID string, counts int64) {
	users := m.users.Load()
	if users == nil {
		m.users.CompareAndSwap(nil, new(membershipArray))
		users = m.users.Load()
	}
	raiseTo(&users[m.slot(userID)], counts)
}

// since returns the first departure whose answer about a user's memberships counts.
func (m *memberships) since(userID string) int64 {
	since := m.all.Load()
	if users := m.users.Load(); users != nil {
		since = max(since, users[m.slot(userID)].Load())
	}
	return since
}

// hold reports whether neither user's memberships have changed since a request departed.
func (m *memberships) hold(viewer, target string, departed int64) bool {
	return departed >= m.since(viewer) && departed >= m.since(target)
}

// MembershipChanged ends what is known of whom a user may see, and of who may see them: the
// user has joined or left a room, or may have. Call it when that has happened and before anybody
// is told so. Answers to requests that depart within the time of settle from now on don't count
// either.
func (p *Presence) MembershipChanged(userID string, now time.Time, settle time.Duration) {
	p.memberships.changed(userID, p.clock(now)+int64(settle)+1)
}

// AllMembershipsChanged is [Presence.MembershipChanged] for all users.
func (p *Presence) AllMembershipsChanged(now time.Time, settle time.Duration) {
	raiseTo(&p.memberships.all, p.clock(now)+int64(settle)+1)
}

// MembershipHolds reports whether what an answer says of whom the viewer may see still counts
// for the target, if its request departed at that time: neither's memberships have changed since.
func (p *Presence) MembershipHolds(viewer, target string, departed time.Time) bool {
	return p.memberships.hold(viewer, target, p.clock(departed))
}

// raiseTo makes a number at least as high as value.
func raiseTo(number *atomic.Int64, value int64) {
	for {
		known := number.Load()
		if known >= value || number.CompareAndSwap(known, value) {
			return
		}
	}
}
