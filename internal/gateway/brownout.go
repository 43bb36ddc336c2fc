package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// With brown_out on, presence gives way while the homeserver is slow. How far is found out by
// [policy.BrownOut] from the time that our own lookups and fetches take; in mode observe, from that of
// the reads which pass. What that means is here and in the decisions:
//
//   - spare: a state that is no longer fresh is shown for longer, to those whose permission is fresh, and
//     repeats are heard of less often;
//   - hold: what would ask the homeserver, a lookup, a fetch, a read that is passed on, or a write, needs a
//     place. Without one a read gets a 429, and a write waits as one over its user's limit does, or gets
//     a 429. No change by a sync is within its user's budget;
//   - off: the same, and there is one place each few seconds.
//
// A request that isn't about presence needs no place and waits for nothing, and so don't the questions that
// are asked behind its back. Nor does anything here end or lengthen a permission.

// errShed says that a request of ours wasn't sent because presence gives way.
var errShed = errors.New("presence gives way while the homeserver is slow")

// brownOut returns how far presence gives way at this gateway.
func (t tenant) brownOut() policy.BrownOutLevel {
	if !t.cfg.BrownOut || t.store.brownOut.IsNone() {
		return policy.BrownOutNone
	}
	return t.store.brownOut.Level(t.store.now())
}

// refresh is for how long a repeat may be kept from the homeserver.
func (g *Gateway) refresh() time.Duration {
	if g.brownOut() >= policy.BrownOutSpare {
		return MaxRefresh
	}
	return g.cfg.Refresh
}

// lookupRules are the rules of lookups: by whether rooms permit, and whether presence gives way.
type lookupRules [2][2]cache.Rules

// olderFactor is for how many times as long as usual a state is shown while presence gives way, at least.
const olderFactor = 2

func newLookupRules(rules *cache.Rules) (all lookupRules) {
	for rooms := range all {
		for older := range all[rooms] {
			r := &all[rooms][older]
			*r = *rules
			r.Rooms = rooms == 1
			if older == 1 {
				r.Older = max(olderFactor*rules.TTL, rules.StaleIfError)
			}
		}
	}
	return all
}

func (l *lookupRules) of(rooms, older bool) *cache.Rules {
	var i, j int
	if rooms {
		i = 1
	}
	if older {
		j = 1
	}
	return &l[i][j]
}

// enter takes a place among the presence requests that go to the homeserver, or returns after how long to
// try again. Probing says of one that its time is measured by [tenant.probes].
func (t tenant) enter(sender string, probing bool) (pass policy.Pass, wait time.Duration) {
	if !t.cfg.BrownOut {
		return pass, 0
	}
	return t.store.brownOut.Enter(sender, probing, t.store.now())
}

// joins counts a presence request that goes to the homeserver in any case.
func (t tenant) joins() (pass policy.Pass) {
	if t.cfg.BrownOut {
		pass = t.store.brownOut.Join(t.store.now())
	}
	return pass
}

// senderOf returns what tells the sender of a request from others: a user, or else an address.
func (g *Gateway) senderOf(r *http.Request, userID string) string {
	if userID != "" || !g.cfg.BrownOut {
		return userID
	}
	return g.newClient(r, nil).name
}

// placeLeft finds out in mode observe, in which nobody waits for a place, whether there would be one.
func (t tenant) placeLeft(level policy.BrownOutLevel) policy.PlaceFact {
	if level < policy.BrownOutHold {
		return policy.PlaceTaken
	}
	return placeFact(t.store.brownOut.MayEnter(t.store.now()))
}

// placeFact is what a place that was asked for is to a decision.
func placeFact(wait time.Duration) policy.PlaceFact {
	if wait > 0 {
		return policy.PlaceFull
	}
	return policy.PlaceTaken
}

// probe is a request by which it is told how slow the homeserver is, or none.
type probe struct {
	*policy.Probe
	store *Store
}

// probes notes that a request leaves on behalf of a sender. [probe.ends] must be called.
func (t tenant) probes(kind policy.ProbeKind, sender string) probe {
	if !t.cfg.BrownOut {
		return probe{}
	}
	return probe{t.store.brownOut.Departs(kind, sender, t.store.now()), t.store}
}

// drops notes that the request is over, and says nothing of the homeserver.
func (p probe) drops() {
	if p.Probe != nil {
		p.Drop()
	}
}

// ends notes what the request has brought. What the site's own handlers have answered says nothing of the
// homeserver.
func (p probe) ends(answer *subresponse) {
	switch {
	case p.Probe == nil:
	case answer.site || answer.local && !answer.failed():
		p.Drop()
	default:
		p.Arrives(answer.failed(), p.store.now())
	}
}

// logBrownOut logs that presence gives way, or comes back.
func (m *Store) logBrownOut(c policy.BrownOutChange) {
	logger := m.brownOuts.Load()
	if logger == nil {
		return
	}
	level, message := slog.LevelInfo, "brown-out: presence comes back, the homeserver is quicker again"
	if c.To > c.From {
		level, message = slog.LevelWarn, "brown-out: presence gives way, the homeserver is slow"
	}
	logger.Log(context.Background(), level, message, "level", policy.BrownOutNames[c.To], "level_before", policy.BrownOutNames[c.From],
		"slowness", c.Slowness, "best", c.Best)
}
