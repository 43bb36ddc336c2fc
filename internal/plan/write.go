package plan

import (
	"slices"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// writing is a write that is being decided about.
type writing struct {
	policy.WriteFacts
	request *Request
	write   policy.PresenceWrite
}

// takeBudget takes an event from a user's budget.
func takeBudget(l *policy.Limiter, limit *policy.Limit, userID string, now time.Time) policy.BudgetFact {
	if limit == nil {
		return policy.BudgetLeft
	}
	if _, ok := l.Take(userID, *limit, now); !ok {
		return policy.BudgetEmpty
	}
	return policy.BudgetLeft
}

// serveWrite is the life of a write, by the module's own decisions.
func (n *node) serveWrite(r *Request) {
	wr := &writing{request: r, write: policy.PresenceWrite{UserID: r.By.User.ID, Fingerprint: r.By.fingerprint}}
	wr.write.Body = writeBody(r.Presence, r.StatusMsg)
	wr.Credential, wr.Place = policy.CredentialCertain, policy.PlaceTaken
	class := n.cfg.ClassOf(r.By.User.ID)
	wr.Own, wr.Absorbs, wr.Coalesces = true, class.Absorb, class.Coalesce
	n.decideWrite(wr)
}

// decideWrite goes on with a write until it has to wait, or ends.
func (n *node) decideWrite(wr *writing) {
	r := wr.request
	limit := n.cfg.ClassOf(r.By.User.ID).WriteLimit
	for {
		switch step := policy.DecideWrite(&wr.WriteFacts); step {
		case policy.WriteAskOwner:
			n.identify(r.By, nil, func(who owner) {
				switch {
				case who.known:
					wr.Owner = policy.OwnerKnown
				case who.rejected:
					wr.Owner = policy.OwnerRejected
				default:
					wr.Owner = policy.OwnerLimited
				}
				n.decideWrite(wr)
			})
			return
		case policy.WriteReadBody:
			wr.Body = policy.BodyGood
		case policy.WriteLookAtQueue:
			if wr.Queue = policy.QueueEmpty; n.waiting[r.By.User] != nil {
				wr.Queue = policy.QueueWaits
			}
		case policy.WriteCompare:
			if wr.Repeat = policy.RepeatChanges; n.repeats.Absorb(&wr.write, n.cfg.Refresh, n.agenda.now) {
				wr.Repeat = policy.RepeatNothing
			}
		case policy.WriteTakeBudget:
			wr.Budget = takeBudget(n.budgets.writes, limit, r.By.User.ID, n.agenda.now)
		case policy.WriteLetWait:
			wr.Wait = n.letWait(wr, limit)
		default:
			n.endWrite(wr, step)
			return
		}
	}
}

// endWrite counts how a write was answered, and passes it on.
func (n *node) endWrite(wr *writing, step policy.WriteStep) {
	switch step {
	case policy.WriteForward:
		n.end(Write, Forwarded)
		n.forward(wr)
	case policy.WriteAbsorb:
		n.end(Write, Absorbed)
	case policy.WriteCoalesce:
		n.end(Write, Coalesced)
	case policy.WriteRefuseUnknown:
		n.end(Write, Rejected)
	default:
		n.end(Write, Limited)
	}
}

// forward passes a write on. While it is under way nothing is kept of its user, on any node.
func (n *node) forward(wr *writing) {
	n.counts.Upstream[ForWrite]++
	u, began := wr.request.By.User, n.agenda.now
	fence := n.presence.BeginWrite(u.ID)
	attempt := n.repeats.Begin(u.ID, began)
	answered := n.beginDeviceWrite(&wr.write, began)
	n.disturbOthers(u)
	n.agenda.in(writeTakes, func() {
		now := n.agenda.now
		n.homeserver.write(wr.request.By, wr.request.Presence, wr.request.StatusMsg, now)
		fence.Acknowledge(wr.write.Body, began, now, n.cfg.Settle)
		answered()
		if wr.Absorbs {
			attempt.End(&wr.write)
		} else {
			attempt.End(nil)
		}
		n.disturbOthers(u)
	})
}

// beginDeviceWrite notes a write that is on its way, if syncs are looked at.
func (n *node) beginDeviceWrite(w *policy.PresenceWrite, began time.Time) (answered func()) {
	if !n.watchesSyncs() {
		return func() {}
	}
	under := n.devices.BeginWrite(w.UserID, w.Fingerprint, n.dialect(), began)
	return func() { under.Taken(matrix.BodyPresence(w.Body, n.dialect()), n.dialect(), n.agenda.now) }
}

// disturbOthers tells the other nodes of a write.
func (n *node) disturbOthers(u *User) {
	for _, other := range n.nodes {
		if other != n {
			other.presence.Invalidate(u.ID, n.agenda.now, n.cfg.Settle)
			other.repeats.Disturb(u.ID)
		}
	}
}

// queue are a user's writes that wait for the budget, of each device the newest.
type queue struct {
	writes []*writing
	fence  cache.Write
}

// maxQueue is how many writes of a user may wait, see internal/pending.
const maxQueue = 8

// letWait has a write wait until its user's budget is refilled. An older one of the same device needs not
// be sent any more.
func (n *node) letWait(wr *writing, limit *policy.Limit) policy.WaitFact {
	u := wr.request.By.User
	if limit == nil {
		return policy.WaitRefused
	}
	wait := n.budgets.writes.Wait(u.ID, *limit, n.agenda.now)
	q := n.waiting[u]
	if wait > n.cfg.Coalesce.MaxAge || n.waits >= n.cfg.Coalesce.Pending || q != nil && len(q.writes) >= maxQueue {
		return policy.WaitRefused
	}
	if q == nil {
		q = &queue{fence: n.presence.BeginDeferred(u.ID)}
		n.waiting[u] = q
		n.agenda.in(wait, func() { n.deliver(u, q, limit) })
	}
	before := len(q.writes)
	q.writes = append(slices.DeleteFunc(q.writes, func(old *writing) bool { return old.request.By == wr.request.By }), wr)
	n.waits += len(q.writes) - before
	n.repeats.Disturb(u.ID)
	if n.watchesSyncs() && n.dialect() != matrix.Dendrite {
		n.devices.Doubt(u.ID, wr.request.By.fingerprint, n.agenda.now)
	}
	return policy.WaitAccepted
}

// deliver sends what waits of a user, once the budget has an event for the first.
func (n *node) deliver(u *User, q *queue, limit *policy.Limit) {
	if wait, ok := n.budgets.writes.Take(u.ID, *limit, n.agenda.now); !ok {
		n.agenda.in(wait, func() { n.deliver(u, q, limit) })
		return
	}
	sent := q.writes
	n.waits -= len(sent)
	q.writes = nil
	for i := range sent {
		if i > 0 {
			n.budgets.writes.Charge(u.ID, *limit, n.agenda.now)
		}
	}
	n.send(u, q, sent, limit)
}

// send sends writes one after the other.
func (n *node) send(u *User, q *queue, sent []*writing, limit *policy.Limit) {
	if len(sent) == 0 {
		if len(q.writes) > 0 {
			n.agenda.in(n.budgets.writes.Wait(u.ID, *limit, n.agenda.now), func() { n.deliver(u, q, limit) })
			return
		}
		delete(n.waiting, u)
		q.fence.End(n.agenda.now, n.cfg.Settle)
		n.disturbOthers(u)
		return
	}
	wr, began := sent[0], n.agenda.now
	n.counts.Upstream[ForDelivery]++
	attempt := n.repeats.Begin(u.ID, began)
	answered := n.beginDeviceWrite(&wr.write, began)
	n.agenda.in(writeTakes, func() {
		n.homeserver.write(wr.request.By, wr.request.Presence, wr.request.StatusMsg, n.agenda.now)
		answered()
		attempt.End(&wr.write)
		n.send(u, q, sent[1:], limit)
	})
}
