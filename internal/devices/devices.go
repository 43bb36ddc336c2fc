package devices

import (
	"hash/maphash"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
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
// An unknown device goes as it asks, and costs no budget: it may be
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

// Clear forgets all devices: nobody knows what the homeserver has been told of them meanwhile.
func (d *Devices) Clear() {
	for i := range d.shards {
		shard := &d.shards[i]
		shard.mu.Lock()
		shard.users.Purge()
		shard.devices = 0
		shard.mu.Unlock()
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
