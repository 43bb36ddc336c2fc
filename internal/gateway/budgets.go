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
	if wait, ok = m.limiters()[kind].Take(userID, *limit, now); !ok {
		m.TopLimited[kind].Add(userID)
	}
	return wait, ok
}
