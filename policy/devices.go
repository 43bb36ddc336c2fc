package policy

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

	// spareMargin is how long before a state ends a repeat goes to the homeserver all
	// the same, and from when on it may have ended: timers and networks are never exact.
	spareMargin = 5 * time.Second
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
	shared  spoken         // where the homeserver doesn't tell devices apart
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
	spoken      spoken
}

// spoken is what the homeserver was last told of a device, or of a user.
type spoken struct {
	state matrix.Presence
	// by is the device that has said so by a sync, nil for a write.
	by *device
	// written tells of a write since. It feeds no timer of syncs, or no more than some
	// (Synapse), so that the next sync is told.
	written bool
	// bumped tells that the homeserver may have made the user online since, doubted that
	// it may have been told anything.
	bumped, doubted bool

	changed int64 // since when it is this
	fed     int64 // when it was last told by a sync
	alive   int64 // when the homeserver last heard anything that keeps the state in place
	heard   int64 // the same as fed, or the end of that sync
	open    int   // syncs under way by which it was told

	// version counts what it was told. What has a lower one than unsure was told while a
	// sync was under way that the homeserver then refused.
	version, unsure uint64
}

// tell notes that the homeserver is told what it holds.
func (s *spoken) tell(at int64) {
	s.fed, s.heard, s.alive = at, at, at
	s.written, s.bumped, s.doubted = false, false, false
	s.version++
}

// doubt notes that the homeserver may have been told anything. What lingers lingers from then on.
func (s *spoken) doubt(at int64) {
	s.doubted, s.changed = true, max(s.changed, at)
}

// void notes that it isn't known what the homeserver holds.
func (s *spoken) void() {
	s.state, s.by = matrix.NoPresence, nil
	s.version++ // so that no sync that is refused brings it back
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
func (s *spoken) mayBeGone(dialect matrix.Dialect, at int64) bool {
	lasts := dialect.Lasts()
	if s.open > 0 {
		lasts = matrix.IdleTimer
	}
	return at >= s.alive+int64(lasts-spareMargin)
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

	// Watch lets all go through as they are.
	Watch bool

	// Refresh is for how long a repeat may be taken out, and a lower state be held
	// down by another device.
	Refresh time.Duration

	// Allow takes a change from the user's budget and reports whether there was one
	// left. It is asked only about what ends another state that a sync has set.
	Allow func() bool
}

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

	// Told tells that the homeserver hears a state, so that it matters whether it
	// takes the sync.
	Told bool

	devices *Devices
	shard   *deviceShard
	device  *device
	spoken  *spoken
	at      int64   // when it asked
	version uint64  // of what it was told
	before  earlier // for a sync that is refused
}

// earlier is what there was before a sync.
type earlier struct {
	wants         matrix.Presence
	asked, synced int64
	spoken        spoken
}

// Sync decides about a sync that is about to be sent.
func (d *Devices) Sync(ask SyncAsk, rules SyncRules, now time.Time) SyncDecision {
	at := int64(now.Sub(d.epoch))
	shard, hash := d.shardOf(ask.UserID)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	user, dev := shard.device(hash, ask.Device)

	told := user.told(dev, rules.Dialect)
	before := earlier{dev.wants, dev.asked, dev.synced, *told}
	gap := matrix.Unbounded
	if dev.synced != 0 {
		gap = time.Duration(at - dev.synced)
	}
	dev.asked, dev.synced, dev.wants = at, at, ask.Presence
	dev.syncs++

	var decision SyncDecision
	if !rules.Watch && !rules.Dialect.Merges() && user.holdsDown(dev, at-int64(rules.Refresh)) {
		decision = SyncDecision{Verdict: SyncOutranked, Value: rules.Dialect.Keep()}
	} else {
		decision = told.judge(dev, ask, rules, at, gap)
	}
	if decision.Told {
		told.open++
	}
	decision.devices, decision.shard, decision.device, decision.spoken = d, shard, dev, told
	decision.at, decision.version, decision.before = at, told.version, before
	return decision
}

// told returns what the homeserver was told of a device, as far as it tells devices apart.
// What another kind of homeserver was told, or one of an unknown kind, says nothing of it.
func (u *userDevices) told(dev *device, dialect matrix.Dialect) *spoken {
	if u.dialect != dialect {
		u.dialect = dialect
		u.shared.void()
		for _, other := range u.devices {
			other.spoken.void()
		}
	}
	if dialect.Merges() {
		return &dev.spoken
	}
	return &u.shared
}

// holdsDown tells that another device wants a higher state, and has said so since.
func (u *userDevices) holdsDown(dev *device, since int64) bool {
	return slices.ContainsFunc(u.devices, func(other *device) bool {
		return other != dev && other.wants > dev.wants && (other.syncs > 0 || other.asked > since)
	})
}

// judge decides by what the homeserver was told before.
func (s *spoken) judge(dev *device, ask SyncAsk, rules SyncRules, at int64, gap time.Duration) SyncDecision {
	keep, lasts := rules.Dialect.Keep(), int64(rules.Dialect.Lasts())
	holds := s.state != matrix.NoPresence && (s.open > 0 || at < s.heard+lasts)
	gone := s.mayBeGone(rules.Dialect, at)
	unsure := s.bumped || s.doubted || dev.writes > 0 && rules.Dialect != matrix.Dendrite || rules.Dialect == matrix.UnknownDialect
	// The client comes again after some such time as it took to come now. Until then
	// the homeserver must not miss it: what is taken out is no more than what leaves
	// the state in place all that time.
	quiet := holds && keep != "" && !s.written && !unsure &&
		ask.Timeout+gap < time.Duration(s.fed+lasts-at)-spareMargin

	same := s.state == ask.Presence
	if rules.Dialect == matrix.Synapse && s.state == matrix.Busy {
		same = true // which a sync doesn't end (synapse/handlers/presence.py, set_state)
	}
	if same && holds {
		// A lower state may not have taken effect.
		lingering := ask.Presence < matrix.Online && max(0, time.Duration(s.fed-s.changed)) < rules.Dialect.Lingers()
		if quiet && at < s.fed+int64(rules.Refresh) && !lingering && !rules.Watch {
			return SyncDecision{Verdict: SyncUnchanged, Value: keep}
		}
		changes := lingering || gone || unsure
		s.by = dev
		s.tell(at)
		return SyncDecision{Verdict: SyncRepeated, Changes: changes, Told: true}
	}

	// What ends what a write has set can't be held, and is not charged for: the user's other
	// devices, whose syncs can be, would pay for it.
	free := s.written || s.bumped && ask.Presence == matrix.Online
	if holds && !gone && !free && !rules.Watch && !rules.Allow() {
		switch {
		case quiet:
			return SyncDecision{Verdict: SyncLimited, Value: keep}
		case s.by == dev && s.state < ask.Presence:
			// What holds must not end meanwhile. It is what this client asked for before,
			// and no more than it asks for now.
			s.tell(at)
			return SyncDecision{Verdict: SyncLimited, Value: s.state.String(), Changes: unsure, Told: true}
		}
		// There is nothing that it could say instead. It can't be repeated without end:
		// to go down again it has to go up first.
	}
	s.state, s.by, s.changed = ask.Presence, dev, at
	s.tell(at)
	return SyncDecision{Verdict: SyncChanged, Changes: true, Told: true}
}

// End must be called when the sync is over, and whether the homeserver took it. If it
// may have but nobody knows, it did.
func (s SyncDecision) End(taken bool, now time.Time) {
	s.shard.mu.Lock()
	defer s.shard.mu.Unlock()
	s.device.syncs--
	switch {
	case !s.Told:
		return
	case !taken:
		s.spoken.state = matrix.NoPresence
	default:
		s.spoken.heard = max(s.spoken.heard, int64(now.Sub(s.devices.epoch)))
	}
	s.spoken.open--
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
	if !s.Told {
		return
	}
	now, before := s.spoken, s.before.spoken
	now.open--
	if now.version != s.version {
		now.changed, now.unsure = now.fed, now.version
		return
	}
	before.open, before.unsure = now.open, now.unsure
	before.written, before.bumped, before.doubted = before.written || now.written, before.bumped || now.bumped, before.doubted || now.doubted
	if now.heard > now.fed {
		before.heard = now.heard
	}
	if now.alive > now.fed {
		before.alive = now.alive
	}
	if now.changed > now.fed { // by a doubt
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
	told := w.user.told(w.device, dialect)
	if told.state != state && max(told.fed, told.changed) >= w.began {
		state = matrix.NoPresence
	}
	w.device.asked, w.device.wants = at, state
	told.state, told.by, told.changed = state, nil, at
	// It may have come long before the answer to it.
	told.heard, told.alive = max(told.heard, w.began), max(told.alive, w.began)
	// What made the user online may have come after it, and be no more now.
	told.written, told.bumped, told.doubted = true, false, told.doubted || told.bumped
	told.version++
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
		w.device.spoken.doubt(at)
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
	d.ofKnown(userID, fingerprint, dialect, func(dev *device, told *spoken) {
		changes = told.state < matrix.Online || told.state == matrix.Busy && dialect != matrix.Synapse || told.mayBeGone(dialect, at) ||
			told.doubted || dev.writes > 0 || dialect == matrix.UnknownDialect
		told.bumped = told.bumped || changes
		told.alive = max(told.alive, from)
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
			dev.spoken.doubt(at)
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
	if !ok || !dialect.Merges() || user.dialect != dialect {
		return
	}
	shown, _, isPresence := readShown(answer)
	for _, dev := range user.devices {
		if isPresence && dev.spoken.state > shown {
			dev.spoken.doubt(int64(now.Sub(d.epoch)))
		}
	}
}

// ofKnown calls f with a device and what the homeserver was told of it, if it is known.
func (d *Devices) ofKnown(userID string, fingerprint [16]byte, dialect matrix.Dialect, f func(dev *device, told *spoken)) {
	shard, hash := d.shardOf(userID)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	user, ok := shard.users.Peek(hash)
	if !ok {
		return
	}
	for _, dev := range user.devices {
		if dev.fingerprint == fingerprint {
			f(dev, user.told(dev, dialect))
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
