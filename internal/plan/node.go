package plan

import (
	"slices"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/devices"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/identity"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// budgets are those of users and of clients. The nodes of a cluster share them.
type budgets struct {
	reads, writes, syncs, rejected *policy.Limiter
}

// node is one process with the module: its real tables, and what is under way in it.
type node struct {
	*world

	cfg      *gateway.Settings
	rules    cache.Rules
	budgets  *budgets
	presence *cache.Presence
	owners   *identity.Table
	repeats  *policy.Repeats
	devices  *devices.Devices

	flights   map[flightKey]*flight
	questions map[[16]byte]*question
	waiting   map[*User]*queue
	waits     int // writes in all queues

	recognised     bool      // the homeserver has told which one it is
	recognising    bool      // it is being asked
	claims         bool      // the homeserver has shown that tokens name their users
	preflightUntil time.Time // for how long a preflight is answered here
}

// preflightTTL is for how long the homeserver is not asked for a preflight again, see
// internal/gateway/preflight.go.
const preflightTTL = 5 * time.Minute

func newBudgets(users int, now time.Time) *budgets {
	return &budgets{
		policy.NewLimiter(users, now), policy.NewLimiter(users, now),
		policy.NewLimiter(users, now), policy.NewLimiter(users, now),
	}
}

func newNode(w *world, sizes gateway.Sizes) *node {
	now := w.agenda.now
	n := &node{
		world: w, cfg: w.cfg, budgets: w.budgets,
		presence:  cache.NewPresence(sizes.States, sizes.Permissions, now),
		owners:    identity.NewTable(sizes.Tokens, now),
		repeats:   policy.NewRepeats(sizes.Tokens, now),
		devices:   devices.NewDevices(sizes.Tokens, now),
		flights:   make(map[flightKey]*flight),
		questions: make(map[[16]byte]*question),
		waiting:   make(map[*User]*queue),
	}
	n.rules, n.recognised = w.cfg.Rules, w.cfg.Dialect != matrix.UnknownDialect
	n.rules.Rooms = n.recognised && n.learns()
	if n.learns() {
		n.presence.ResizeRooms(sizes.Rooms)
	}
	return n
}

// learns tells whether answers are read while they pass.
func (n *node) learns() bool { return n.cfg.Learn && n.cfg.Cached && !n.cfg.Rules.PerViewer }

// recognise has the homeserver asked which one it is, once.
func (n *node) recognise() {
	if n.recognised || n.recognising {
		return
	}
	n.recognising = true
	n.counts.Upstream[ForVersion]++
	n.agenda.in(readTakes, func() { n.recognised, n.rules.Rooms = true, n.learns() })
}

// watchesSyncs tells whether syncs are looked at.
func (n *node) watchesSyncs() bool { return n.cfg.SyncPresence == gateway.SyncLimit || n.cfg.Absorbs }

// serve is what a node does about a request.
func (n *node) serve(r *Request) {
	n.counts.Clients[r.Kind]++
	switch r.Kind {
	case Read:
		n.serveRead(r)
	case Write:
		n.serveWrite(r)
	case Sync:
		n.serveSync(r)
	case Preflight:
		n.servePreflight()
	case List:
		n.serveList(r)
	}
}

// end notes how a request was answered.
func (n *node) end(kind Kind, outcome Outcome) { n.counts.Outcomes[kind][outcome]++ }

func (n *node) servePreflight() {
	now := n.agenda.now
	if n.cfg.Preflight && now.Before(n.preflightUntil) {
		n.end(Preflight, Hit)
		return
	}
	n.end(Preflight, Forwarded)
	n.counts.Upstream[ForPreflight]++
	n.homeserver.did[AnswerPreflight]++
	n.agenda.in(readTakes, func() { n.preflightUntil = n.agenda.now.Add(preflightTTL) })
}

// serveList passes on who is joined to a room, and learns from it.
func (n *node) serveList(r *Request) {
	n.end(List, Forwarded)
	n.counts.Upstream[ForList]++
	n.homeserver.did[ListMembers]++
	if !n.learns() {
		return
	}
	n.recognise()
	departed, members := n.agenda.now, n.members(r.Room)
	if !slices.Contains(members, r.By.User) {
		return // a 403
	}
	claimed := n.claimed(r.By)
	learn := func(userID string) {
		n.presence.LetIn(userID, departed, false)
		if n.presence.KnowsList(userID, r.Room, &n.rules, departed) {
			return
		}
		keys := make([]cache.UserKey, len(members))
		for i, m := range members {
			keys[i] = n.presence.MemberKey([]byte(m.ID))
		}
		n.presence.Listed(userID, r.Room, keys, departed)
	}
	n.agenda.in(readTakes, func() {
		if !n.recognised {
			return
		}
		if claimed != "" {
			n.servedOwner(r.By, claimed, departed)
			learn(claimed)
			return
		}
		n.identify(r.By, nil, func(who owner) {
			if who.known {
				learn(r.By.User.ID)
			}
		})
	})
}

// invalidate forgets what a user's presence is, on all nodes.
func (n *node) invalidate(u *User) {
	for _, other := range n.nodes {
		other.presence.Invalidate(u.ID, n.agenda.now, n.cfg.Settle)
		other.repeats.Disturb(u.ID)
	}
}

// dialect is what the homeserver makes of presence.
func (n *node) dialect() matrix.Dialect { return n.homeserver.dialect }
