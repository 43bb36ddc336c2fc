package devices

import (
	"slices"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// SyncAsk is a sync that asks for a presence.
type SyncAsk struct {
	UserID   string
	Device   [16]byte
	Presence matrix.Presence // not NoPresence
	Timeout  time.Duration
}

// SyncRules say how syncs are judged.
type SyncRules struct {
	Dialect matrix.Dialect

	// ObserveOnly lets all go through as they are.
	ObserveOnly bool

	// Refresh is for how long a repeat may be taken out, and a lower state be held
	// down by another device.
	Refresh time.Duration

	// Allow takes a change from the user's budget and reports whether there was one
	// left. It is asked, without a lock, only about what ends another state that a sync has set.
	Allow func() bool
}

// budget is what is known of a user's budget for changes.
type budget int

const (
	budgetUnasked budget = iota
	budgetLeft
	budgetEmpty
)

// SyncVerdict is what becomes of the presence that a sync sets.
type SyncVerdict int

const (
	SyncChanged   SyncVerdict = iota // passed on: a change
	SyncRepeated                     // passed on: a repeat that the homeserver may need
	SyncUnknown                      // passed on: it isn't known whose it is or what it means
	SyncNone                         // passed on: the homeserver makes nothing of it
	SyncUnchanged                    // taken out: a repeat
	SyncStripped                     // taken out: none is to reach the homeserver
	SyncLimited                      // taken out or replaced: a change over the budget
	SyncOutranked                    // taken out: a lower state than that of another device
	SyncVerdicts                     // how many there are
)

// SyncDecision is what becomes of one sync. [SyncDecision.End] or [SyncDecision.Refuse]
// must be called.
type SyncDecision struct {
	Verdict SyncVerdict

	// Value is what set_presence is to say instead, or "".
	Value string

	// Changes tells that the user's presence may become another by it.
	Changes bool

	// Reports tells that the homeserver hears a state, so that it matters whether it
	// takes the sync.
	Reports bool

	devices  *Devices
	shard    *deviceShard
	device   *device
	reported *reported
	at       int64   // when it asked
	version  uint64  // of what it was told
	before   earlier // for a sync that is refused
}

// earlier is what there was before a sync.
type earlier struct {
	wants         matrix.Presence
	asked, synced int64
	reported      reported
}

// Sync decides about a sync that is about to be sent.
func (d *Devices) Sync(ask SyncAsk, rules SyncRules, now time.Time) SyncDecision {
	at := int64(now.Sub(d.epoch))
	decision, ok := d.sync(ask, rules, at, budgetUnasked)
	if !ok {
		left := budgetEmpty
		if rules.Allow() {
			left = budgetLeft
		}
		decision, _ = d.sync(ask, rules, at, left)
	}
	return decision
}

// sync is Sync with what is left of the budget. If that isn't known, and matters, it
// reports false and has done nothing.
func (d *Devices) sync(ask SyncAsk, rules SyncRules, at int64, left budget) (decision SyncDecision, ok bool) {
	shard, hash := d.shardOf(ask.UserID)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	user, dev := shard.device(hash, ask.Device)

	reported := user.reported(dev, rules.Dialect)
	heldDown := !rules.ObserveOnly && !rules.Dialect.PerDevice() && user.holdsDown(dev, ask.Presence, at-int64(rules.Refresh))
	if left == budgetUnasked && !heldDown && reported.isCharged(ask, rules, at) {
		return SyncDecision{}, false
	}
	before := earlier{dev.wants, dev.asked, dev.synced, *reported}
	gap := matrix.Unbounded
	if dev.synced != 0 {
		gap = time.Duration(at - dev.synced)
	}
	dev.asked, dev.synced, dev.wants = at, at, ask.Presence
	dev.syncs++

	if heldDown {
		decision = SyncDecision{Verdict: SyncOutranked, Value: rules.Dialect.NoChangeValue()}
	} else {
		decision = reported.judge(dev, ask, rules, at, gap, left)
	}
	if decision.Reports {
		reported.inFlight++
	}
	decision.devices, decision.shard, decision.device, decision.reported = d, shard, dev, reported
	decision.at, decision.version, decision.before = at, reported.version, before
	return decision, true
}

// holdsDown tells that another device wants a higher state than this one does, and has said so
// since.
func (u *userDevices) holdsDown(dev *device, wants matrix.Presence, since int64) bool {
	return slices.ContainsFunc(u.devices, func(other *device) bool {
		return other != dev && other.wants > wants && (other.syncs > 0 || other.asked > since)
	})
}

// isCharged tells that a sync ends another state that a sync has set.
//
// What ends what a write has set can't be taken out, and is not charged for: the user's other
// devices, whose syncs can be, would pay for it.
func (r *reported) isCharged(ask SyncAsk, rules SyncRules, at int64) bool {
	free := r.written || r.maybeOnline && ask.Presence == matrix.Online
	return !rules.ObserveOnly && r.isAlive(rules.Dialect, at) && !r.isSame(ask, rules.Dialect) && !r.mayBeGone(rules.Dialect, at) && !free
}

// isSame tells that the homeserver was told what a sync asks for, or makes no difference of it.
func (r *reported) isSame(ask SyncAsk, dialect matrix.Dialect) bool {
	return r.state == ask.Presence ||
		dialect == matrix.Synapse && r.state == matrix.Busy // which a sync doesn't end (synapse/handlers/presence.py, set_state)
}

// judge decides by what the homeserver was told before.
func (r *reported) judge(dev *device, ask SyncAsk, rules SyncRules, at int64, gap time.Duration, left budget) SyncDecision {
	noChange, timeout := rules.Dialect.NoChangeValue(), int64(rules.Dialect.SyncTimeout())
	alive := r.isAlive(rules.Dialect, at)
	unsure := r.maybeOnline || r.doubted || dev.writes > 0 && rules.Dialect != matrix.Dendrite || rules.Dialect == matrix.UnknownDialect
	// The client comes again after some such time as it took to come now. Until then
	// the homeserver must not miss it: what is taken out is no more than what leaves
	// the state in place all that time.
	strippable := alive && noChange != "" && !r.written && !unsure &&
		ask.Timeout+gap < time.Duration(r.lastSent+timeout-at)-timerMargin

	if alive && r.isSame(ask, rules.Dialect) {
		// A lower state may not have taken effect.
		lingering := ask.Presence < matrix.Online && max(0, time.Duration(r.lastSent-r.changed)) < rules.Dialect.MergeWindow()
		if strippable && at < r.lastSent+int64(rules.Refresh) && !lingering && !rules.ObserveOnly {
			return SyncDecision{Verdict: SyncUnchanged, Value: noChange}
		}
		changes := lingering || unsure || r.mayBeGone(rules.Dialect, at)
		r.by = dev
		r.report(at)
		return SyncDecision{Verdict: SyncRepeated, Changes: changes, Reports: true}
	}

	if left == budgetEmpty && r.isCharged(ask, rules, at) {
		switch {
		case strippable:
			return SyncDecision{Verdict: SyncLimited, Value: noChange}
		case r.by == dev && r.state < ask.Presence:
			// The state must not end meanwhile. It is what this client asked for before,
			// and no more than it asks for now.
			r.report(at)
			return SyncDecision{Verdict: SyncLimited, Value: r.state.String(), Changes: unsure, Reports: true}
		}
		// There is nothing that it could say instead. It can't be repeated without end:
		// to go down again it has to go up first.
	}
	r.state, r.by, r.changed = ask.Presence, dev, at
	r.report(at)
	return SyncDecision{Verdict: SyncChanged, Changes: true, Reports: true}
}

// End must be called when the sync is over, and whether the homeserver took it. If it
// may have but nobody knows, it did.
func (s SyncDecision) End(taken bool, now time.Time) {
	s.shard.mu.Lock()
	defer s.shard.mu.Unlock()
	s.device.syncs--
	switch {
	case !s.Reports:
		return
	case !taken:
		s.reported.state = matrix.NoPresence
	default:
		s.reported.lastAlive = max(s.reported.lastAlive, int64(now.Sub(s.devices.epoch)))
	}
	s.reported.inFlight--
}

// Refuse is called instead of End if the homeserver has refused the sync, so that it has
// changed nothing: all is as it was before. Otherwise whoever has syncs refused would have
// none of them limited.
func (s SyncDecision) Refuse() {
	s.shard.mu.Lock()
	defer s.shard.mu.Unlock()
	s.device.syncs--
	// Unless the device has asked for something else since.
	if dev := s.device; dev.asked == s.at {
		dev.wants, dev.asked, dev.synced = s.before.wants, s.before.asked, s.before.synced
	}
	if !s.Reports {
		return
	}
	now, before := s.reported, s.before.reported
	now.inFlight--
	if now.version != s.version {
		now.changed, now.unsure = now.lastSent, now.version
		return
	}
	before.inFlight, before.unsure = now.inFlight, now.unsure
	before.written, before.maybeOnline, before.doubted = before.written || now.written, before.maybeOnline || now.maybeOnline, before.doubted || now.doubted
	if now.lastAlive > now.lastSent {
		before.lastAlive = now.lastAlive
	}
	if now.lastHeard > now.lastSent {
		before.lastHeard = now.lastHeard
	}
	if now.changed > now.lastSent { // by a doubt
		before.changed = now.changed
	}
	if before.version < before.unsure {
		before.state = matrix.NoPresence
	}
	*now = before
}
