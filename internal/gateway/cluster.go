package gateway

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/cluster"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// ClusterRules say what a store does as one of several before the same homeserver.
type ClusterRules struct {
	// Timeout is how long a call to the cluster's log may take.
	Timeout time.Duration

	// Secret is under which all nodes keep access tokens.
	Secret [32]byte

	// Recent is up to which age what is remembered is served while the log can't be reached. With
	// 0 nothing is.
	Recent time.Duration
}

// clusters are those that a store is part of: one, and during a reload to other options two.
type clusters struct {
	current atomic.Pointer[member] // the one that joined last, or nil

	mu      sync.Mutex // guards members, and orders changes of the current one
	members []*member

	barriers, waited, unannounced atomic.Uint64 // of those that have left; waited in nanoseconds
	flushes                       [cluster.Doubts]atomic.Uint64
	reads                         readChunks
}

// member is a store's part in one cluster. It is a [cluster.Memory] and a [cluster.Reporter].
type member struct {
	store *Store
	rules ClusterRules
	log   FeedLog
	node  *cluster.Node
}

// Join makes a store part of a cluster, until leave is called. It outlives the configuration that
// it came with, and so must the log for people.
func (m *Store) Join(log cluster.Log, rules ClusterRules, people FeedLog) (leave func()) {
	m.identities.Rekey(rules.Secret)
	c := &member{store: m, rules: rules, log: people}
	c.node = cluster.NewNode(log, cluster.Rules{Timeout: rules.Timeout, Panicked: m.panicked}, c, c, m.now)
	m.clusters.mu.Lock()
	m.clusters.members = append(m.clusters.members, c)
	m.clusters.current.Store(c)
	m.clusters.mu.Unlock()
	return func() {
		m.clusters.leave(c)
		c.node.Close()
	}
}

// leave takes a member out. The one before is the current one again, after a reload that failed.
func (c *clusters) leave(left *member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var current *member
	kept := c.members[:0]
	for _, other := range c.members {
		if other != left {
			kept, current = append(kept, other), other
		}
	}
	c.members = kept
	c.current.Store(current)
	if current != nil { // after a reload that failed
		current.store.identities.Rekey(current.rules.Secret)
	}
	stats := left.node.Stats()
	c.barriers.Add(stats.Barriers.Load())
	c.unannounced.Add(stats.Unannounced.Load())
}

// trust is how far a read may believe what is remembered.
type trust uint8

const (
	trustAll     trust = iota
	trustRecent        // what is no older than [ClusterRules.Recent]
	trustNothing       // the homeserver only
)

// trusts returns how far what is remembered may be believed from now on. In a cluster it waits for
// what the others have written by now.
func (m *Store) trusts() trust {
	c := m.clusters.current.Load()
	if c == nil {
		return trustAll
	}
	began := time.Now()
	err := c.node.Barrier()
	m.clusters.waited.Add(uint64(time.Since(began))) //nolint:gosec // G115: not below 0
	switch {
	case err == nil:
		return trustAll
	case c.rules.Recent > 0:
		return trustRecent
	}
	return trustNothing
}

// recent returns rules under which nothing counts that is older than what may be served while the
// cluster's log can't be reached.
func (m *Store) recent(rules *cache.Rules) *cache.Rules {
	c := m.clusters.current.Load()
	if c == nil {
		return rules // it has left meanwhile
	}
	short := *rules
	short.TTL, short.ForbiddenTTL = min(short.TTL, c.rules.Recent), min(short.ForbiddenTTL, c.rules.Recent)
	short.LiveTTL, short.Older, short.StaleIfError = 0, 0, min(short.StaleIfError, c.rules.Recent)
	return &short
}

// chargeOf is a charge of so many events at most.
func chargeOf(kind limitKind, limit *policy.Limit, userID string, most int64) cluster.Charge {
	return cluster.Charge{
		Budget: [limitCount]cluster.Budget{limitRead: cluster.Reads, limitWrite: cluster.Writes, limitSync: cluster.Syncs}[kind],
		UserID: userID, Interval: limit.Interval(), Burst: int64(limit.Burst()), Most: most,
	}
}

// settleGrant charges the store's own budget for what the cluster's gave, so that it is of use when
// the cluster's can't be asked. If it couldn't be, the store's own share decides.
func (m *Store) settleGrant(c *member, kind limitKind, limit *policy.Limit, userID string, grant cluster.Grant, err error, now time.Time) (wait time.Duration, ok bool) {
	limiter := m.limiters()[kind]
	switch {
	case err != nil:
		wait, ok = limiter.Take(userID, limit.Share(c.node.Nodes()), now)
	case grant.Events > 0:
		limiter.Charge(userID, *limit, now)
		return 0, true
	default:
		wait = grant.Wait
	}
	if !ok {
		m.TopLimited[kind].Add(userID)
	}
	return wait, ok
}

// ownShare returns the limit that the store's own budgets are under: the whole, or while the
// cluster's log can't be reached this node's share.
func (m *Store) ownShare(limit *policy.Limit) policy.Limit {
	if c := m.clusters.current.Load(); c != nil && !c.node.Up() {
		return limit.Share(c.node.Nodes())
	}
	return *limit
}

// takeShared is [Store.take] in a cluster.
func (m *Store) takeShared(c *member, kind limitKind, limit *policy.Limit, userID string, now time.Time) (wait time.Duration, ok bool) {
	if kind == limitRead {
		return m.takeRead(c, limit, userID, now)
	}
	grant, err := c.node.Take(chargeOf(kind, limit, userID, 1))
	return m.settleGrant(c, kind, limit, userID, grant, err, now)
}

// tell tells the other nodes that something has changed. It waits for nothing.
func (m *Store) tell(kind cluster.Kind, subject string) {
	if c := m.clusters.current.Load(); c != nil {
		c.node.Tell(kind, subject)
	}
}

// remoteFence is a write of another node's that is in flight.
type remoteFence struct {
	store   *Store
	write   cache.Write
	attempt policy.Attempt
}

// Begin implements [cluster.Memory].
func (c *member) Begin(userID string) cluster.Fence {
	return remoteFence{c.store, c.store.presence.BeginWrite(userID), c.store.repeats.Begin(userID, c.store.now())}
}

// End implements [cluster.Fence].
func (f remoteFence) End() {
	f.write.End(f.store.now(), f.store.settles())
	f.attempt.End(nil)
}

// Active implements [cluster.Memory].
func (c *member) Active(userID string) { c.store.repeats.Disturb(userID) }

// UserEnded implements [cluster.Memory].
func (c *member) UserEnded(userID string) {
	c.store.identities.SettleUser(userID, c.store.settled())
	c.store.endSessionsOf(userID)
}

// TokenEnded implements [cluster.Memory].
func (c *member) TokenEnded(token string) {
	c.store.identities.SettleKey(token, c.store.settled())
	c.store.identities.DoubtKey(token)
}

// MembershipChanged implements [cluster.Memory].
func (c *member) MembershipChanged(userID string) {
	if userID == "" {
		c.store.presence.AllMembershipsChanged(c.store.now(), c.store.settles())
		return
	}
	c.store.presence.MembershipChanged(userID, c.store.now(), c.store.settles())
}

// Purged implements [cluster.Memory].
func (c *member) Purged(userID string) {
	if userID == "" {
		c.store.presence.PurgeAll(c.store.now())
		return
	}
	c.store.presence.Purge(userID, c.store.now())
}

// Forgotten implements [cluster.Memory].
func (c *member) Forgotten(userID string) { c.store.forget(userID) }

// Refilled implements [cluster.Memory].
func (c *member) Refilled(userID string) { c.store.refill(userID) }

// Flush implements [cluster.Memory].
func (c *member) Flush(keepsNothingFor time.Duration, missed bool) {
	m := c.store
	m.presence.Flush(m.now(), max(keepsNothingFor, m.settles()))
	m.repeats.Clear()
	m.clusters.reads.clear() // the others may have taken this node for one that is gone
	if missed {
		m.presence.AllMembershipsChanged(m.now(), m.settles())
		m.identities.SettleAll(m.settled())
		m.identities.RevokeAll()
	}
}

// Up implements [cluster.Reporter].
func (c *member) Up(nodes int) {
	c.log.Info("the cluster's log can be reached: budgets and what is remembered are shared with the other nodes", "nodes", nodes)
}

// Down implements [cluster.Reporter].
func (c *member) Down(why error) {
	serves := "reads are answered by the homeserver"
	if c.rules.Recent > 0 {
		serves = "reads are answered from memory up to an age of " + c.rules.Recent.String()
	}
	c.log.Warn("the cluster's log can't be reached: budgets are this node's share, and "+serves, "error", why)
}

// Nodes implements [cluster.Reporter].
func (c *member) Nodes(were, are int) {
	if are < were {
		c.log.Warn("nodes of the cluster aren't heard of any more", "nodes", are, "before", were)
		return
	}
	c.log.Info("more nodes are part of the cluster", "nodes", are, "before", were)
}

// Warn implements [cluster.Reporter].
func (c *member) Warn(message string) { c.log.Warn(message) }

// Flushed implements [cluster.Reporter].
func (c *member) Flushed(why cluster.Doubt) {
	c.store.clusters.flushes[why].Add(1)
	if why != cluster.Joined {
		c.log.Warn("what was remembered is dropped, as writes of other nodes may have been missed", "reason", cluster.DoubtNames[why])
	}
}

// sampleClusters yields what there is about clusters.
func (m *Store) sampleClusters(yield func(metric *Metric, value float64, labels ...string)) {
	c := &m.clusters
	current := c.current.Load()
	if current == nil {
		return
	}
	c.mu.Lock()
	barriers, unannounced := c.barriers.Load(), c.unannounced.Load()
	for _, member := range c.members {
		barriers += member.node.Stats().Barriers.Load()
		unannounced += member.node.Stats().Unannounced.Load()
	}
	c.mu.Unlock()
	up := 0.
	if current.node.Up() {
		up = 1
	}
	yield(clusterUpMetric, up)
	yield(clusterNodesMetric, float64(current.node.Nodes()))
	yield(clusterLagMetric, float64(current.node.Stats().Lag.Load()))
	yield(clusterBarriersMetric, float64(barriers))
	yield(clusterWaitedMetric, time.Duration(c.waited.Load()).Seconds()) //nolint:gosec // G115: it was a duration
	yield(clusterUnannouncedMetric, float64(unannounced))
	for why := cluster.Joined; why < cluster.Doubts; why++ {
		yield(clusterFlushesMetric, float64(c.flushes[why].Load()), cluster.DoubtNames[why])
	}
}

// Interface guards
var (
	_ cluster.Memory   = (*member)(nil)
	_ cluster.Reporter = (*member)(nil)
)
