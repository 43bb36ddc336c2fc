package cache

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"sync"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/sampled"
)

// rooms says who may see whom because both are joined to a room, as a list of its members has
// told that passed by. One list permits as many pairs as a homeserver would have to be asked
// about one by one, and takes memory by members.
//
// It is kept by user: the rooms that each was last listed in, and when. Users are kept by a keyed
// hash of 128 bits and rooms by one of 64, as pairs are, see permissions.
//
// That both are joined isn't always enough. A homeserver may leave rooms out of what it shows
// presences by (Synapse's exclude_rooms_from_presence), and shows none to a guest. So a room is
// on trial until the homeserver has shown enough users of it to others of it, see trials; and a
// viewer must be in good standing: the homeserver has shown them a presence, or said that they are
// no guest, and has let them in again since.
//
// What permits a pair departed with the oldest of these: when the viewer and the target were listed,
// and when the viewer was last let in.
type rooms struct {
	secret [16]byte
	shards [maxShards]roomShard // by user
	trials trials
}

// UserKey stands for a user ID in lists of members.
type UserKey [16]byte

// roomKey stands for a room, or for a set of rooms: then it is all of theirs in one. It is never 0.
type roomKey uint64

type roomShard struct {
	mu      sync.Mutex // guards persons
	persons *sampled.Map[UserKey, person]
}

// person is what is known of a user.
type person struct {
	standing int64 // as viewer, see rooms; or never
	listed   [maxListed]listing
}

// listing is that a room's list had somebody joined. The zero listing is none.
type listing struct {
	room roomKey
	at   int64 // when the request for the list departed
}

// maxListed is how many rooms are known of a user, those that were listed last. Few open more
// within a ttl. Who is in a hundred that others open is asked about when it isn't among them.
const maxListed = 8

// latest is by when a person is dropped, if there are too many.
func (p *person) latest() int64 {
	latest := p.standing
	for _, l := range p.listed {
		if l.room != 0 {
			latest = max(latest, l.at)
		}
	}
	return latest
}

// roomsShare is which part of the number of users the rooms, and sets of rooms, may be that have
// a trial.
const roomsShare = 8

// newRooms returns tables that keep next to nothing until they are resized.
func newRooms() *rooms {
	r := &rooms{trials: newTrials()}
	rand.Read(r.secret[:]) // never fails, see crypto/rand
	older := func(a, b person) bool { return a.latest() < b.latest() }
	for i := range r.shards {
		r.shards[i].persons = sampled.New[UserKey](1, older)
	}
	return r
}

func (r *rooms) resize(users int) {
	for i := range r.shards {
		shard := &r.shards[i]
		shard.mu.Lock()
		shard.persons.Resize(share(users, len(r.shards)))
		shard.mu.Unlock()
	}
	r.trials.resize(share(users, roomsShare))
}

func (r *rooms) key(userID []byte) UserKey {
	var buffer [16 + 2*maxInline]byte
	sum := sha256.Sum256(append(append(append(buffer[:0], r.secret[:]...), 'u'), userID...))
	return UserKey(sum[:])
}

func (r *rooms) userKey(userID string) UserKey {
	var buffer [maxInline]byte
	return r.key(append(buffer[:0], userID...))
}

func (r *rooms) roomKey(roomID string) roomKey {
	sum := sha256.Sum256(append(append(append([]byte{}, r.secret[:]...), 'r'), roomID...))
	return max(1, roomKey(binary.LittleEndian.Uint64(sum[:])))
}

func (r *rooms) shard(key UserKey) *roomShard { return &r.shards[int(key[0])%len(r.shards)] }

// person returns what is known of a user.
func (r *rooms) person(key UserKey) (p person, ok bool) {
	shard := r.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	return shard.persons.Get(key)
}

// change changes what is known of a user. If nothing is, it does so only if create says so.
func (r *rooms) change(key UserKey, create bool, f func(p *person)) {
	shard := r.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	p, ok := shard.persons.Get(key)
	if !ok {
		if !create {
			return
		}
		p.standing = never
	}
	f(&p)
	shard.persons.Put(key, p)
}

// list notes that a user is joined to a room. It is [rooms.change] without an allocation, for thousands
// at once.
func (r *rooms) list(key UserKey, room roomKey, at int64) {
	shard := r.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	p, ok := shard.persons.Get(key)
	if !ok {
		p.standing = never
	}
	p.list(room, at)
	shard.persons.Put(key, p)
}

// list notes that a user is joined to a room.
func (p *person) list(room roomKey, at int64) {
	place := 0
	for i, l := range p.listed {
		if l.room == room {
			p.listed[i].at = max(l.at, at)
			return
		}
		if l.room == 0 || p.listed[place].room != 0 && l.at < p.listed[place].at {
			place = i
		}
	}
	if known := &p.listed[place]; known.room == 0 || known.at <= at {
		*known = listing{room, at}
	}
}

// sharing is the rooms that two users share.
type sharing struct {
	rooms [maxListed]listing
	n     int
	// set stands for all of them: when the oldest of their lists departed. Of one room it is that
	// room.
	set listing
}

func (s *sharing) all() []listing { return s.rooms[:s.n] }

// shares returns the rooms that two users share, as lists say that departed at a time or later.
func (p *person) shares(other *person, since int64) (s sharing) {
	s.set.at = math.MaxInt64
	for _, l := range p.listed {
		for _, o := range other.listed {
			if at := min(l.at, o.at); l.room != 0 && l.room == o.room && at >= since {
				s.rooms[s.n] = listing{l.room, at}
				s.n++
				s.set.room ^= l.room
				s.set.at = min(s.set.at, at)
			}
		}
	}
	return s
}

// lookup returns when the request departed by which a viewer is permitted to see a target, or never.
// No list counts that departed before since, and no standing from before standing.
func (r *rooms) lookup(viewer, target string, standing, since int64) (departed int64) {
	p, ok := r.person(r.userKey(viewer))
	if !ok || p.standing < standing {
		return never
	}
	other, ok := r.person(r.userKey(target))
	if !ok {
		return never
	}
	departed = never
	shared := p.shares(&other, since)
	for _, l := range shared.all() {
		if l.at > departed && r.trials.passed(l.room) {
			departed = l.at
		}
	}
	if set := shared.set; shared.n > 1 && set.at > departed && r.trials.passed(set.room) {
		departed = set.at
	}
	return min(departed, p.standing)
}

// shown notes that the homeserver has shown a target to a viewer, by an answer to a request that
// departed then. No list counts that departed before since.
func (r *rooms) shown(viewer, target string, departed, since int64) {
	var p person
	r.change(r.userKey(viewer), true, func(known *person) {
		known.standing = max(known.standing, departed)
		p = *known
	})
	if viewer == target {
		return // that needs no room
	}
	key := r.userKey(target)
	if other, ok := r.person(key); ok {
		if shared := p.shares(&other, since); shared.n > 0 {
			r.trials.pass(shared.set, key)
		}
	}
}

// refused notes that the homeserver refuses a target to a viewer for want of a room that counts.
// All rooms that the two share, as lists say that departed at a time or later, are on trial again.
// It returns the name of one that has counted until now, if there is one.
func (r *rooms) refused(viewer, target string, since int64) (roomID string) {
	p, ok := r.person(r.userKey(viewer))
	other, known := r.person(r.userKey(target))
	if !ok || !known || viewer == target {
		return ""
	}
	shared := p.shares(&other, since)
	if shared.n > 1 {
		r.trials.fail(shared.set)
	}
	for _, l := range shared.all() {
		if name := r.trials.fail(l); name != "" {
			roomID = name
		}
	}
	return roomID
}
