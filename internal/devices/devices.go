package devices

import (
	"hash/maphash"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// Devices remembers which presence each device of a user last asked for by a sync,
// and decides which of these the homeserver has to hear. It is safe for use by
// several goroutines.
//
// A device is told by the fingerprint of its credential. What a homeserver makes of
// several devices is the [Dialect]'s: Synapse and tuwunel merge them themselves, so
// that each is judged by its own past. Dendrite has one state of a user, so that a
// sync is judged by what any device last set, and a lower state is held down as
// long as another device wants a higher one.
//
// A sync is never changed to say more than its client asks for, nor anything that this
// client has not asked for by a sync before.
//
// A device of which nothing is known goes as it asks, and costs no budget: it may be
// one that has been there all the time, and was forgotten because there are too many,
// or because its syncs failed.
type Devices struct {
	epoch  time.Time
	seed   maphash.Seed
	shards [deviceShards]deviceShard
}

const (
	deviceShards = 16

	// maxUserDevices is how many devices of a user are told apart. Of more, the one
	// that has not asked for longest is forgotten.
	maxUserDevices = 8

	// timerMargin is how long before a state ends a repeat goes to the homeserver all
	// the same, and from when on it may have ended: timers and networks are never exact.
	timerMargin = 5 * time.Second
)

type deviceShard struct {
	mu       sync.Mutex // guards all below, and the users' entries
	users    *simplelru.LRU[uint64, *userDevices]
	devices  int // of all users
	capacity int
	evicted  uint64
}

type userDevices struct {
	dialect matrix.Dialect // of the homeserver that was told
	shared  reported       // where the homeserver doesn't tell devices apart
	devices []*device
}

// device is what a device wants, and what the homeserver was told of it.
type device struct {
	fingerprint [16]byte
	wants       matrix.Presence
	asked       int64 // when it last said so
	synced      int64 // when it last did so by a sync
	syncs       int   // under way, whatever became of them
	writes      int   // in flight, so that the homeserver may take one any time
	reported    reported
}

// reported is what the homeserver was last told of a device, or of a user.
type reported struct {
	state matrix.Presence
	// by is the device that has said so by a sync, nil for a write.
	by *device
	// written tells of a write since. It feeds no timer of syncs, or no more than some
	// (Synapse), so that the next sync is told.
	written bool
	// maybeOnline tells that the homeserver may have made the user online since, doubted
	// that it may have been told anything.
	maybeOnline, doubted bool

	changed   int64 // since when it is this
	lastSent  int64 // when it was last told by a sync
	lastHeard int64 // when the homeserver last heard anything that keeps the state in place
	lastAlive int64 // the same as lastSent, or the end of that sync
	inFlight  int   // syncs under way by which it was told

	// version counts what it was told. What has a lower one than unsure was told while a
	// sync was under way that the homeserver then refused.
	version, unsure uint64
}

// report notes that the homeserver is told what it holds.
func (r *reported) report(at int64) {
	r.lastSent, r.lastAlive, r.lastHeard = at, at, at
	r.written, r.maybeOnline, r.doubted = false, false, false
	r.version++
}

// doubt notes that the homeserver may have been told anything. What lingers lingers from then on.
func (r *reported) doubt(at int64) {
	r.doubted, r.changed = true, max(r.changed, at)
}

// void notes that it isn't known what the homeserver holds.
func (r *reported) void() {
	r.state, r.by = matrix.NoPresence, nil
	r.version++ // so that no sync that is refused brings it back
}

// mayBeGone tells that the homeserver may have taken the device for gone: no sync of it is
// open, and its last sign of life is as old as the homeserver's timer. Synapse counts from
// when a sync began (synapse/handlers/presence.py, handle_timeout) and looks every five
// seconds who is gone, so that the shortest pause between two long polls may be one too many:
//
//	 0.0 s sync: begins, waits for news
//	30.0 s sync: ends
//	30.1 s Synapse: looks, takes the device for offline
//	30.1 s read: fetches "offline"
//	30.2 s sync: begins, the device is online
//
// Who syncs all the time is idle after five minutes all the same.
func (r *reported) mayBeGone(dialect matrix.Dialect, at int64) bool {
	timeout := dialect.SyncTimeout()
	if r.inFlight > 0 {
		timeout = matrix.IdleTimer
	}
	return at >= r.lastHeard+int64(timeout-timerMargin)
}

// NewDevices returns a table of at most so many devices, at least one in each shard.
// Of now only differences matter.
func NewDevices(devices int, now time.Time) *Devices {
	d := &Devices{epoch: now.Add(-time.Hour), seed: maphash.MakeSeed()}
	for i := range d.shards {
		// The bound is of devices. NewLRU fails on sizes below 1 only.
		d.shards[i].users, _ = simplelru.NewLRU[uint64, *userDevices](math.MaxInt, nil)
		d.shards[i].capacity = max(1, devices/deviceShards)
	}
	return d
}

// Resize changes how many devices are kept. Of a smaller table the users go first who
// have not been heard of for longest.
func (d *Devices) Resize(devices int) {
	for i := range d.shards {
		shard := &d.shards[i]
		shard.mu.Lock()
		shard.capacity = max(1, devices/deviceShards)
		shard.shrink(nil)
		shard.mu.Unlock()
	}
}

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

// sync is Sync for a budget of which it is known what is left. If it isn't, and that matters, it
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

// reported returns what the homeserver was told of a device, as far as it tells devices apart.
// What another kind of homeserver was told, or one of an unknown kind, says nothing of it.
func (u *userDevices) reported(dev *device, dialect matrix.Dialect) *reported {
	if u.dialect != dialect {
		u.dialect = dialect
		u.shared.void()
		for _, other := range u.devices {
			other.reported.void()
		}
	}
	if dialect.PerDevice() {
		return &dev.reported
	}
	return &u.shared
}

// holdsDown tells that another device wants a higher state than this one does, and has said so
// since.
func (u *userDevices) holdsDown(dev *device, wants matrix.Presence, since int64) bool {
	return slices.ContainsFunc(u.devices, func(other *device) bool {
		return other != dev && other.wants > wants && (other.syncs > 0 || other.asked > since)
	})
}

// isAlive tells that the homeserver still holds what it was told.
func (r *reported) isAlive(dialect matrix.Dialect, at int64) bool {
	return r.state != matrix.NoPresence && (r.inFlight > 0 || at < r.lastAlive+int64(dialect.SyncTimeout()))
}

// isSame tells that the homeserver was told what a sync asks for, or makes no difference of it.
func (r *reported) isSame(ask SyncAsk, dialect matrix.Dialect) bool {
	return r.state == ask.Presence ||
		dialect == matrix.Synapse && r.state == matrix.Busy // which a sync doesn't end (synapse/handlers/presence.py, set_state)
}

// isCharged tells that a sync ends another state that a sync has set.
//
// What ends what a write has set can't be taken out, and is not charged for: the user's other
// devices, whose syncs can be, would pay for it.
func (r *reported) isCharged(ask SyncAsk, rules SyncRules, at int64) bool {
	free := r.written || r.maybeOnline && ask.Presence == matrix.Online
	return !rules.ObserveOnly && r.isAlive(rules.Dialect, at) && !r.isSame(ask, rules.Dialect) && !r.mayBeGone(rules.Dialect, at) && !free
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

// DeviceWrite is a presence write of a device that is on its way. [DeviceWrite.Taken] or
// [DeviceWrite.Failed] must be called when it is over. Meanwhile the device's syncs go through:
// the homeserver may take the write at any time.
//
// Dendrite compares what syncs ask for with what they asked for before, and nothing else
// (syncapi/sync/requestpool.go, updatePresenceInternal), so that to its syncs a write is
// nothing.
type DeviceWrite struct {
	devices *Devices // nil if it is nothing
	shard   *deviceShard
	user    *userDevices
	device  *device
	began   int64
}

// BeginWrite notes that a write of a device is on its way.
func (d *Devices) BeginWrite(userID string, fingerprint [16]byte, dialect matrix.Dialect, now time.Time) DeviceWrite {
	if dialect == matrix.Dendrite {
		return DeviceWrite{}
	}
	at := int64(now.Sub(d.epoch))
	shard, hash := d.shardOf(userID)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	user, dev := shard.device(hash, fingerprint)
	dev.asked = max(dev.asked, at)
	dev.writes++
	return DeviceWrite{d, shard, user, dev, at}
}

// Taken notes that the homeserver has taken the write. NoPresence is for a state that isn't
// known. It isn't either if the device has said something else since the write began, by a
// sync or another write: nobody knows which one the homeserver took last.
func (w DeviceWrite) Taken(state matrix.Presence, dialect matrix.Dialect, now time.Time) {
	if w.devices == nil {
		return
	}
	at := int64(now.Sub(w.devices.epoch))
	w.shard.mu.Lock()
	defer w.shard.mu.Unlock()
	w.device.writes--
	if dialect == matrix.Dendrite {
		return
	}
	reported := w.user.reported(w.device, dialect)
	if reported.state != state && max(reported.lastSent, reported.changed) >= w.began {
		state = matrix.NoPresence
	}
	w.device.asked, w.device.wants = at, state
	reported.state, reported.by, reported.changed = state, nil, at
	// It may have come long before the answer to it.
	reported.lastAlive, reported.lastHeard = max(reported.lastAlive, w.began), max(reported.lastHeard, w.began)
	// What made the user online may have come after it, and be no more now.
	reported.written, reported.maybeOnline, reported.doubted = true, false, reported.doubted || reported.maybeOnline
	reported.version++
}

// Failed notes that the write is over, and whether the homeserver may have taken it all
// the same.
func (w DeviceWrite) Failed(mayHave bool, now time.Time) {
	if w.devices == nil {
		return
	}
	w.shard.mu.Lock()
	defer w.shard.mu.Unlock()
	w.device.writes--
	if mayHave {
		at := int64(now.Sub(w.devices.epoch))
		w.user.shared.doubt(at)
		w.device.reported.doubt(at)
	}
}

// Active notes that a device of the user did what a homeserver takes them for active by,
// see [IsActivity], and reports whether the user's presence may become another by it.
// The next sync goes through then. Of a device that isn't known it may. It is called when
// that begins, and again when it is over.
//
//   - Synapse makes a device that was unavailable online (synapse/handlers/presence.py,
//     bump_presence_active_time).
//   - tuwunel makes any device online, also one that was busy.
//   - Dendrite does nothing.
func (d *Devices) Active(userID string, fingerprint [16]byte, dialect matrix.Dialect, began, now time.Time) (changes bool) {
	if dialect == matrix.Dendrite {
		return false
	}
	changes = true
	from, at := int64(began.Sub(d.epoch)), int64(now.Sub(d.epoch))
	d.ofKnown(userID, fingerprint, dialect, func(dev *device, reported *reported) {
		changes = reported.state < matrix.Online || reported.state == matrix.Busy && dialect != matrix.Synapse || reported.mayBeGone(dialect, at) ||
			reported.doubted || dev.writes > 0 || dialect == matrix.UnknownDialect
		reported.maybeOnline = reported.maybeOnline || changes
		reported.lastHeard = max(reported.lastHeard, from)
	})
	return changes
}

// Forget drops a device whose credential has ended: it wants nothing any more.
func (d *Devices) Forget(userID string, fingerprint [16]byte) {
	d.forget(userID, func(dev *device) bool { return dev.fingerprint == fingerprint })
}

// ForgetUser drops all devices of a user.
func (d *Devices) ForgetUser(userID string) {
	d.forget(userID, func(*device) bool { return true })
}

func (d *Devices) forget(userID string, ended func(*device) bool) {
	shard, hash := d.shardOf(userID)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	user, ok := shard.users.Peek(hash)
	if !ok {
		return
	}
	before := len(user.devices)
	user.devices = slices.DeleteFunc(user.devices, ended)
	shard.devices -= before - len(user.devices)
	if len(user.devices) == 0 {
		shard.users.Remove(hash)
	}
}

// Clear forgets all devices, of which nobody knows what the homeserver has been told meanwhile.
func (d *Devices) Clear() {
	for i := range d.shards {
		shard := &d.shards[i]
		shard.mu.Lock()
		shard.users.Purge()
		shard.devices = 0
		shard.mu.Unlock()
	}
}

// Doubt notes that the homeserver may have been told anything of a device, by a sync that
// could not be judged, or a write of which isn't known what became. Where all devices have
// one state, it is that which may be another, also by a device that isn't known.
func (d *Devices) Doubt(userID string, fingerprint [16]byte, now time.Time) {
	at := int64(now.Sub(d.epoch))
	shard, hash := d.shardOf(userID)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	user, ok := shard.users.Peek(hash)
	if !ok {
		return
	}
	user.shared.doubt(at)
	for _, dev := range user.devices {
		if dev.fingerprint == fingerprint {
			dev.reported.doubt(at)
		}
	}
}

// Observe compares what the homeserver was told of a user's devices with the body of a presence
// that it has shown since. If that is lower, it has lost what a device said, or begun anew, and
// the next sync of that device goes through: a first read and a first sync at the same moment
// do to Synapse what [Repeats.Observe] shows of a write. Dendrite sets nothing by a repeat.
func (d *Devices) Observe(userID string, answer []byte, dialect matrix.Dialect, now time.Time) {
	shard, hash := d.shardOf(userID)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	user, ok := shard.users.Peek(hash)
	if !ok || !dialect.PerDevice() || user.dialect != dialect {
		return
	}
	shown, _, isPresence := matrix.ReadShown(answer)
	for _, dev := range user.devices {
		if isPresence && dev.reported.state > shown {
			dev.reported.doubt(int64(now.Sub(d.epoch)))
		}
	}
}

// ofKnown calls f with a device and what the homeserver was told of it, if it is known.
func (d *Devices) ofKnown(userID string, fingerprint [16]byte, dialect matrix.Dialect, f func(dev *device, reported *reported)) {
	shard, hash := d.shardOf(userID)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	user, ok := shard.users.Peek(hash)
	if !ok {
		return
	}
	for _, dev := range user.devices {
		if dev.fingerprint == fingerprint {
			f(dev, user.reported(dev, dialect))
		}
	}
}

func (d *Devices) shardOf(userID string) (*deviceShard, uint64) {
	hash := maphash.String(d.seed, userID)
	return &d.shards[hash%deviceShards], hash
}

// device returns a user's entry and a device's, which it makes if there is none. It
// needs the lock.
func (s *deviceShard) device(hash uint64, fingerprint [16]byte) (*userDevices, *device) {
	user, ok := s.users.Get(hash)
	if !ok {
		user = new(userDevices)
		s.users.Add(hash, user)
	}
	for _, dev := range user.devices {
		if dev.fingerprint == fingerprint {
			return user, dev
		}
	}
	dev := &device{fingerprint: fingerprint}
	if len(user.devices) == maxUserDevices {
		user.dropOldest()
		s.devices--
		s.evicted++
	}
	user.devices = append(user.devices, dev)
	s.devices++
	s.shrink(user)
	return user, dev
}

// shrink drops the users who have not been heard of for longest while there are too
// many devices. Of the user who is being heard, who is the last, the latest device
// stays. It needs the lock.
func (s *deviceShard) shrink(heard *userDevices) {
	for s.devices > s.capacity {
		_, oldest, _ := s.users.GetOldest()
		if oldest == heard {
			oldest.dropOldest()
			s.devices--
			s.evicted++
			continue
		}
		s.users.RemoveOldest()
		s.devices -= len(oldest.devices)
		s.evicted += uint64(len(oldest.devices))
	}
}

func (u *userDevices) dropOldest() {
	oldest := 0
	for i, dev := range u.devices {
		// One that was just made has not asked yet.
		if dev.asked != 0 && (u.devices[oldest].asked == 0 || dev.asked < u.devices[oldest].asked) {
			oldest = i
		}
	}
	u.devices = slices.Delete(u.devices, oldest, oldest+1)
}

// Len returns how many devices are kept.
func (d *Devices) Len() (devices int) {
	for i := range d.shards {
		d.shards[i].mu.Lock()
		devices += d.shards[i].devices
		d.shards[i].mu.Unlock()
	}
	return devices
}

// Evicted returns how many devices were dropped because there were too many.
func (d *Devices) Evicted() (devices uint64) {
	for i := range d.shards {
		d.shards[i].mu.Lock()
		devices += d.shards[i].evicted
		d.shards[i].mu.Unlock()
	}
	return devices
}
