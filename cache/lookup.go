package cache

import (
	"time"
)

// Outcome is what a lookup found.
type Outcome int

const (
	// Miss: the homeserver has to be asked.
	Miss Outcome = iota
	// Hit: [Found.Answer] may be served.
	Hit
	// Denied: [Found.Denial] may be served.
	Denied
	// Uncached: the homeserver's last answer was none that can be kept, so
	// there is no use in collecting the next one.
	Uncached
	// Older: [Found.Answer] is no longer fresh, and may be served by [Rules.Older].
	Older
)

// Found is what is known about a viewer's read of a target.
type Found struct {
	Outcome Outcome

	// Ticket tells the circumstances of a Miss.
	Ticket Ticket

	// Permitted tells of a Miss that the viewer's permission is fresh, so that
	// the viewer may be served what anybody's request brings.
	Permitted bool

	// ByRoom tells that the viewer is permitted by a room, see [Rules.Rooms], and by nothing else.
	ByRoom bool

	// Answer is that of a Hit, or an Older one, or for a Miss one that may be served if the
	// homeserver can't be reached, or nil.
	Answer *Answer
	Denial *Denial

	// Age is for how long the answer or denial has been in memory, including the
	// time it took to come (RFC 9111, section 4.2.3), and Fresh for how long it
	// is still fresh: not above 0 if it is stale.
	Age, Fresh time.Duration
}

// Lookup returns what is known about the read by viewer of target's presence.
func (p *Presence) Lookup(viewer, target string, rules *Rules, now time.Time) Found {
	at := p.clock(now)
	shard, f := p.shardOf(target)
	shard.mu.Lock()
	found := Found{Ticket: p.ticket(shard, f, target, at)}
	st := shard.lookup(viewer, target, rules.PerViewer)
	shard.mu.Unlock()

	if st != nil && st.uncached {
		if at < st.departed+int64(rules.TTL) {
			found.Outcome = Uncached
			return found
		}
		st = nil
	}

	allowed, denied, byRoom := p.permission(viewer, target, rules, at)
	switch {
	case denied != nil:
		if denied.denial == nil || denied.overtaken(found.Ticket.generation) {
			return found
		}
		age, ttl := since(at, denied.departed), p.denialTTL(denied, rules)
		if rules.ForbiddenTTL > 0 && age < ttl {
			found.Outcome, found.Denial = Denied, denied.denial
			found.Age, found.Fresh = age, ttl-age
		}
		return found
	case allowed == never:
		return found
	}
	lasts := p.permissionTTL(allowed, rules)
	if byRoom {
		lasts = rules.TTL
	}
	permitted := lasts - since(at, allowed)
	found.Permitted, found.ByRoom = permitted > 0, byRoom
	if st == nil || st.answer == nil {
		return found
	}

	age, truthful := since(at, st.departed), st.answer.truthful()
	fresh := min(p.stateTTL(st, rules)-age, truthful-age, permitted)
	switch {
	case fresh > 0:
		found.Outcome = Hit
	case permitted > 0 && age < rules.Older && age < truthful:
		found.Outcome = Older
	case age < rules.StaleIfError && age < truthful && absolute(st.departed-allowed) < rules.TTL:
		// The state was fresh while the viewer was permitted to see it: this is
		// no more than the viewer might have been shown then.
	default:
		return found
	}
	found.Answer, found.Age, found.Fresh = st.answer, age, fresh
	return found
}

// permission returns when the viewer was allowed to see the target, or never, whether that is by a
// room, and what is known of a denial that came later. What a membership has ended is not known any more.
func (p *Presence) permission(viewer, target string, rules *Rules, at int64) (allowed int64, denied *datedDenial, byRoom bool) {
	if allowed, denied = p.permissions.lookup(viewer, target); denied != nil {
		if !p.memberships.hold(viewer, target, denied.departed) {
			denied = nil
		}
	} else if allowed != never && !p.memberships.hold(viewer, target, allowed) {
		allowed = never
	}
	fresh := at - int64(rules.TTL) + 1
	if !rules.Rooms || allowed >= fresh {
		return allowed, denied, false
	}
	listed := p.rooms.lookup(viewer, target, fresh, p.listedSince(viewer, target, at, rules))
	if listed > allowed && (denied == nil || listed > denied.departed) {
		return listed, nil, true
	}
	return allowed, denied, false
}

// since returns the time from a departure to now. A reader may have looked at the
// clock before somebody else, whose answer it finds, departed.
func since(now, departed int64) time.Duration { return max(0, time.Duration(now-departed)) }

func absolute(nanoseconds int64) time.Duration {
	return time.Duration(max(nanoseconds, -nanoseconds))
}

// lookup needs the lock.
func (s *stateShard) lookup(viewer, target string, perViewer bool) *state {
	st, ok := s.states.Get(stateKey{target: target})
	if !ok || !perViewer || st.uncached {
		return st
	}
	own, ok := s.states.Get(stateKey{target, viewer})
	if !ok || own.root != st.root {
		return nil
	}
	return own
}
