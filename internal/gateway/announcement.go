package gateway

import (
	"context"
	"encoding/hex"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/cluster"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// announcement is a write that is about to be sent, or in flight, and which other nodes know of it. The zero one is none.
//
// A reload may have the store join a cluster, or another one, while the write is in flight:
//
//	1 write at A: is sent
//	2 A:          joins
//	3 read at B:  asks the homeserver, and remembers the old state
//	1 write at A: is acknowledged
//	4 read at B:  must not be answered by what 3 remembers
//
// So at its end it is announced to those who don't know of it.
type announcement struct {
	store  *Store
	userID string
	member *member        // whose cluster it was announced to, or nil
	write  *cluster.Write // there
}

// announce tells the other nodes of a write that is about to be sent.
func (m *Store) announce(ctx context.Context, userID string) announcement {
	a := announcement{store: m, userID: userID, member: m.clusters.current.Load()}
	if a.member != nil {
		a.write, _, _ = a.member.node.Begin(ctx, userID, nil) // without a charge nothing fails
	}
	return a
}

// end tells, the first time, that it is over. It must be called before the write's client is told.
func (a *announcement) end(ctx context.Context) {
	m := a.store
	if m == nil {
		return
	}
	a.store = nil
	if a.write != nil {
		a.write.End(ctx)
	}
	if c := m.clusters.current.Load(); c != nil && c != a.member {
		late := m.announce(ctx, a.userID)
		if late.write != nil {
			late.write.End(ctx)
		}
	}
}

// turn is a write that waits here, and which other nodes know of. The zero one is none.
type turn struct {
	member  *member // whose cluster knows of it
	waiting *cluster.Waiting
}

// waits tells the other nodes of a write that is about to be acknowledged and to wait here.
func (m *Store) waits(ctx context.Context, write *presenceWrite, body matrix.WriteBody) turn {
	c := m.clusters.current.Load()
	if c == nil {
		return turn{}
	}
	return turn{c, c.node.Wait(ctx, write.UserID, hex.EncodeToString(write.Fingerprint[:]), body.Merges())}
}

// announceInTurn is announce for a write that has waited, if it is its turn among those that wait at other nodes.
func (m *Store) announceInTurn(of turn, userID string, last bool) (announcement, cluster.Order) {
	if of.waiting == nil {
		return m.announce(context.Background(), userID), cluster.InTurn
	}
	write, order := of.waiting.Begin(context.Background(), last)
	return announcement{m, userID, of.member, write}, order
}

// takeAndAnnounce charges a user for a write and, if there is a budget, tells the other nodes of it, in
// one step. Without a limit it does nothing. A write that could wait is behind those that wait at other nodes.
func (m *Store) takeAndAnnounce(ctx context.Context, write *presenceWrite, now time.Time) (a announcement, wait time.Duration, ok bool) {
	limit, userID := write.class.WriteLimit, write.UserID
	c := m.clusters.current.Load()
	if c == nil || limit == nil {
		wait, ok = m.take(limitWrite, limit, userID, now)
		return announcement{}, wait, ok
	}
	charge := chargeOf(limitWrite, limit, userID, 1)
	if write.class.Coalesce {
		charge.Turn = &cluster.Turn{Device: hex.EncodeToString(write.Fingerprint[:])}
	}
	begun, grant, err := c.node.Begin(ctx, userID, &charge)
	a = announcement{m, userID, c, begun}
	if wait, ok = m.settleGrant(c, limitWrite, limit, userID, grant, err, now); !ok {
		a.end(ctx)
	}
	return a, wait, ok
}
