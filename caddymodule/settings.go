package caddymodule

import (
	"slices"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// settings is the configuration as requests use it: checked, and with the
// defaults filled in. It is immutable.
type settings struct {
	observe       bool
	rejectedLimit *policy.Limit // of a client; nil: none

	everybody, exempted *class
	exempt              []policy.UserPattern
	classes             []*class // the first that matches is a user's

	// absorbs, coalesces and limitsReads tell that some class does.
	absorbs, coalesces, limitsReads bool

	refresh   time.Duration
	coalesce  coalesceRules
	sync      syncMode
	dialect   dialect
	preflight bool // answered here

	cached bool
	rules  cache.Rules
	settle time.Duration
	sizes  sizes

	lifetimes       policy.Lifetimes // of identities and rejections
	identityTimeout time.Duration

	maxBody        int64
	presenceValues []string // none: what the homeserver may take
}

// Constants of the defaults that more than one place needs.
const (
	defaultTTL         = 30 * time.Second
	defaultSettle      = time.Second
	defaultRejectedTTL = 10 * time.Second
	defaultRefresh     = 20 * time.Second
	defaultStates      = 100_000
)

// maxRefresh is the longest refresh: Synapse takes a device that is not syncing for offline
// 30 seconds after it was last heard of; its own workers let repeats through each 25
// (handlers/presence.py).
const maxRefresh = 25 * time.Second

// defaults returns the settings that apply where nothing else is configured. Each is safe on
// Synapse, Dendrite and tuwunel.
func defaults() *settings {
	return &settings{
		everybody: &class{
			// The sustained rate is Synapse's own (rc_presence, 0.1/s); the burst lets a
			// client come and go a few times without seeing a 429.
			writeLimit: mustLimit(6, time.Minute, 5),
			// Some clients ask for every member when a big room opens, 2,600 at once.
			readLimit: mustLimit(100, time.Second, 5000),
			// A user whose client comes and goes makes a few changes in a minute; two
			// devices that fight make hundreds.
			syncLimit: mustLimit(6, time.Minute, 5),
		},
		// What a client forgets to log out of, and what a large NAT collects of that,
		// without a homeserver noticing who makes tokens up.
		rejectedLimit: mustLimit(10, time.Minute, 50),
		refresh:       defaultRefresh,
		coalesce: coalesceRules{
			// Some 10 KB each, with the header fields that they are to be sent with.
			pending: 10_000,
			// A client that was told 200 has no reason to try again, so this is for how
			// long the homeserver may be restarted without a change of presence lost.
			maxAge: time.Minute,
		},
		cached: true,
		rules: cache.Rules{
			// Synapse itself takes as long to notice that a user has gone offline.
			TTL: defaultTTL,
			// Who has just joined a room should not look at a 403 for longer.
			ForbiddenTTL: 5 * time.Second,
		},
		// Dendrite applied every write within 50 ms of its answer unless it was flooded;
		// Synapse and tuwunel need none.
		settle: defaultSettle,
		sizes: sizes{
			// Some 450 B each as a rule: about 45 MB for the users of a large server.
			states: defaultStates,
			// Ten viewers for each state.
			permissions: 1_000_000,
			// As many as states: a token for each user.
			tokens: defaultStates,
		},
		lifetimes: policy.Lifetimes{
			// As long as Synapse trusts a token that its authentication service has
			// vouched for; a revocation that passes through us takes effect at once.
			Identity: 2 * time.Minute,
			// Long enough to stop a client that repeats itself; a token is never issued
			// after it was refused.
			Rejection: defaultRejectedTTL,
		},
		// As long as Dendrite waits for its own components.
		identityTimeout: 10 * time.Second,
		// Many times the longest status that a client lets a person type.
		maxBody: 64 << 10,
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

// complete sets what follows from the classes: what applies to those who are exempt from all
// limits, and what some class does.
func (s *settings) complete() {
	exempted := *s.everybody
	exempted.writeLimit, exempted.readLimit, exempted.syncLimit = nil, nil, nil
	exempted.coalesce = false
	s.exempted = &exempted
	for _, c := range append([]*class{s.everybody}, s.classes...) {
		s.absorbs = s.absorbs || c.absorb
		s.coalesces = s.coalesces || c.coalesce
		s.limitsReads = s.limitsReads || c.readLimit != nil
	}
}

// coalesceRules are bounds of the writes that wait.
type coalesceRules struct {
	pending int
	maxAge  time.Duration
}

// sizes are those of the tables in a memory.
type sizes struct{ states, permissions, tokens int }

// class is what applies to a user.
type class struct {
	match []policy.UserPattern

	writeLimit, readLimit, syncLimit *policy.Limit // nil: none

	absorb   bool // repeated writes
	coalesce bool // writes over the limit
}

// classOf returns what applies to a user.
func (s *settings) classOf(userID string) *class {
	if len(s.exempt) == 0 && len(s.classes) == 0 {
		return s.everybody
	}
	matches := func(pattern policy.UserPattern) bool { return pattern.Match(userID) }
	if slices.ContainsFunc(s.exempt, matches) {
		return s.exempted
	}
	for _, c := range s.classes {
		if slices.ContainsFunc(c.match, matches) {
			return c
		}
	}
	return s.everybody
}

// watchesSyncs tells whether syncs are looked at: to change them, or because a repeat of
// a write is none if a sync came between.
func (s *settings) watchesSyncs() bool { return s.sync != syncPass || s.absorbs }

// watchesActivity tells whether that is looked at by which a homeserver takes its user for
// active: it may change what a write or a sync has set.
func (s *settings) watchesActivity() bool { return s.sync == syncLimit || s.absorbs }
