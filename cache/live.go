package cache

import (
	"math"
	"strings"
	"time"
)

// Liveness is about a feed, by which the homeserver tells of changes itself. While one is whole,
// what was fetched since then is not wrong without our hearing of it, so it lives for
// [Rules.LiveTTL]. It is a time, not a flush: what departed before the feed was last known whole
// lives for [Rules.TTL], as it does without a feed.
//
//	1 feed: connects at 10, whole since 10 and the time of settle
//	2 read: departs at 12, its answer is live
//	1 feed: at 20 it turns out that something was missed, whole since 20
//	3 read: finds the answer of 12, which lives for TTL now
//
// A state in which the user is online lives for TTL in any case: the homeserver tells of further
// activity late, so last_active_ago would be too high (see [Answer.Resting]).

// notLive is since when a feed is whole that isn't there.
const notLive = math.MaxInt64

// LiveSince says that a feed has told of all changes since then. Answers count as live whose
// requests departed later than the time of settle after that.
func (p *Presence) LiveSince(since time.Time, settle time.Duration) {
	p.live.Store(p.clock(since) + int64(settle))
}

// NotLive says that there is no feed, or that it isn't known to be whole.
func (p *Presence) NotLive() { p.live.Store(notLive) }

// isLive reports whether the feed has told of all changes since a departure.
func (p *Presence) isLive(departed int64) bool { return departed >= p.live.Load() }

// stateTTL is how long a state is fresh.
func (p *Presence) stateTTL(st *state, rules *Rules) time.Duration {
	if st.answer.resting && p.isLive(st.departed) {
		return max(rules.TTL, rules.LiveTTL)
	}
	return rules.TTL
}

// permissionTTL is how long a permission is fresh.
func (p *Presence) permissionTTL(departed int64, rules *Rules) time.Duration {
	if p.isLive(departed) {
		return max(rules.TTL, rules.LiveTTL)
	}
	return rules.TTL
}

// denialTTL is how long a denial is fresh. One that a write may end isn't about who shares a
// room, so no feed tells of its end.
func (p *Presence) denialTTL(r *datedDenial, rules *Rules) time.Duration {
	if !r.denial.UntilWrite && p.isLive(r.departed) {
		return max(rules.ForbiddenTTL, rules.LiveTTL)
	}
	return rules.ForbiddenTTL
}

// The feed is doubted by its own traffic. If a write through us changes what was known of a
// user, or an answer shows something else than what was, the feed has to tell of that user soon,
// or it isn't whole:
//
//	1 write:  begins, the state before it was "online" and live; a row is awaited
//	1 write:  of "unavailable" is acknowledged; the row has so long to come
//	2 feed:   a row about the user, before or after that, ends the wait
//
// Any row about the user does: of one who changes quickly some are left out.

// rowGrace is how long the feed has. The slowest row that was measured took 0.3 s.
const rowGrace = 10 * time.Second

// maxAwaited is about how many users each shard awaits a row. Of more, none is.
const maxAwaited = 64

// await has a row about a target awaited until a time on the table's clock. It needs the shard's lock.
func (s *stateShard) await(target string, until int64) {
	if _, ok := s.awaited[target]; !ok && len(s.awaited) >= maxAwaited {
		return
	}
	if s.awaited == nil {
		s.awaited = make(map[string]int64)
	}
	s.awaited[strings.Clone(target)] = until
}

// awaitWrite has a row awaited because of a write that begins, and returns the digest of what is
// known of the target, or 0 if that isn't live. It needs the shard's lock.
func (p *Presence) awaitWrite(shard *stateShard, target string) (before uint64) {
	st, _ := shard.states.Peek(stateKey{target: target})
	if before = p.shownBy(target, st); before != 0 {
		shard.await(target, math.MaxInt64)
	}
	return before
}

// endAwaiting has the row of a write that ends come soon, if it changed something and the row
// hasn't come already. It needs the shard's lock.
func (w Write) endAwaiting(shard *stateShard, changed bool, now time.Time) {
	until, awaited := shard.awaited[w.target]
	switch {
	case w.before == 0 || !awaited || until != math.MaxInt64:
	case changed:
		shard.awaited[w.target] = w.presence.clock(now) + int64(rowGrace)
	default:
		delete(shard.awaited, w.target)
	}
}

// RowsOverdue reports whether the feed hasn't told of a change that it should have told of by
// now. It reports each once.
func (p *Presence) RowsOverdue(now time.Time) (overdue bool) {
	at := p.clock(now)
	for i := range p.states {
		shard := &p.states[i]
		shard.mu.Lock()
		for target, until := range shard.awaited {
			if until < at {
				delete(shard.awaited, target)
				overdue = true
			}
		}
		shard.mu.Unlock()
	}
	return overdue
}

// shownBy returns the digest of what a state shows if it is live and clear about that, else 0.
// It needs the shard's lock.
func (p *Presence) shownBy(target string, st *state) uint64 {
	if st == nil || st.answer == nil || !p.isLive(st.departed) {
		return 0
	}
	return p.digestOf(target, st.answer.Body)
}

// digestOf returns the digest of what a body shows, or 0 if it isn't clear about that.
func (p *Presence) digestOf(target, body string) uint64 {
	s, _, ok := parseShown(target, body)
	if !ok {
		return 0
	}
	return p.digest(s)
}
