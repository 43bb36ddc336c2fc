package plan

import (
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/identity"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// owner is what is known of whose a token is. One of the fields is set.
type owner struct{ known, rejected, limited bool }

// question is one to the homeserver, and who waits for the answer.
type question struct{ waiters []func(owner) }

// cachedOwner returns what is remembered of whose a device's token is.
func (n *node) cachedOwner(d *Device, now time.Time) owner {
	userID, unknown := n.owners.Lookup(d.credential, now, n.cfg.Lifetimes)
	return owner{known: userID != "", rejected: unknown != nil}
}

// claimed returns on whose behalf a token acts if the homeserver takes it: it did before, or, on
// Synapse with learn on, the token names its user.
func (n *node) claimed(d *Device) string {
	if userID := n.owners.LastKnown(d.credential); userID != "" {
		return userID
	}
	if n.learns() && n.recognised && n.claims && !d.Unknown && d.credential.UserID == "" && n.dialect() == matrix.Synapse {
		return d.User.ID
	}
	return ""
}

// identify finds out whose a device's token is, from memory or from the homeserver. With learn on, a
// read may tell it by itself.
func (n *node) identify(d *Device, rd *reading, then func(owner)) {
	now := n.agenda.now
	if who := n.cachedOwner(d, now); who.known || who.rejected {
		then(who)
		return
	}
	if limit := n.cfg.RejectedLimit; limit != nil && d.Address != "" && !n.owners.IsKnown(d.credential) &&
		n.budgets.rejected.Wait(d.Address, *limit, now) > 0 {
		then(owner{limited: true})
		return
	}
	if q := n.questions[d.fingerprint]; q != nil {
		q.waiters = append(q.waiters, then)
		return
	}
	q := &question{waiters: []func(owner){then}}
	n.questions[d.fingerprint] = q
	if rd != nil && n.readsFirst(d, rd, now) {
		n.firstRead(d, rd, q)
		return
	}
	n.ask(d, q)
}

// answer tells those who wait.
func (n *node) answer(d *Device, q *question, who owner) {
	delete(n.questions, d.fingerprint)
	for _, then := range q.waiters {
		then(who)
	}
}

// ask asks the homeserver whose a token is.
func (n *node) ask(d *Device, q *question) {
	n.counts.Upstream[ForWhoAmI]++
	under, revision, asked := n.owners.Begin(d.credential), n.owners.Revision(), n.agenda.now
	n.agenda.in(readTakes, func() {
		defer under.End()
		if d.Unknown {
			n.homeserver.did[RejectToken]++
			if limit := n.cfg.RejectedLimit; limit != nil && d.Address != "" {
				n.budgets.rejected.Charge(d.Address, *limit, n.agenda.now)
			}
			n.owners.Reject(d.credential, new(identity.UnknownToken), asked)
			n.answer(d, q, owner{rejected: true})
			return
		}
		n.homeserver.did[TellOwner]++
		n.claims = n.claims || d.credential.UserID == ""
		under.Learn(identity.WhoAmI{UserID: d.User.ID}, revision, asked)
		if n.learns() {
			n.presence.LetIn(d.User.ID, asked, true)
		}
		n.answer(d, q, owner{known: true})
	})
}

// readsFirst tells whether a read may go in the place of a question.
func (n *node) readsFirst(d *Device, rd *reading, now time.Time) bool {
	claimed := n.claimed(d)
	return n.learns() && n.recognised && claimed != "" && d.credential.UserID == "" &&
		n.presence.Lookup(claimed, rd.request.Target.ID, &n.rules, now).Outcome == cache.Miss
}

// firstRead sends a read in the place of a question. If it is refused, the question follows.
func (n *node) firstRead(d *Device, rd *reading, q *question) {
	n.counts.Upstream[ForFirstRead]++
	under, revision, departed := n.owners.Begin(d.credential), n.owners.Revision(), n.agenda.now
	target := rd.request.Target
	ticket := n.presence.Lookup(d.User.ID, target.ID, &n.rules, departed).Ticket
	n.agenda.in(readTakes, func() {
		defer under.End()
		rd.brought = true
		answer := n.homeserver.read(d.User, target, n.agenda.now)
		n.remember(d.User, target, ticket, answer)
		if answer == nil {
			n.ask(d, q)
			return
		}
		under.Learn(identity.WhoAmI{UserID: d.User.ID}, revision, departed)
		n.presence.LetIn(d.User.ID, departed, false)
		n.answer(d, q, owner{known: true})
	})
}

// servedOwner notes that the homeserver has served a token's user.
func (n *node) servedOwner(d *Device, claimed string, departed time.Time) {
	aging := n.cachedOwner(d, departed.Add(n.cfg.Lifetimes.Identity/2))
	if d.credential.UserID != "" || aging.known {
		n.presence.LetIn(claimed, departed, false)
		return
	}
	under := n.owners.Begin(d.credential)
	under.Learn(identity.WhoAmI{UserID: claimed}, n.owners.Revision(), departed)
	under.End()
	n.presence.LetIn(claimed, departed, n.dialect() == matrix.Synapse)
}
