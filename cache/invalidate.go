package cache

import (
	"math"
	"time"
)

// Invalidate drops a user's state, because it may have changed. What departed before now is not kept, nor
// what departs within the time of settle from now on.
//
// So does a write, when it begins and when it ends (fence.go), a row of a feed that says something else (row.go),
// and a sync that does (learned.go). What departs meanwhile is kept out by the fence.
func (p *Presence) Invalidate(userID string, now time.Time, settle time.Duration) {
	p.BeginWrite(userID).End(now, settle)
}

// Purge drops a user's state, and ends what is known of whom they may see and who may see them.
// What departed before now is not kept. Of pairs only the use ends: their places are taken by
// others, or are free when the time of their permission is over.
func (p *Presence) Purge(userID string, now time.Time) {
	p.MembershipChanged(userID, now, 0)
	shard, f := p.shardOf(userID)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	f.invalidate()
	p.drop(shard, stateKey{target: userID})
}

// PurgeAll is [Presence.Purge] for all users. It gives the memory back, too.
func (p *Presence) PurgeAll(now time.Time) {
	p.AllMembershipsChanged(now, 0)
	p.dropStates(math.MinInt64)
	p.permissions.purge()
	p.rooms.purge()
}

// Flush drops all states, because writes may have been missed, and others may be in flight. Nothing is
// stored that departs within the time of settle from now on.
func (p *Presence) Flush(now time.Time, settle time.Duration) {
	p.dropStates(p.clock(now) + int64(settle))
}

// dropStates drops all states, and voids all tickets. Nothing is stored that departs before settled.
func (p *Presence) dropStates(settled int64) {
	for i := range p.states {
		shard := &p.states[i]
		shard.mu.Lock()
		for j := range shard.fences {
			f := &shard.fences[j]
			f.invalidate()
			f.settled = max(f.settled, settled)
		}
		p.kept.Add(-int64(shard.states.Len()))
		shard.states.Purge()
		shard.mu.Unlock()
	}
}

// purge needs no fence: what is kept later departed later, or memberships says that it doesn't count.
func (p *permissions) purge() {
	for i := range p.shards {
		shard := &p.shards[i]
		shard.mu.Lock()
		shard.allowed.Clear()
		shard.denials.Purge()
		shard.mu.Unlock()
	}
}

func (r *rooms) purge() {
	for i := range r.shards {
		shard := &r.shards[i]
		shard.mu.Lock()
		shard.persons.Clear()
		shard.mu.Unlock()
	}
}
