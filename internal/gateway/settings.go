package gateway

import (
	"slices"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/identity"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/pending"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// Settings is the configuration as requests use it: checked, and with the
// defaults filled in. It is immutable.
type Settings struct {
	Observe       bool
	RejectedLimit *policy.Limit // of a client; nil: none

	Everybody, exempted *Class
	Exempt              []matrix.UserPattern
	Classes             []*Class // the first that matches is a user's

	// Absorbs, coalesces and limitsReads tell that some class does.
	Absorbs, Coalesces, limitsReads bool

	Refresh      time.Duration
	Coalesce     pending.Rules
	SyncPresence syncMode
	Dialect      dialect
	Preflight    bool // answered here
	BrownOut     bool // presence gives way while the homeserver is slow

	// Learn has answers read while they pass; see learn.go. What lists of the rooms in ExcludeRooms
	// say permits nothing.
	Learn        bool
	ExcludeRooms []string

	Cached bool
	Rules  cache.Rules
	Settle time.Duration
	Sizes  Sizes

	Lifetimes       identity.Lifetimes // of identities and unknown tokens
	IdentityTimeout time.Duration

	MaxBody        int64
	PresenceValues []string // none: what the homeserver may take
}

// Constants of the defaults that more than one place needs.
const (
	defaultTTL         = 30 * time.Second
	defaultSettle      = time.Second
	defaultRejectedTTL = 10 * time.Second
	defaultRefresh     = 20 * time.Second
	defaultStates      = 100_000
)

// MaxRefresh is the longest refresh: Synapse takes a device that is not syncing for offline
// 30 seconds after it was last heard of; its own workers let repeats through each 25
// (handlers/presence.py).
const MaxRefresh = 25 * time.Second

// Defaults returns the settings that apply where nothing else is configured. Each is safe on
// Synapse, Dendrite and tuwunel.
func Defaults() *Settings {
	return &Settings{
		Everybody: &Class{
			// The sustained rate is Synapse's own (rc_presence, 0.1/s); the burst lets a
			// client come and go a few times without seeing a 429.
			WriteLimit: mustLimit(6, time.Minute, 5),
			// Some clients ask for every member when a big room opens, 2,600 at once.
			ReadLimit: mustLimit(100, time.Second, 5000),
			// A user whose client comes and goes makes a few changes in a minute; two
			// devices that fight make hundreds.
			SyncLimit: mustLimit(6, time.Minute, 5),
		},
		// What a client forgets to log out of, and what a large NAT collects of that,
		// without a homeserver noticing who makes tokens up.
		RejectedLimit: mustLimit(10, time.Minute, 50),
		Refresh:       defaultRefresh,
		Coalesce: pending.Rules{
			// Some 10 KB each, with the header fields that they are to be sent with.
			Pending: 10_000,
			// A client that was told 200 has no reason to try again, so this is for how
			// long the homeserver may be restarted without a change of presence lost.
			MaxAge: time.Minute,
		},
		Cached: true,
		Rules: cache.Rules{
			// Synapse itself takes as long to notice that a user has gone offline.
			TTL: defaultTTL,
			// Who has just joined a room should not look at a 403 for longer.
			ForbiddenTTL: 5 * time.Second,
		},
		// Dendrite applied every write within 50 ms of its answer unless it was flooded;
		// Synapse and tuwunel need none.
		Settle: defaultSettle,
		Sizes: Sizes{
			// Some 450 B each as a rule: about 45 MB for the users of a large server.
			States: defaultStates,
			// Ten viewers for each state.
			Permissions: 1_000_000,
			// As many as states: a token for each user.
			Tokens: defaultStates,
			// As many as states, some 250 B each.
			Rooms: defaultStates,
		},
		Lifetimes: identity.Lifetimes{
			// As long as Synapse trusts a token that its authentication service has
			// vouched for; a revocation that passes through us takes effect at once.
			Identity: 2 * time.Minute,
			// Long enough to stop a client that repeats itself; a token is never issued
			// after it was refused.
			UnknownToken: defaultRejectedTTL,
		},
		// As long as Dendrite waits for its own components.
		IdentityTimeout: 10 * time.Second,
		// Many times the longest status that a client lets a person type.
		MaxBody: 64 << 10,
	}
}

// mustLimit returns a default.
func mustLimit(events int, window time.Duration, burst int) *policy.Limit {
	limit, err := policy.NewLimit(events, window, burst)
	if err != nil {
		panic("a default limit is wrong: " + err.Error())
	}
	return &limit
}

// Complete sets what follows from the classes: what applies to those who are exempt from all
// limits, and what some class does.
func (s *Settings) Complete() {
	exempted := *s.Everybody
	exempted.WriteLimit, exempted.ReadLimit, exempted.SyncLimit = nil, nil, nil
	exempted.Coalesce = false
	s.exempted = &exempted
	for _, c := range append([]*Class{s.Everybody}, s.Classes...) {
		s.Absorbs = s.Absorbs || c.Absorb
		s.Coalesces = s.Coalesces || c.Coalesce
		s.limitsReads = s.limitsReads || c.ReadLimit != nil
	}
}

// Sizes are those of the tables in a store.
type Sizes struct {
	States, Permissions, Tokens int
	Rooms                       int // users that are known by the rooms which they are in
}

// Class is what applies to a user.
type Class struct {
	Match []matrix.UserPattern

	WriteLimit, ReadLimit, SyncLimit *policy.Limit // nil: none

	Absorb   bool // repeated writes
	Coalesce bool // writes over the limit
}

// ClassOf returns what applies to a user.
func (s *Settings) ClassOf(userID string) *Class {
	if len(s.Exempt) == 0 && len(s.Classes) == 0 {
		return s.Everybody
	}
	matches := func(pattern matrix.UserPattern) bool { return pattern.Match(userID) }
	if slices.ContainsFunc(s.Exempt, matches) {
		return s.exempted
	}
	for _, c := range s.Classes {
		if slices.ContainsFunc(c.Match, matches) {
			return c
		}
	}
	return s.Everybody
}

// learns tells whether answers are read while they pass.
func (s *Settings) learns() bool { return s.Learn && s.Cached && !s.Rules.PerViewer }

// excludesRoom tells of a room that it permits nothing.
func (s *Settings) excludesRoom(roomID string) bool { return slices.Contains(s.ExcludeRooms, roomID) }

// watchesSyncs tells whether syncs are looked at: to change them, or because a repeat of
// a write is none if a sync came between.
func (s *Settings) watchesSyncs() bool { return s.SyncPresence != syncPass || s.Absorbs }

// watchesActivity tells whether that is looked at by which a homeserver takes its user for
// active: it may change what a write or a sync has set.
func (s *Settings) watchesActivity() bool { return s.SyncPresence == SyncLimit || s.Absorbs }
