package plan

import (
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// tellsItself is for how long a sync may take to tell by its answer whose its token is, see
// internal/gateway/whoami.go.
const tellsItself = 2 * time.Second

// world is all that is simulated: nodes with the module before one homeserver, and beside them the
// same homeserver without them.
type world struct {
	agenda      *agenda
	cfg         *gateway.Settings
	limitsReads bool
	budgets     *budgets
	nodes       []*node
	counts      *Counts
	homeserver  *homeserver // behind the nodes
	direct      *homeserver // without them
	members     func(room string) []*User
}

// newWorld returns one with tables of these sizes in each node.
func newWorld(cfg *gateway.Settings, sizes gateway.Sizes, nodes int, dialect matrix.Dialect,
	sees func(viewer, target *User) bool, members func(room string) []*User,
) *world {
	w := &world{agenda: &agenda{now: start}, cfg: cfg, counts: new(Counts), members: members}
	w.limitsReads = cfg.Everybody.ReadLimit != nil ||
		slices.ContainsFunc(cfg.Classes, func(c *gateway.Class) bool { return c.ReadLimit != nil })
	w.homeserver = &homeserver{dialect: dialect, sees: sees, did: &w.counts.With}
	w.direct = &homeserver{dialect: dialect, sees: sees, did: &w.counts.Without}
	w.budgets = newBudgets(sizes.Tokens*nodes, w.agenda.now)
	for range nodes {
		w.nodes = append(w.nodes, newNode(w, sizes))
	}
	return w
}

// device returns one of a user's devices. A ghost's token is its bridge's.
func (w *world) device(u *User, token string, ghost bool) *Device {
	d := &Device{User: u, credential: matrix.Credential{Token: token}}
	if ghost {
		d.credential.UserID = u.ID
	}
	d.fingerprint = w.nodes[0].owners.Fingerprint(d.credential)
	// All that comes of a device goes to the same node.
	hash := fnv.New32a()
	_, _ = fmt.Fprint(hash, u.ID, token)
	d.node = int(hash.Sum32() % uint32(len(w.nodes))) //nolint:gosec // G115: a few
	return d
}

// send has a request answered with the module, and without it.
func (w *world) send(r *Request) {
	w.withoutModule(r)
	w.nodes[r.By.node].serve(r)
}

func (w *world) withoutModule(r *Request) {
	h, now := w.direct, w.agenda.now
	switch {
	case r.By.Unknown:
		h.did[RejectToken]++
	case r.Kind == Read:
		h.did[ServeRead]++
	case r.Kind == Write:
		h.write(r.By, r.Presence, r.StatusMsg, now)
	case r.Kind == Sync:
		h.sync(r.By, r.Presence, now)
	case r.Kind == Preflight:
		h.did[AnswerPreflight]++
	case r.Kind == List:
		h.did[ListMembers]++
	}
}

// leave is that a device is gone.
func (w *world) leave(d *Device) {
	w.homeserver.leave(d)
	w.direct.leave(d)
}

// count returns what has happened until now.
func (w *world) count() Counts {
	c := *w.counts
	for _, n := range w.nodes {
		states, allowed, refused := n.presence.Evicted()
		identities, unknown := n.owners.Evicted()
		_, rooms := n.presence.Rooms()
		c.Evicted += int64(states + allowed + refused + identities + unknown + rooms + n.repeats.Evicted() + n.devices.Evicted()) //nolint:gosec // G115: counters of a short time
	}
	for _, l := range []interface{ Overflowed() uint64 }{w.budgets.reads, w.budgets.writes, w.budgets.syncs, w.budgets.rejected} {
		c.Overflowed += int64(l.Overflowed()) //nolint:gosec // G115: likewise
	}
	return c
}

// Table is one of a node's.
type Table int

const (
	States Table = iota
	Permissions
	Identities
	Readers
	Writers
	Syncers
	Devices
	LastWrites
	RoomMembers
	Tables
)

// TableNames are what the metric entries calls them.
var TableNames = [Tables]string{"states", "permissions", "identities", "readers", "writers", "syncers", "devices", "last_writes", "room_members"}

// entries returns how many there are in each table of all nodes together.
func (w *world) entries() (n [Tables]int) {
	for _, node := range w.nodes {
		states, allowed, refused := node.presence.Len()
		identities, unknown := node.owners.Len()
		members, _ := node.presence.Rooms()
		n[States] += states
		n[Permissions] += allowed + refused
		n[Identities] += identities + unknown
		n[Devices] += node.devices.Len()
		n[LastWrites] += node.repeats.Len()
		n[RoomMembers] += members
	}
	n[Readers], n[Writers], n[Syncers] = w.budgets.reads.Users(), w.budgets.writes.Users(), w.budgets.syncs.Users()
	return n
}
