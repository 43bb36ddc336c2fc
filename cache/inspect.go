package cache

import "time"

// Inspected is what is known about a user, for an admin who looks them up. To find it out changes
// nothing, not even what is dropped next.
type Inspected struct {
	// Answer is their state, or nil. Under [Rules.PerViewer] each viewer has one of their own,
	// and there is none here.
	Answer *Answer

	// Age is for how long it has been in memory, and Fresh for how long it is still fresh: not above
	// 0 if it is not.
	Age, Fresh time.Duration

	// Settled is false while a write to the user is in flight, waits or settles: then little is kept.
	Settled bool

	// Sees is how many of the users with a state the user may see, as permissions say that are
	// fresh, and Forbidden to how many the user has a denial that is. SeenBy is how many of the given
	// viewers may see the user.
	Sees, Forbidden, SeenBy int

	// Rooms is how many rooms' lists of members have named the user, at most 8.
	Rooms int
}

// Inspect returns what is known about a user, and who of these viewers may see them. It takes
// about a microsecond for each state and each viewer.
func (p *Presence) Inspect(userID string, viewers []string, rules *Rules, now time.Time) (is Inspected) {
	at := p.clock(now)
	shard, f := p.shardOf(userID)
	shard.mu.Lock()
	is.Settled = f.isSettled(at) && !shard.waiting[userID]
	st, _ := shard.states.Peek(stateKey{target: userID})
	shard.mu.Unlock()
	if st != nil && st.answer != nil {
		is.Answer, is.Age = st.answer, since(at, st.departed)
		is.Fresh = min(p.stateTTL(st, rules), st.answer.truthful()) - is.Age
	}
	for _, target := range p.targets() {
		switch allowed, denied := p.inspectPair(userID, target, rules, at); {
		case allowed && target != userID:
			is.Sees++
		case denied:
			is.Forbidden++
		}
	}
	for _, viewer := range viewers {
		if allowed, _ := p.inspectPair(viewer, userID, rules, at); allowed && viewer != userID {
			is.SeenBy++
		}
	}
	if known, ok := p.rooms.person(p.rooms.userKey(userID)); ok {
		for _, l := range known.listed {
			if l.room != 0 {
				is.Rooms++
			}
		}
	}
	return is
}

// targets are the users who have a state, or had one, and those of denials aren't among them.
func (p *Presence) targets() (targets []string) {
	for i := range p.states {
		shard := &p.states[i]
		shard.mu.Lock()
		for _, key := range shard.states.Keys() {
			if key.viewer == "" {
				targets = append(targets, key.target)
			}
		}
		shard.mu.Unlock()
	}
	return targets
}

// inspectPair tells whether a viewer has a fresh permission to see a target, or a fresh denial.
func (p *Presence) inspectPair(viewer, target string, rules *Rules, at int64) (isAllowed, isDenied bool) {
	key, shard := p.permissions.shard(viewer, target)
	shard.mu.Lock()
	departed, ok := shard.allowed.Get(key)
	denied, _ := shard.denials.Peek(key)
	shard.mu.Unlock()
	switch {
	case ok && p.memberships.hold(viewer, target, departed):
		return since(at, departed) < p.permissionTTL(departed, rules), false
	case !ok && denied != nil && denied.denial != nil && p.memberships.hold(viewer, target, denied.departed):
		return false, since(at, denied.departed) < p.denialTTL(denied, rules)
	}
	return false, false
}
