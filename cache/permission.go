package cache

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/sampled"
)

// Denial is a homeserver's refusal of a read, with status 403 or 404. It is
// immutable.
type Denial struct {
	Status int
	Body   string
	Fields []Field

	// UntilWrite tells that a write of the target's may end it: "no presence
	// yet", other than "you may not".
	UntilWrite bool
}

// permissions remembers who may see whom. What is kept says when it was given, not
// when it ends: that is for the rules.
//
// Pairs are kept by a keyed hash of 128 bits, and those that are allowed with
// nothing but a time, so a million of them cost the garbage collector
// nothing. Nobody can make two pairs with the same hash: the key is a secret of
// the process.
type permissions struct {
	secret [16]byte
	shards []permissionShard // a power of two of them
}

type pairKey [16]byte

type permissionShard struct {
	mu      sync.Mutex                   // guards all below
	allowed *sampled.Map[pairKey, int64] // when the answer departed
	// denials have a bound of their own, so that somebody who asks for a million
	// users whom they may not see pushes out nobody's permission. A pair is in
	// one of the two at most.
	denials *simplelru.LRU[pairKey, *datedDenial]
	// evictedDenials is how many made room for others.
	evictedDenials uint64
}

// datedDenial is immutable.
type datedDenial struct {
	// denial is nil if it could not be kept. Then there is only its time, so
	// that an older answer doesn't allow what has been denied since.
	denial     *Denial
	departed   int64
	generation uint64 // that of a denial that lasts until a write
}

// overtaken tells that a write may have ended the denial.
func (r *datedDenial) overtaken(generation uint64) bool {
	return r.denial.UntilWrite && r.generation != generation
}

// never is the time of a permission that was not given.
const never = math.MinInt64

// The denial table holds up to 1/denialShare as many entries as the permission table.
const denialShare = 8

func newPermissions(size int) *permissions {
	p := &permissions{shards: make([]permissionShard, shardsFor(size))}
	rand.Read(p.secret[:]) // never fails, see crypto/rand
	older := func(a, b int64) bool { return a < b }
	for i := range p.shards {
		capacity := share(size, len(p.shards))
		p.shards[i].allowed = sampled.New[pairKey](capacity, older)
		p.shards[i].denials, _ = simplelru.NewLRU[pairKey, *datedDenial](share(capacity, denialShare), nil) // fails below 1 only
	}
	return p
}

func (p *permissions) resize(size int) {
	for i := range p.shards {
		shard := &p.shards[i]
		capacity := share(size, len(p.shards))
		shard.mu.Lock()
		shard.allowed.Resize(capacity)
		//nolint:gosec // G115: a number of entries that were removed, never below 0
		shard.evictedDenials += uint64(shard.denials.Resize(share(capacity, denialShare)))
		shard.mu.Unlock()
	}
}

// shard returns the key of a pair and where it is kept.
func (p *permissions) shard(viewer, target string) (pairKey, *permissionShard) {
	var buffer [16 + 2*maxInline]byte
	b := append(buffer[:0], p.secret[:]...)
	b = binary.AppendUvarint(b, uint64(len(viewer)))
	sum := sha256.Sum256(append(append(b, viewer...), target...))
	key := pairKey(sum[:])
	return key, &p.shards[int(key[0])%len(p.shards)]
}

// maxInline is up to which length of user IDs a key is made without an allocation.
const maxInline = 64

// lookup returns when the viewer was allowed to see the target, or never, and what
// is known of a denial that came later.
func (p *permissions) lookup(viewer, target string) (allowed int64, denied *datedDenial) {
	key, shard := p.shard(viewer, target)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if departed, ok := shard.allowed.Get(key); ok {
		return departed, nil
	}
	denied, _ = shard.denials.Get(key)
	return never, denied
}

// allow notes that the viewer may see the target, unless a later answer says no.
func (p *permissions) allow(viewer string, ticket Ticket) {
	key, shard := p.shard(viewer, ticket.target)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if known, ok := shard.denials.Peek(key); ok && known.departed > ticket.departed {
		return
	}
	shard.denials.Remove(key)
	if departed, ok := shard.allowed.Get(key); !ok || departed < ticket.departed {
		shard.allowed.Put(key, ticket.departed)
	}
}

// deny notes that the viewer may not see the target, unless a later answer says
// that they may. It reports whether a denial was kept.
func (p *permissions) deny(viewer string, ticket Ticket, denial *Denial) bool {
	key, shard := p.shard(viewer, ticket.target)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if departed, ok := shard.allowed.Get(key); ok && departed > ticket.departed {
		return false
	}
	if known, ok := shard.denials.Peek(key); ok && known.departed > ticket.departed {
		return false
	}
	shard.allowed.Delete(key)
	if shard.denials.Add(key, &datedDenial{denial: denial, departed: ticket.departed, generation: ticket.generation}) {
		shard.evictedDenials++
	}
	return denial != nil
}

func (p *permissions) evicted() (allowed, denied uint64) {
	for i := range p.shards {
		shard := &p.shards[i]
		shard.mu.Lock()
		allowed += shard.allowed.Evicted()
		denied += shard.evictedDenials
		shard.mu.Unlock()
	}
	return allowed, denied
}

func (p *permissions) len() (allowed, denied int) {
	for i := range p.shards {
		shard := &p.shards[i]
		shard.mu.Lock()
		allowed += shard.allowed.Len()
		denied += shard.denials.Len()
		shard.mu.Unlock()
	}
	return allowed, denied
}
