package cache

import "time"

// MemberKey returns what stands for a user in a list of members.
func (p *Presence) MemberKey(userID []byte) UserKey { return p.rooms.key(userID) }

// Listed remembers that users are joined to a room, as the homeserver has told a viewer by its
// answer to a request that departed then. The viewer must be one of them: a list that isn't for
// its reader says nothing about who may see whom. It reports whether it was believed.
func (p *Presence) Listed(viewer, roomID string, members []UserKey, departed time.Time) bool {
	own, at := p.rooms.userKey(viewer), p.clock(departed)
	found := false
	for _, member := range members {
		found = found || member == own
	}
	if !found {
		return false
	}
	room := p.rooms.roomKey(roomID)
	p.rooms.trials.begin(listing{room, at}, roomID)
	for _, member := range members {
		p.rooms.list(member, room, at)
	}
	return true
}

// KnowsList tells that the homeserver has told who is joined to a room less than a quarter of the ttl
// ago, and that the viewer was, so that another list of it says little that is new.
func (p *Presence) KnowsList(viewer, roomID string, rules *Rules, now time.Time) bool {
	known, ok := p.rooms.person(p.rooms.userKey(viewer))
	if !ok {
		return false
	}
	room, since := p.rooms.roomKey(roomID), max(p.clock(now)-int64(rules.TTL)/4+1, p.memberships.since(viewer))
	for _, l := range known.listed {
		if l.room == room && l.at >= since {
			return true
		}
	}
	return false
}

// LetIn remembers that the homeserver has served a request of a viewer's that departed then. If
// notGuest says so, the answer also says that they are no guest.
func (p *Presence) LetIn(viewer string, departed time.Time, notGuest bool) {
	at := p.clock(departed)
	p.rooms.change(p.rooms.userKey(viewer), notGuest, func(known *person) {
		if notGuest || known.standing != never {
			known.standing = max(known.standing, at)
		}
	})
}

// RoomRefused remembers that the homeserver has refused to show the target of ticket to the viewer,
// because they share no room that counts for it. If there was one by what lists had told, none of
// those that they share counts until it has been on trial again. It returns the ID of one that had
// counted until now, or "".
func (p *Presence) RoomRefused(viewer string, ticket Ticket, rules *Rules) (roomID string) {
	if !rules.Rooms {
		return ""
	}
	return p.rooms.refused(viewer, ticket.target, p.listedSince(viewer, ticket.target, ticket.departed, rules))
}

// listedSince returns when a list must have departed for what it says of two users to count at a
// time.
func (p *Presence) listedSince(viewer, target string, at int64, rules *Rules) int64 {
	return max(at-int64(rules.TTL)+1, p.memberships.since(viewer), p.memberships.since(target))
}

// Told remembers what a sync has told a viewer of a target's presence, by the homeserver's answer to
// a request that departed then: the viewer may see it. What is kept of it is dropped if it says
// something else, for it has changed since. The other way round nothing is learned: when what the
// sync tells was true isn't known as well as when an answer to a read was. Content is valid JSON.
func (p *Presence) Told(viewer, target string, content []byte, departed time.Time) (dropped bool) {
	p.permissions.allow(viewer, Ticket{target: target, departed: p.clock(departed)})
	shard, f := p.shardOf(target)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	known, ok := shard.states.Get(stateKey{target: target})
	if !ok || known.answer == nil {
		return false
	}
	told, _, clear := parseShown(target, string(content))
	kept, _, _ := parseShown(target, known.answer.Body)
	if clear && told == kept {
		return false
	}
	f.invalidate() // what is under way may be as old
	p.drop(shard, stateKey{target: target})
	return true
}

// ResizeRooms changes how many users are known by the rooms that they are in. Each of 64 shards
// keeps one at least.
func (p *Presence) ResizeRooms(users int) { p.rooms.resize(users) }

// Rooms returns how many users are known by the rooms that they are in, and how many of them were
// dropped because there were too many.
func (p *Presence) Rooms() (users int, evicted uint64) {
	for i := range p.rooms.shards {
		shard := &p.rooms.shards[i]
		shard.mu.Lock()
		users += shard.persons.Len()
		evicted += shard.persons.Evicted()
		shard.mu.Unlock()
	}
	return users, evicted
}
