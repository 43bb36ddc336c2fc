package plan

import (
	"github.com/caddy-matrix/caddy-matrix-presence/internal/devices"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// serveSync is the life of a sync. It always reaches the homeserver, perhaps without its presence.
func (n *node) serveSync(r *Request) {
	n.counts.Upstream[ForSync]++
	if n.watchesSyncs() || n.cfg.SyncPresence == gateway.SyncStrip {
		n.recognise()
	}
	departed, claimed := n.agenda.now, ""
	if n.learns() {
		claimed = n.claimed(r.By)
	}
	n.passSync(r)
	if n.learns() && claimed != "" {
		n.agenda.in(r.Lasts+readTakes, func() { n.servedOwner(r.By, claimed, departed) })
	}
}

// passSync decides about the presence that a sync sets.
func (n *node) passSync(r *Request) {
	dialect, now := n.dialect(), n.agenda.now
	switch {
	case !n.recognised && (n.cfg.SyncPresence == gateway.SyncLimit || n.cfg.SyncPresence == gateway.SyncStrip):
		n.passUnjudged(r)
		return
	case n.cfg.SyncPresence == gateway.SyncStrip && dialect.NoChangeValue() != "":
		n.end(Sync, Stripped)
		return
	case r.Presence == matrix.NoPresence:
		n.end(Sync, Forwarded)
		return
	case !n.watchesSyncs():
		n.end(Sync, Forwarded)
		n.homeserver.sync(r.By, r.Presence, now)
		return
	}
	u := r.By.User
	if n.owners.LastKnown(r.By.credential) == "" {
		n.passUnjudged(r)
		return
	}
	decision := n.devices.Sync(devices.SyncAsk{
		UserID: u.ID, Device: r.By.fingerprint, Presence: r.Presence, Timeout: r.Timeout,
	}, devices.SyncRules{
		Dialect: dialect, ObserveOnly: n.cfg.SyncPresence != gateway.SyncLimit, Refresh: n.cfg.Refresh,
		Allow: func() bool {
			return takeBudget(n.budgets.syncs, n.cfg.ClassOf(u.ID).SyncLimit, u.ID, now) == policy.BudgetLeft
		},
	}, now)
	if decision.Changes {
		n.invalidate(u)
	}
	outcome, sets := Forwarded, r.Presence
	if decision.Value != "" {
		outcome, sets = Stripped, dialect.SyncPresence(decision.Value)
	}
	n.end(Sync, outcome)
	n.homeserver.sync(r.By, sets, now)
	n.agenda.in(r.Lasts+readTakes, func() {
		if decision.Changes {
			n.invalidate(u)
		}
		decision.End(true, n.agenda.now)
	})
}

// passUnjudged passes a sync on whose sender isn't known. The homeserver is asked for that
// meanwhile, unless the answer tells.
func (n *node) passUnjudged(r *Request) {
	doubt := func() {
		n.invalidate(r.By.User)
		n.devices.Doubt(r.By.User.ID, r.By.fingerprint, n.agenda.now)
	}
	n.end(Sync, Forwarded)
	n.homeserver.sync(r.By, r.Presence, n.agenda.now)
	if n.owners.LastKnown(r.By.credential) != "" {
		doubt()
		n.agenda.in(r.Lasts+readTakes, doubt)
		return
	}
	if n.learns() && n.claimed(r.By) != "" && r.Lasts < tellsItself {
		n.agenda.in(r.Lasts+readTakes, doubt)
		return
	}
	n.identify(r.By, nil, func(who owner) {
		if who.known {
			doubt()
		}
	})
}
