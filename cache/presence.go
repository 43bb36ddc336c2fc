package cache

import (
	"hash/maphash"
	"math"
	"math/bits"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// Rules say for how long what is remembered may be used. They are not part of the
// tables, so that a reload may change them and keep the tables.
type Rules struct {
	// TTL is how long a state, and the permission to see it, is fresh.
	TTL time.Duration

	// ForbiddenTTL is how long a denial is fresh. With 0 none is kept.
	ForbiddenTTL time.Duration

	// StaleIfError is up to which age a state that is no longer fresh may be
	// served when the homeserver can't be reached. With 0 none is.
	StaleIfError time.Duration

	// Older is up to which age a state that is no longer fresh may be served to a viewer whose
	// permission is, because the homeserver is to be spared. With 0 none is.
	Older time.Duration

	// LiveTTL is how long a state, a permission or a denial is fresh while a feed tells
	// of its end. It has no effect if it is shorter than TTL, or ForbiddenTTL.
	LiveTTL time.Duration

	// PerViewer keeps a state of its own for each viewer of a target.
	PerViewer bool

	// Rooms permits a viewer to see who is joined to a room with them, as a list of its members
	// has told. Where states are kept for each viewer it must not be set.
	Rooms bool
}

// Presence is the table of states and that of permissions. It is safe for use by
// several goroutines.
type Presence struct {
	epoch  time.Time
	seed   maphash.Seed
	fields fieldTable
	roots  atomic.Uint64 // the last root that was given out
	live   atomic.Int64  // since when a feed is whole, on the table's clock

	states   []stateShard // a power of two of them, by target
	kept     atomic.Int64 // states in all shards
	evicted  atomic.Uint64
	capacity atomic.Int64

	permissions *permissions
	memberships *memberships // by which permissions end
	rooms       *rooms       // by which they are given
}

type stateShard struct {
	mu     sync.Mutex // guards all below
	fences [fencesPerShard]fence
	// waiting are the targets of writes that wait.
	waiting map[string]bool
	// awaited says by when a feed has to tell of a target.
	awaited map[string]int64
	states  *simplelru.LRU[stateKey, *state]
}

// stateKey has an empty viewer for a target's only state and, under
// Rules.PerViewer, for the root of all its states.
type stateKey struct{ target, viewer string }

// state is immutable.
type state struct {
	// answer is nil in a root that holds none, and in a mark that the answer
	// was none that can be kept.
	answer   *Answer
	departed int64 // on the table's clock
	arrived  int64 // likewise
	uncached bool  // the mark

	// root names a target's root. A viewer's own state holds the number of
	// the target's and is void under another, so a write, which drops the root,
	// drops the states of all viewers at once.
	root uint64
}

// newState returns a state of a copy of an answer with other fields. Both are one object, since
// the garbage collector looks at each of the many that there are.
func newState(answer *Answer, fields []Field, departed, arrived int64) *state {
	var kept struct {
		state
		copied Answer
	}
	kept.copied = *answer
	kept.copied.Fields = fields
	kept.state = state{answer: &kept.copied, departed: departed, arrived: arrived}
	return &kept.state
}

const (
	maxShards       = 64
	entriesPerShard = 64 // below that, fewer shards: small tables keep an exact order
)

// NewPresence returns empty tables for so many states and permissions. Of now
// only differences matter.
func NewPresence(states, permissions int, now time.Time) *Presence {
	p := &Presence{
		epoch:       now,
		seed:        maphash.MakeSeed(),
		states:      make([]stateShard, shardsFor(states)),
		permissions: newPermissions(permissions),
		memberships: newMemberships(),
		rooms:       newRooms(),
	}
	p.capacity.Store(int64(max(1, states)))
	p.NotLive()
	for i := range p.states {
		// The bound is one for all shards, see put. NewLRU fails on sizes below 1 only.
		p.states[i].states, _ = simplelru.NewLRU[stateKey, *state](math.MaxInt, nil)
	}
	return p
}

// Resize changes how many states and permissions are kept. Of a smaller table
// the least recently used states go, and the older permissions. Of permissions
// each shard keeps one at least.
func (p *Presence) Resize(states, permissions int) {
	p.capacity.Store(int64(max(1, states)))
	for over := true; over; {
		over = false
		for i := range p.states {
			shard := &p.states[i]
			shard.mu.Lock()
			if p.kept.Load() > p.capacity.Load() && p.evict(shard) {
				over = true
			}
			shard.mu.Unlock()
		}
	}
	p.permissions.resize(permissions)
}

// put stores a state. If there are too many, the shard's least recently used one
// goes, so that a shard with more than its share takes from itself, but the
// table as a whole is full before anything goes. It needs the shard's lock.
func (p *Presence) put(shard *stateShard, key stateKey, st *state) {
	if !shard.states.Contains(key) && p.kept.Add(1) > p.capacity.Load() {
		p.evict(shard)
	}
	shard.states.Add(key, st)
}

// evict drops a shard's least recently used state, if it has any. It needs the
// shard's lock.
func (p *Presence) evict(shard *stateShard) (evicted bool) {
	if _, _, evicted = shard.states.RemoveOldest(); evicted {
		p.kept.Add(-1)
		p.evicted.Add(1)
	}
	return evicted
}

// drop removes a state, if there is one. It needs the shard's lock.
func (p *Presence) drop(shard *stateShard, key stateKey) {
	if shard.states.Remove(key) {
		p.kept.Add(-1)
	}
}

// shardsFor returns the power of two of shards that suits a table's size.
func shardsFor(entries int) int {
	return min(maxShards, 1<<(bits.Len(uint(max(1, entries/entriesPerShard)))-1))
}

// share is a shard's part of a table's size.
func share(entries, shards int) int { return max(1, entries/shards) }

// clock returns now as nanoseconds of the table's own clock.
func (p *Presence) clock(now time.Time) int64 { return int64(now.Sub(p.epoch)) }

func (p *Presence) shardOf(target string) (*stateShard, *fence) {
	hash := maphash.String(p.seed, target)
	shard := &p.states[hash%uint64(len(p.states))]
	return shard, &shard.fences[hash/maxShards%fencesPerShard]
}

// Allow remembers that viewer may see the target of ticket, and what the
// homeserver answered, which came by now. It reports whether the answer was stored, and
// not only the permission.
func (p *Presence) Allow(viewer string, ticket Ticket, answer *Answer, rules *Rules, now time.Time) (stored bool) {
	// The permission comes last: whoever finds it finds the state too, and has no
	// reason to ask for that.
	defer p.permit(viewer, ticket, rules)
	if !Fits(answer.Body, answer.Fields) || answer.truthful() == 0 {
		p.MarkUncached(ticket)
		return false
	}
	var observed observedState
	if !ticket.settled {
		if !p.provable(ticket) {
			return false
		}
		observed = p.observedStateOf(ticket.target, answer, now)
	}
	kept := newState(answer, p.fields.intern(answer.Fields), ticket.departed, p.clock(now))
	return p.store(viewer, ticket, kept, rules.PerViewer, observed)
}

// permit remembers that viewer may see the target of ticket.
func (p *Presence) permit(viewer string, ticket Ticket, rules *Rules) {
	p.permissions.allow(viewer, ticket)
	if rules.Rooms {
		p.rooms.shown(viewer, ticket.target, ticket.departed, p.listedSince(viewer, ticket.target, ticket.departed, rules))
	}
}

// MarkUncached remembers that the target's presence is none that can be kept.
// The mark goes as a state does, by time or by a write.
func (p *Presence) MarkUncached(ticket Ticket) {
	if ticket.settled {
		p.store("", ticket, &state{departed: ticket.departed, uncached: true}, false, observedState{})
	}
}

// provable tells whether there is a proof that the answer to a request with this ticket
// may give.
func (p *Presence) provable(ticket Ticket) bool {
	shard, f := p.shardOf(ticket.target)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	return f.generation == ticket.generation && f.proof.digest != 0
}

// store stores st unless a write or a later departure has overtaken it, or it departed
// before all had settled and doesn't give the proof that the last write was applied.
func (p *Presence) store(viewer string, ticket Ticket, st *state, perViewer bool, observed observedState) bool {
	shard, f := p.shardOf(ticket.target)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if f.generation != ticket.generation {
		return false
	}
	// There is a proof from the end of a write until another begins, and it departed since.
	if !ticket.settled && !f.proof.matches(observed) {
		return false
	}
	key := stateKey{target: strings.Clone(ticket.target)}
	root, rooted := shard.states.Get(key)
	if !perViewer {
		if rooted && root.departed > st.departed {
			return false
		}
		if before := p.shownBy(key.target, root); before != 0 && st.answer != nil && before != p.digestOf(key.target, st.answer.Body) {
			shard.await(key.target, st.arrived+int64(rowGrace))
		}
		st.root = p.roots.Add(1)
		p.put(shard, key, st)
		return true
	}

	// The root departed with the latest of its states, so that an older mark
	// doesn't take its place. An answer in it, from before a reload that turned
	// PerViewer on, is dropped: it didn't depart then.
	renewed := &state{departed: st.departed}
	switch {
	case rooted && root.uncached && root.departed > st.departed:
		return false
	case rooted && !root.uncached:
		renewed.root = root.root
		renewed.departed = max(root.departed, st.departed)
	default:
		renewed.root = p.roots.Add(1)
	}
	own := stateKey{target: key.target, viewer: strings.Clone(viewer)}
	if known, ok := shard.states.Get(own); ok && known.root == renewed.root && known.departed > st.departed {
		return false
	}
	st.root = renewed.root
	p.put(shard, own, st)
	p.put(shard, key, renewed)
	return true
}

// Deny remembers that viewer may not see the target of ticket. It reports whether
// the denial was stored; if not, it still ends what the viewer was allowed before.
func (p *Presence) Deny(viewer string, ticket Ticket, denial *Denial, rules *Rules) (stored bool) {
	if rules.ForbiddenTTL <= 0 || denial.UntilWrite && !ticket.settled || !Fits(denial.Body, denial.Fields) {
		p.permissions.deny(viewer, ticket, nil)
		return false
	}
	kept := *denial
	kept.Fields = p.fields.intern(denial.Fields)
	return p.permissions.deny(viewer, ticket, &kept)
}

// DeniedSince reports whether an answer to a request that departed after the given
// time refused the viewer, and none since has allowed them again. What another
// request brings that departed before is not for this viewer any more.
func (p *Presence) DeniedSince(viewer, target string, departed time.Time) bool {
	_, denied := p.permissions.lookup(viewer, target)
	return denied != nil && denied.departed > p.clock(departed)
}

// Evicted returns how many states, permissions and denials were dropped because
// there were too many.
func (p *Presence) Evicted() (states, allowed, denied uint64) {
	allowed, denied = p.permissions.evicted()
	return p.evicted.Load(), allowed, denied
}

// Len returns how many states, permissions and denials are kept, fresh or not.
func (p *Presence) Len() (states, allowed, denied int) {
	allowed, denied = p.permissions.len()
	return int(p.kept.Load()), allowed, denied
}
