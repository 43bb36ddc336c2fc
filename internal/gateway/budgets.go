package gateway

import (
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// limitKind is a limit of users, for which a list is kept of who was over it most often.
type limitKind int

const (
	limitRead limitKind = iota
	limitWrite
	limitSync
	limitCount
)

var LimitNames = [limitCount]string{"read", "write", "sync"}

// maxTopLimited is how many users are listed for each limit, some 400 bytes each: whoever
// has more than a hundredth of what was over it is among them.
const maxTopLimited = 100

// limiters are those of users, by kind.
func (m *Store) limiters() [limitCount]*policy.Limiter {
	return [limitCount]*policy.Limiter{limitRead: m.reads, limitWrite: m.writes, limitSync: m.syncs}
}

// limit returns that of a kind, or nil.
func (c *Class) limit(kind limitKind) *policy.Limit {
	return [limitCount]*policy.Limit{limitRead: c.ReadLimit, limitWrite: c.WriteLimit, limitSync: c.SyncLimit}[kind]
}

// take takes one event from a user's budget, and returns how long to wait if there
// is none. Then the user is counted among those over the limit.
func (m *Store) take(kind limitKind, limit *policy.Limit, userID string, now time.Time) (wait time.Duration, ok bool) {
	if limit == nil {
		return 0, true
	}
	if c := m.clusters.current.Load(); c != nil {
		return m.takeShared(c, kind, limit, userID, now)
	}
	if wait, ok = m.limiters()[kind].Take(userID, *limit, now); !ok {
		m.TopLimited[kind].Add(userID)
	}
	return wait, ok
}

// chargeDelivery takes an event from a user's budget of writes, or returns how long there will be
// none. For a write that goes along with another it makes a debt.
func (m *Store) chargeDelivery(limit *policy.Limit, userID string, along bool) (wait time.Duration) {
	now := m.now()
	if c := m.clusters.current.Load(); c != nil {
		charge := chargeOf(limitWrite, limit, userID, 1)
		if along {
			charge.Debt = policy.MaxDebt
		}
		switch grant, err := c.node.Take(charge); {
		case err == nil && grant.Events == 0:
			return grant.Wait
		case err == nil:
			along = true // so that the node's own is of use when the cluster's can't be asked
		}
	}
	if along {
		m.writes.Charge(userID, *limit, now)
		return 0
	}
	wait, _ = m.writes.Take(userID, m.ownShare(limit), now)
	return wait
}
