package gateway

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/cluster"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// InspectedUser is what a store knows of a user, for an admin who looks them up.
type InspectedUser struct {
	UserID string `json:"user_id"`

	// Budgets are what is left of each limit that applies to the user. Who is exempt has none.
	Budgets []InspectedBudget `json:"budgets"`

	// Tokens is how many access tokens are known to be the user's, or to act for them.
	Tokens int `json:"tokens"`

	// Devices are those that have asked for a presence by a sync, or by a write where syncs are looked
	// at, the last one first.
	Devices []InspectedDevice `json:"devices"`

	Presence    InspectedPresence    `json:"presence"`
	Permissions InspectedPermissions `json:"permissions"`

	// WaitingWrites is how many writes got a 200 and wait or are being delivered.
	WaitingWrites int `json:"waiting_writes"`
}

// InspectedBudget is what is left of a limit.
type InspectedBudget struct {
	Limit  string  `json:"limit"` // read, write or sync
	Left   int     `json:"left"`  // that may come at once
	Burst  int     `json:"burst"` // of so many
	Refill float64 `json:"refill_seconds"`
	Wait   float64 `json:"wait_seconds"` // until there is one, or 0
	Full   float64 `json:"full_seconds"` // until all are there
}

// InspectedDevice is what a device asked for.
type InspectedDevice struct {
	Presence string  `json:"presence"`
	Ago      float64 `json:"seconds_ago"`
}

// InspectedPresence is what is kept of the user's presence.
type InspectedPresence struct {
	// State is the homeserver's answer as it would be given now, fresh or not, or null. With
	// per_viewer each viewer has one of their own, and there is none here.
	State json.RawMessage `json:"state"`
	Age   float64         `json:"age_seconds"`
	Fresh float64         `json:"fresh_seconds"` // not above 0 if it isn't

	// Settled is false while a write is in flight, waits or settles.
	Settled bool `json:"settled"`
}

// InspectedPermissions are who may see whom, as far as that is known and fresh.
type InspectedPermissions struct {
	Sees      int `json:"sees"`      // of those whose presence is kept
	Forbidden int `json:"forbidden"` // of those whose presence is kept
	SeenBy    int `json:"seen_by"`   // of those who have a token that is known
	Rooms     int `json:"rooms"`     // whose lists of members name the user, at most 8
}

// InspectUser returns what is known of a user, under these configurations. What lives for
// different times under them is judged by the longest. It changes nothing, and takes about a
// microsecond for each state and each token that is known.
func (m *Store) InspectUser(userID string, all []*Settings) *InspectedUser {
	now := m.now()
	is := &InspectedUser{UserID: userID, Budgets: m.inspectBudgets(userID, all, now), Devices: []InspectedDevice{}}
	longest := Defaults()
	if len(all) > 0 {
		longest = slices.MaxFunc(all, func(a, b *Settings) int { return cmp.Compare(a.Rules.TTL, b.Rules.TTL) })
	}
	users := m.identities.Users(now, longest.Lifetimes)
	is.Tokens = users[userID]
	for _, one := range m.devices.Inspect(userID, now) {
		is.Devices = append(is.Devices, InspectedDevice{one.Wants.String(), one.Asked.Seconds()})
	}
	viewers := make([]string, 0, len(users))
	for viewer := range users {
		viewers = append(viewers, viewer)
	}
	known := m.presence.Inspect(userID, viewers, &longest.Rules, now)
	is.Presence = InspectedPresence{Settled: known.Settled}
	if known.Answer != nil {
		is.Presence.State = known.Answer.AppendBody(nil, known.Age)
		is.Presence.Age, is.Presence.Fresh = known.Age.Seconds(), known.Fresh.Seconds()
	}
	is.Permissions = InspectedPermissions{known.Sees, known.Forbidden, known.SeenBy, known.Rooms}
	if queued, waits := m.pendings.Waits(userID); waits {
		is.WaitingWrites = max(1, queued) // one is on its way
	}
	return is
}

// inspectBudgets returns a user's budgets: one for each limit that some configuration has for them.
func (m *Store) inspectBudgets(userID string, all []*Settings, now time.Time) []InspectedBudget {
	type key struct {
		kind  limitKind
		limit policy.Limit
	}
	seen := make(map[key]bool)
	budgets := []InspectedBudget{}
	for kind, limiter := range m.limiters() {
		for _, set := range all {
			limit := set.ClassOf(userID).limit(limitKind(kind))
			if limit == nil || limitKind(kind) == limitSync && set.SyncPresence != SyncLimit {
				continue
			}
			if one := (key{limitKind(kind), *limit}); !seen[one] {
				seen[one] = true
				left := limiter.Left(userID, *limit, now)
				budgets = append(budgets, InspectedBudget{
					Limit: LimitNames[kind], Left: left.Events, Burst: limit.Burst(), Refill: limit.Interval().Seconds(),
					Wait: left.Wait.Seconds(), Full: left.Full.Seconds(),
				})
			}
		}
	}
	return budgets
}

// Reset gives a user full budgets, at all nodes of a cluster. Who was over a limit most often stays on the list of those.
// It reports whether any budget of this node's wasn't full. Writes that wait come when they were to come.
func (m *Store) Reset(userID string) (changed bool) {
	m.tell(cluster.Refilled, userID)
	return m.refill(userID)
}

func (m *Store) refill(userID string) (changed bool) {
	m.clusters.reads.clear()
	for _, limiter := range m.limiters() {
		changed = limiter.Forget(userID, m.now()) || changed
	}
	return changed
}

// Purge drops what is cached of a user: their presence, and who may see whom as far as it
// concerns them, at all nodes of a cluster. What waits to be written and what is on its way are not touched.
func (m *Store) Purge(userID string) {
	m.tell(cluster.Purged, userID)
	m.presence.Purge(userID, m.now())
}

// PurgeAll is [Store.Purge] for all users.
func (m *Store) PurgeAll() {
	m.tell(cluster.Purged, "")
	m.presence.PurgeAll(m.now())
}

// Forget drops all that is known of a user but what they have used of their budgets and what waits
// to be written: [Store.Purge], whose tokens are theirs, what their devices asked for, and what
// they last wrote, at all nodes of a cluster. All of it is asked for anew.
func (m *Store) Forget(userID string) {
	m.tell(cluster.Forgotten, userID)
	m.forget(userID)
}

func (m *Store) forget(userID string) {
	m.endSessionsOf(userID)
	m.repeats.Disturb(userID)
	m.presence.Purge(userID, m.now())
}

// DoubtAll has the homeserver asked again for all that it has told, because requests may have passed that the store
// didn't hear of, a moment ago too: nothing is kept until these have settled. Budgets and what waits to be written stay.
func (m *Store) DoubtAll() {
	now := m.now()
	m.presence.PurgeAll(now)
	m.presence.Flush(now, m.settles())
	m.presence.AllMembershipsChanged(now, m.settles())
	m.identities.SettleAll(m.settled())
	m.identities.RevokeAll()
	m.repeats.Clear()
	m.devices.Clear()
	m.batches.begin(now)
}

// Began returns when the store began to count.
func (m *Store) Began() time.Time { return m.began }

// Homeserver returns the name of the homeserver, in lower case, or "" if it isn't known.
func (m *Store) Homeserver(all []*Settings) string {
	dialect := m.software.known()
	for _, set := range all {
		if set.Dialect != Auto {
			dialect = set.Dialect
		}
	}
	return map[matrix.Dialect]string{matrix.Synapse: "synapse", matrix.Dendrite: "dendrite", matrix.Tuwunel: "tuwunel"}[dialect]
}
