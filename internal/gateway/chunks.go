package gateway

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/cluster"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/sampled"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// readChunks are events that were taken from users' shared budgets of reads, several at a time, and
// are spent by one read each: a hit shall not cost a call. What isn't spent in time is lost. That
// there are none is remembered until there will be one: others can only make it later.
//
// Nobody gets more than the budget. While some of it is held here it may be refilled, so the shared
// one is smaller by as many as all nodes may hold together.
type readChunks struct {
	seed   maphash.Seed
	shards [chunkShards]chunkShard
}

const (
	chunkShards = 16
	// maxChunks is of how many users there are some, about 60 bytes each.
	maxChunks = 100_000
	// maxChunk is how many are taken at a time, at most.
	maxChunk = 50
	// chunkLasts is for how long they may be spent.
	chunkLasts = 10 * time.Second
)

type chunkShard struct {
	mu     sync.Mutex // guards all below
	chunks *sampled.Map[uint64, chunk]
	asked  map[uint64]chan struct{} // for whom the budget is asked, until that is over
}

type chunk struct {
	events int64
	until  time.Time // that they may be spent; without events, that there are none
}

// takeRead is takeShared for a read: most are taken from a chunk that is held here.
func (m *Store) takeRead(c *member, limit *policy.Limit, userID string, now time.Time) (wait time.Duration, ok bool) {
	charge, chunks, of := chunkOf(limit, userID, c.node.Nodes()), &m.clusters.reads, chunkKey{userID, *limit}
	for {
		if wait, ok, known := chunks.take(of, now); known {
			grant := cluster.Grant{Wait: wait}
			if ok {
				grant.Events = 1
			}
			return m.settleGrant(c, limitRead, limit, userID, grant, nil, now)
		}
		if charge.Most == 1 || chunks.ask(of, now) {
			break
		}
	}
	grant, err := cluster.Grant{}, cluster.ErrDown
	func() {
		defer func() { chunks.put(of, grant, err, now) }() // also if it panics: nobody would go on
		grant, err = c.node.Take(charge)
	}()
	return m.settleGrant(c, limitRead, limit, userID, grant, err, now)
}

// chunkOf is a charge of several reads: a hundredth of what there is at once, for so many nodes.
func chunkOf(limit *policy.Limit, userID string, nodes int) cluster.Charge {
	charge := chargeOf(limitRead, limit, userID, max(1, min(maxChunk, int64(limit.Burst())/100)))
	if held := charge.Most * int64(nodes); charge.Most > 1 && held <= charge.Burst/2 {
		charge.Burst -= held
	} else {
		charge.Most = 1 // which is spent at once
	}
	return charge
}

func newChunks() *sampled.Map[uint64, chunk] {
	return sampled.New[uint64](maxChunks/chunkShards, func(a, b chunk) bool { return a.until.Before(b.until) })
}

func (c *readChunks) init() {
	c.seed = maphash.MakeSeed()
	for i := range c.shards {
		c.shards[i].asked, c.shards[i].chunks = make(map[uint64]chan struct{}), newChunks()
	}
}

// chunkKey is whose events they are, and under which limit they were given: another one, of a reload or a class,
// takes effect at once, whatever is left or missing of this one.
type chunkKey struct {
	userID string
	limit  policy.Limit
}

func (c *readChunks) shard(of chunkKey) (uint64, *chunkShard) {
	hash := maphash.Comparable(c.seed, of)
	return hash, &c.shards[hash%chunkShards]
}

// take spends an event. It isn't known if the budget has to be asked.
func (c *readChunks) take(of chunkKey, now time.Time) (wait time.Duration, ok, known bool) {
	user, shard := c.shard(of)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	left, found := shard.chunks.Get(user)
	switch {
	case !found || !now.Before(left.until):
		return 0, false, false
	case left.events == 0:
		return left.until.Sub(now), false, true
	}
	if left.events--; left.events == 0 {
		shard.chunks.Delete(user)
	} else {
		shard.chunks.Put(user, left)
	}
	return 0, true, true
}

// ask has one of several readers ask the budget, who puts what that gave. The others wait until it has: what each of
// them got at the same time would be more than may be held here, and lost.
func (c *readChunks) ask(of chunkKey, now time.Time) (first bool) {
	user, shard := c.shard(of)
	shard.mu.Lock()
	asked := shard.asked[user]
	left, found := shard.chunks.Get(user)
	known := found && now.Before(left.until) // since it was looked at
	if first = !known && asked == nil; first {
		shard.asked[user] = make(chan struct{})
	}
	shard.mu.Unlock()
	if !known && !first {
		<-asked // it takes no longer than a call may
	}
	return first
}

// put keeps what the budget gave, but for the one event that is spent at once, and lets those go on who wait.
func (c *readChunks) put(of chunkKey, grant cluster.Grant, err error, now time.Time) {
	user, shard := c.shard(of)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if asked := shard.asked[user]; asked != nil {
		close(asked)
		delete(shard.asked, user)
	}
	switch {
	case err != nil:
	case grant.Events == 0:
		shard.chunks.Put(user, chunk{0, now.Add(grant.Wait)})
	case grant.Events > 1:
		shard.chunks.Put(user, chunk{grant.Events - 1, now.Add(chunkLasts)})
	}
}

// clear forgets what is held, and who has none.
func (c *readChunks) clear() {
	for i := range c.shards {
		c.shards[i].mu.Lock()
		c.shards[i].chunks = newChunks()
		c.shards[i].mu.Unlock()
	}
}
