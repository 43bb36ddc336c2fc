package caddymodule

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// Limit is a budget of events. It refills evenly.
type Limit struct {
	// Off lifts the limit. Nothing else may be given with it.
	Off bool `json:"off,omitempty"`

	// Events is how many there may be in a window, at least 1.
	Events int `json:"events,omitempty"`

	// Window is the time in which so many events are refilled.
	Window caddy.Duration `json:"window,omitempty"`

	// Burst is how many there may be at once. Default: as many as events.
	Burst int `json:"burst,omitempty"`
}

// limit returns nil for no limit.
func (l *Limit) limit() (*policy.Limit, error) {
	if l.Off {
		if l.Events != 0 || l.Window != 0 || l.Burst != 0 {
			return nil, errors.New("a limit that is off has no events, window or burst")
		}
		return nil, nil
	}
	limit, err := policy.NewLimit(l.Events, time.Duration(l.Window), l.Burst)
	if err != nil {
		return nil, err
	}
	return &limit, nil
}

// Cache configures what is remembered of the homeserver's answers to presence
// reads, and for how long.
type Cache struct {
	// Off sends every read to the homeserver. Nothing else may be given with it.
	Off bool `json:"off,omitempty"`

	// Name says which sites have one store: the cache, the budgets and the
	// identities of all handlers with this name. Sites that front the same
	// homeserver should share one, so that a write through one of them is seen
	// through the other; sites of different homeservers must not, because each
	// would believe what the other says about whose token is whose. They should
	// agree on the sizes; those of the last one that was used apply, and of settle
	// the longest.
	//
	// Default: one store for each homeserver, as far as it can be told: sites share it
	// if they have a host in common, and if GET /_matrix/client/v3/account/whoami goes
	// to the same upstreams with the same Host and other header fields. Where it
	// can't be told, a name is required. The store is named after the hosts, or the
	// addresses, of its sites when it begins, with their addresses or a number if that
	// name is taken. A reload keeps it as long as a host and the upstreams stay. A site with
	// other upstreams gets a new one, unless it has a name.
	Name string `json:"name,omitempty"`

	// States is for how many users a presence is kept; the least recently read
	// go first. A state takes about 450 bytes, and never more than 7 KiB:
	// a body above 4 KiB, or header fields above 2 KiB, are not kept. Default:
	// 100000.
	States int `json:"states,omitempty"`

	// Permissions is for how many pairs of viewer and target it is kept that the
	// homeserver lets the one see the other, about 56 bytes each. Denials have an
	// eighth as many places of their own. Default: 1000000.
	Permissions int `json:"permissions,omitempty"`

	// TTL is how long a state is served from memory, and how long a viewer who
	// was allowed to see a target stays so. It bounds how late readers see a
	// change that doesn't come as a write through this module: by a sync, by the
	// homeserver's timers, over federation. Default: 30s.
	TTL caddy.Duration `json:"ttl,omitempty"`

	// ForbiddenTTL is how long a denial, 403 or 404, is served from memory. It
	// bounds how long somebody who has just joined a room still gets one.
	// With 0 none is kept. Default: 5s.
	ForbiddenTTL *caddy.Duration `json:"forbidden_ttl,omitempty"`

	// StaleIfError is up to which age a state is served when the homeserver
	// can't be reached, answers with a 5xx or takes longer than 5 seconds. A failure
	// counts only if it comes again without the header fields that the client may have
	// chosen, and what the site's own handlers answer is none. It is served to those
	// only who were allowed to see the target when the state was true. Default: 0,
	// which is never.
	StaleIfError caddy.Duration `json:"stale_if_error,omitempty"`

	// Settle is for how long after a write nothing is stored about its user but an
	// answer that shows what was written, because some homeservers acknowledge
	// a write before they apply it. Default: 1s.
	Settle *caddy.Duration `json:"settle,omitempty"`

	// PerViewer keeps a state of its own for each viewer. It is for a homeserver
	// that shapes the body by who reads it; Synapse, Dendrite and tuwunel don't.
	PerViewer bool `json:"per_viewer,omitempty"`
}

// Learn configures what is learned from answers that pass by. Nothing is, unless it is given.
type Learn struct {
	// Off learns nothing, as by default. Nothing else may be given with it.
	Off bool `json:"off,omitempty"`

	// Members is for how many users it is kept which rooms they are joined to, by lists of members
	// that passed by, about 250 bytes each. Those who were listed first go first. Default: 100000.
	Members int `json:"members,omitempty"`

	// ExcludeRooms are the IDs of rooms by which the homeserver shows no presence: on Synapse those of
	// exclude_rooms_from_presence. If one is left out here, its members may see each other's presence
	// until the homeserver refuses the first of them.
	ExcludeRooms []string `json:"exclude_rooms,omitempty"`
}

// Identity configures what is remembered of whose access token is whose.
type Identity struct {
	// Tokens is for how many access tokens the user is kept, and how many users'
	// budgets are tracked by each limit. Rejected tokens have an eighth as many
	// places of their own. Default: 100000.
	Tokens int `json:"tokens,omitempty"`

	// TTL is how long the homeserver is not asked again whose token it is. A
	// logout, a device deletion, a password change, a deactivation, a login with a
	// device that was there or a refresh that passes through this module takes
	// effect at once; TTL bounds how long another one goes unnoticed, and a
	// password reset by mail, which names nobody. Default: 2m.
	TTL caddy.Duration `json:"ttl,omitempty"`

	// RejectedTTL is how long a token that the homeserver doesn't know is
	// refused without asking again. With 0 it is asked each time. Default: 10s.
	RejectedTTL *caddy.Duration `json:"rejected_ttl,omitempty"`

	// RejectedLimit is each client's budget of different tokens that the homeserver
	// turns out not to know. Over it, the answer to any token that isn't in memory, and
	// that the homeserver hasn't known, is 429. Tokens that it knows cost nothing, and
	// those that it is known not to know have a budget of their own, eight times as
	// large, for asking again after RejectedTTL.
	//
	// A client is an IPv4 address or an IPv6 /64, as Caddy's trusted_proxies tells
	// it; a whole /48 has eight times as much. Private and loopback addresses, and those
	// between a provider and its NAT (100.64.0.0/10), have no budget: they are
	// proxies' more often than clients'. Default: 10 in 1m, burst 50.
	RejectedLimit *Limit `json:"rejected_limit,omitempty"`

	// Timeout is how long the homeserver may take to tell whose token it is.
	// Default: 10s.
	Timeout caddy.Duration `json:"timeout,omitempty"`
}

// Coalesce bounds the writes that wait for their user's budget.
type Coalesce struct {
	// Pending is how many may wait, of all users together. One more is answered
	// with 429, and so is a request of more than 16 KiB. One takes about 10 KB. Default:
	// 10000.
	Pending int `json:"pending,omitempty"`

	// MaxAge is how long one may wait, and how long a delivery that fails is tried
	// again. A write that would have to wait for longer is answered with 429.
	// Default: 1m.
	MaxAge caddy.Duration `json:"max_age,omitempty"`
}

// optionError is about an option of the handler, so that a Caddyfile's line can be
// named.
type optionError struct {
	// options are those to blame, as [optionOf] names them. The first that is given
	// is the one.
	options []string
	err     error
}

// optionOf names an option as it stands in a Caddyfile: "over_limit", "max_age of
// coalesce", "over_limit of class bots", "class bots".
func optionOf(block, name string) string {
	if block == "" {
		return name
	}
	return name + " of " + block
}

func (e *optionError) Error() string { return e.err.Error() }
func (e *optionError) Unwrap() error { return e.err }

// blame makes an error one about an option.
func blame(option, format string, args ...any) error {
	return blameFirst([]string{option}, format, args...)
}

// blameFirst makes an error one about the first of some options that is given.
func blameFirst(options []string, format string, args ...any) error {
	return &optionError{options, fmt.Errorf(format, args...)}
}

// settings checks the configuration.
func (h *Handler) settings() (*gateway.Settings, error) {
	s := gateway.Defaults()
	s.PresenceValues = h.PresenceValues
	err := cmp.Or( // the first only: one line can be named
		setWord("mode", &s.Observe, h.Mode, map[string]bool{"": false, "enforce": false, "observe": true}),
		checkRenamed(h),
		setWord("sync_presence", &s.SyncPresence, h.SyncPresence, gateway.SyncModes),
		setWord("homeserver", &s.Dialect, h.Homeserver, gateway.Dialects),
		setWord("preflight", &s.Preflight, h.Preflight, map[string]bool{"": false, "pass": false, "local": true}),
		setWord("brown_out", &s.BrownOut, h.BrownOut, map[string]bool{"": false, "off": false, "on": true}),
	)
	if err != nil {
		return nil, err
	}
	if err := setCache(s, h.Cache); err != nil {
		return nil, fmt.Errorf("checking cache: %w", err)
	}
	if err := setLearn(s, h.Learn, h.Cache); err != nil {
		return nil, fmt.Errorf("checking learn: %w", err)
	}
	if err := setIdentity(s, h.Identity); err != nil {
		return nil, fmt.Errorf("checking identity: %w", err)
	}
	if err := setRelief(s, h); err != nil {
		return nil, err
	}
	if err := setFeed(s, h.feed); err != nil {
		return nil, err
	}
	if err := cmp.Or(checkCluster(h, h.cluster), checkSnapshot(h)); err != nil {
		return nil, err
	}
	if err := setClasses(s, h); err != nil {
		return nil, err
	}

	switch {
	case h.MaxBody < 0:
		return nil, blame("max_body", "checking max_body: must be above 0")
	case h.MaxBody > 0:
		s.MaxBody = h.MaxBody
	}
	return s, nil
}

// checkRenamed refuses the words that options had before their first release, and names those
// that they have now.
func checkRenamed(h *Handler) error {
	switch {
	case h.Sync != nil:
		return errors.New("checking sync: it is named sync_presence now")
	case h.SyncPresence == "off":
		return blame("sync_presence", "checking sync_presence: 'off' is named 'strip' now")
	}
	return nil
}

// setRelief sets what all classes have in common of repeats, late writes and syncs.
func setRelief(s *gateway.Settings, h *Handler) error {
	coalesce := h.Coalesce
	if coalesce == nil {
		coalesce = new(Coalesce)
	}
	err := errors.Join(
		setDuration("refresh", &s.Refresh, unlessZero(h.Refresh)),
		setNumber("pending", &s.Coalesce.Pending, coalesce.Pending),
		setDuration("max_age", &s.Coalesce.MaxAge, unlessZero(coalesce.MaxAge)),
	)
	switch {
	case err != nil:
		return err
	case s.Refresh > gateway.MaxRefresh:
		return blame("refresh", "checking refresh: %v is too long: homeservers take a user for offline after 30s without news, so at most %v", s.Refresh, gateway.MaxRefresh)
	case s.SyncPresence == gateway.SyncStrip && s.Dialect == gateway.Tuwunel:
		return blame("sync_presence", "checking sync_presence: tuwunel has no way to leave a sync's set_presence out; use sync_presence limit")
	}
	return nil
}

func setCache(s *gateway.Settings, c *Cache) error {
	if c == nil {
		c = new(Cache)
	}
	if c.Off {
		if *c != (Cache{Off: true, Name: c.Name}) {
			return errors.New("a cache that is off takes no option but name")
		}
	}
	s.Cached = !c.Off
	s.Rules.PerViewer = c.PerViewer
	return errors.Join(
		setNumber("states", &s.Sizes.States, c.States),
		setNumber("permissions", &s.Sizes.Permissions, c.Permissions),
		setDuration("ttl", &s.Rules.TTL, unlessZero(c.TTL)),
		setDuration("forbidden_ttl", &s.Rules.ForbiddenTTL, c.ForbiddenTTL),
		setDuration("stale_if_error", &s.Rules.StaleIfError, unlessZero(c.StaleIfError)),
		setDuration("settle", &s.Settle, c.Settle),
	)
}

func setLearn(s *gateway.Settings, l *Learn, c *Cache) error {
	if l == nil {
		return nil
	}
	if !l.Off && c != nil && (c.Off || c.PerViewer) {
		return blame("learn", "it has no effect with a cache that is off or per_viewer")
	}
	if s.Learn = !l.Off; l.Off && (l.Members != 0 || len(l.ExcludeRooms) > 0) {
		return blame("learn", "one that is off takes no options")
	}
	for _, roomID := range l.ExcludeRooms {
		if !matrix.IsRoomID(roomID) {
			return blame("learn", "exclude_rooms takes room IDs, such as !abc:example.com, not '%s'", roomID)
		}
	}
	s.ExcludeRooms = l.ExcludeRooms
	return setNumber("members", &s.Sizes.Rooms, l.Members)
}

func setIdentity(s *gateway.Settings, i *Identity) error {
	if i == nil {
		i = new(Identity)
	}
	if i.RejectedLimit != nil {
		limit, err := i.RejectedLimit.limit()
		if err != nil {
			return fmt.Errorf("rejected_limit: %w", err)
		}
		s.RejectedLimit = limit
	}
	return errors.Join(
		setNumber("tokens", &s.Sizes.Tokens, i.Tokens),
		setDuration("ttl", &s.Lifetimes.Identity, unlessZero(i.TTL)),
		setDuration("rejected_ttl", &s.Lifetimes.UnknownToken, i.RejectedTTL),
		setDuration("timeout", &s.IdentityTimeout, unlessZero(i.Timeout)),
	)
}

// setWord sets what an option's word means.
func setWord[T any](option string, dst *T, word string, words map[string]T) error {
	meaning, ok := words[word]
	if !ok {
		return blame(option, "checking %s: expected %s, not '%s'", option, wordList(words), word)
	}
	*dst = meaning
	return nil
}

// wordList lists the words of an option for people: "pass, limit or off".
func wordList[T any](words map[string]T) string {
	list := slices.DeleteFunc(slices.Sorted(maps.Keys(words)), func(word string) bool { return word == "" })
	last := len(list) - 1
	return strings.Join(list[:last], ", ") + " or " + list[last]
}

// setNumber sets a table size, which a given 0 leaves at its default.
func setNumber(name string, dst *int, given int) error {
	switch {
	case given < 0:
		return fmt.Errorf("%s must be at least 1, not %d", name, given)
	case given > 0:
		*dst = given
	}
	return nil
}

// unlessZero returns nil for 0, which means for some options that they aren't given.
func unlessZero(given caddy.Duration) *caddy.Duration {
	if given == 0 {
		return nil
	}
	return &given
}

// setDuration sets a duration to what is given, and leaves its default if nothing is.
func setDuration(name string, dst *time.Duration, given *caddy.Duration) error {
	switch {
	case given == nil:
	case *given < 0:
		return fmt.Errorf("%s must not be negative, not %v", name, time.Duration(*given))
	default:
		*dst = time.Duration(*given)
	}
	return nil
}
