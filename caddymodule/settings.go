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
