package identity

import (
	"crypto/rand"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/sampled"
)

// Table remembers whose token is whose, as the homeserver's
// /account/whoami told it. It is safe for use by several goroutines.
//
// Only hashes of tokens are kept, keyed with a secret, so neither a memory dump nor a
// timing tells a token. The secret is made anew in each process, or kept for a snapshot.
//
// An appservice's token acts for many users, chosen by a query parameter, so
// an identity belongs to a token and the parameters with it. Homeservers ignore
// these parameters on ordinary tokens; once an answer has shown that for a
// token, all its spellings share one entry, and a client that invents a
// million parameters gains nothing.
//
// Revocations of users are numbered. An entry carries the number that was current
// before the homeserver was asked:
//
//	1 lookup: takes number 7, asks whoami
//	2 logout/all of the same user succeeds, as number 8
//	1 lookup: whoami, answered before the logout, arrives and is stored as of 7
//	3 next request: 7 is older than the user's last revocation, 8: not used
//
// A revocation of a token ends what is remembered of it, and is noted with the
// lookups of that token that are under way, see [Table.Begin]. A token that is
// neither remembered nor being looked up leaves no trace: tokens that somebody makes
// up change nothing.
type Table struct {
	secret atomic.Pointer[[32]byte]
	epoch  time.Time
	shards [shardCount]tableShard
	bases  atomic.Uint32 // the last base that was named

	// revocations is the number of the last revocation of a user.
	revocations atomic.Uint64
	// tokenRevocations is the number of the last revocation of a token that was
	// being looked up.
	tokenRevocations atomic.Uint64

	refusals *refusals
	settling settling

	// endings are noted while a snapshot is being read, else nil. onEnding is told of them.
	endings  atomic.Pointer[endings]
	onEnding atomic.Pointer[onEnding]

	mu      sync.Mutex // guards revoked, and orders revocations
	revoked *simplelru.LRU[string, uint64]
	// floor is the number of the last revocation that had to make room: entries
	// as of an earlier one are void. Guarded by mu, too.
	floor uint64

	muIssued sync.Mutex // guards all below
	// succeeds tells which access token ends when a refresh token is used.
	succeeds *simplelru.LRU[tokenKey, tokenKey]
	// issuedTo tells to whom an access token was given out, or whose one was that is in doubt.
	issuedTo *simplelru.LRU[tokenKey, issued]
	// evictedIssued is how many of these made room for others.
	evictedIssued uint64
}

const shardCount = 16

type tableShard struct {
	mu         sync.Mutex // guards all below
	identities *sampled.Map[tokenKey, entry]
	// unknown has a bound of its own, so that random tokens never push out
	// an identity.
	unknown     *simplelru.LRU[tokenKey, unknownEntry]
	lastUnknown *UnknownToken
	// inquiries are the tokens that somebody looks up, as many as that are.
	inquiries map[tokenKey]*inquiries
	// evictedUnknown is how many made room for others.
	evictedUnknown uint64
}

// entry is what is known of a token (its base entry), or of a token with
// parameters. Base and parameters are in shards of their own, so that an
// appservice's many users are spread over all of them.
type entry struct {
	userID string // empty in a base entry if only masquerades were looked up
	asked  int64  // when the homeserver was, in nanoseconds since the table's epoch
	asOf   uint64 // number of the last revocation by then

	// base names a base entry. An entry with parameters holds the name of its
	// base and is void without it, so dropping the base drops them all.
	base uint32

	ignoresUserID   bool // the token is an ordinary one: user_id has no effect
	ignoresDeviceID bool
}

// Lifetimes says for how long the homeserver's answers are good, from when it was asked. They
// are not kept with the answers: those of who looks one up apply, so that another
// configuration takes effect at once.
type Lifetimes struct{ Identity, UnknownToken time.Duration }

// WhoAmI is the homeserver's answer to a token that it knows.
type WhoAmI struct {
	UserID   string
	DeviceID string // may be empty
}

// NewTable returns a table of at most tokens tokens. Rejected tokens, users with
// a revocation, and tokens that were given out have an eighth as many places. All are rounded up to
// one place in each shard. Of now only differences matter.
func NewTable(tokens int, now time.Time) *Table {
	t := &Table{epoch: now, refusals: newRefusals()}
	t.settling.all.Store(ever)
	var secret [32]byte
	rand.Read(secret[:]) // never fails, see crypto/rand
	t.secret.Store(&secret)
	for i := range t.shards {
		t.shards[i].identities = sampled.New[tokenKey](tokens/shardCount, func(a, b entry) bool { return a.asked < b.asked })
		t.shards[i].unknown = newLRU[tokenKey, unknownEntry](tokens/shardCount/8, nil)
		t.shards[i].inquiries = make(map[tokenKey]*inquiries)
	}
	t.succeeds = newLRU[tokenKey, tokenKey](tokens/8, nil)
	t.issuedTo = newLRU[tokenKey, issued](tokens/8, nil)
	// A revocation that has to make room turns into one that concerns
	// everybody: too much is looked up again, never too little. It takes as many
	// users whose sessions really ended.
	t.revoked = newLRU(tokens/8, func(_ string, number uint64) {
		t.floor = max(t.floor, number)
	})
	return t
}

func newLRU[K comparable, V any](size int, onEvict simplelru.EvictCallback[K, V]) *simplelru.LRU[K, V] {
	lru, _ := simplelru.NewLRU(max(1, size), onEvict) // fails on sizes below 1 only
	return lru
}

// Resize changes how many tokens are kept. Of a smaller table those go first that
// were asked about first.
func (t *Table) Resize(tokens int) {
	for i := range t.shards {
		shard := &t.shards[i]
		shard.mu.Lock()
		shard.identities.Resize(tokens / shardCount)
		//nolint:gosec // G115: a number of entries that were removed, never below 0
		shard.evictedUnknown += uint64(shard.unknown.Resize(max(1, tokens/shardCount/8)))
		shard.mu.Unlock()
	}
	t.mu.Lock()
	t.revoked.Resize(max(1, tokens/8))
	t.mu.Unlock()
	t.muIssued.Lock()
	t.succeeds.Resize(max(1, tokens/8))
	t.evictedIssued += uint64(t.issuedTo.Resize(max(1, tokens/8))) //nolint:gosec // G115: as above
	t.muIssued.Unlock()
}

// Lookup returns the user on whose behalf c acts, or the homeserver's answer that it
// doesn't know c. Neither means that the homeserver has to be asked.
func (t *Table) Lookup(c matrix.Credential, now time.Time, good Lifetimes) (userID string, unknown *UnknownToken) {
	return t.lookup(c, t.before(now, good.Identity), t.before(now, good.UnknownToken))
}

// LookupStale is Lookup of what has expired too, but no longer than stale ago.
func (t *Table) LookupStale(c matrix.Credential, now time.Time, good Lifetimes, stale time.Duration) (userID string, unknown *UnknownToken) {
	return t.Lookup(c, now.Add(-stale), good)
}

// before returns a moment so long before now, in nanoseconds since the table's epoch.
func (t *Table) before(now time.Time, age time.Duration) int64 {
	at := int64(now.Sub(t.epoch))
	if at < math.MinInt64+int64(age) {
		return math.MinInt64
	}
	return at - int64(age)
}

// ever is before everything that was asked.
const ever = math.MinInt64

// lookup is Lookup of what was asked after a moment.
func (t *Table) lookup(c matrix.Credential, since, rejectedSince int64) (userID string, unknown *UnknownToken) {
	key := t.key(c.Token)
	shard := t.shard(key)
	shard.mu.Lock()
	base, ok := shard.identities.Get(key)
	if !ok {
		known, ok := shard.unknown.Get(key)
		shard.mu.Unlock()
		if ok && known.asked > rejectedSince {
			return "", known.answer
		}
		if c.UserID == "" && c.DeviceID == "" {
			return t.issuedSince(key, since), nil
		}
		return "", nil
	}
	if c = base.effective(c); c.UserID == "" && c.DeviceID == "" {
		defer shard.mu.Unlock()
		return t.valid(shard, key, base, since), nil
	}
	shard.mu.Unlock()
	return t.lookupMasquerade(key, base.base, c, since), nil
}

// lookupMasquerade is lookup of who a token acts as by its parameters, if that is still the token's own.
func (t *Table) lookupMasquerade(token tokenKey, base uint32, c matrix.Credential, since int64) (userID string) {
	key := t.masqueradeKey(token, c)
	shard := t.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if found, ok := shard.identities.Get(key); ok && found.base == base {
		return t.valid(shard, key, found, since)
	}
	return ""
}

// LastKnown is Lookup of what has expired too, as long as there is room for it: whose a
// token that nobody has revoked is doesn't change. It is for what authorises nothing.
func (t *Table) LastKnown(c matrix.Credential) (userID string) {
	userID, _ = t.lookup(c, ever, ever)
	return userID
}

// WasKnown reports whether the homeserver has ever known c's token, as long as there is
// room for it, and hasn't said since that it no longer does. It may not be known on whose
// behalf c acts.
func (t *Table) WasKnown(c matrix.Credential) bool {
	key := t.key(c.Token)
	shard := t.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	_, ok := shard.identities.Get(key)
	return ok
}

// WasRejected reports whether Lookup returns that c is unknown, or did before that expired, as
// long as there is room for it.
func (t *Table) WasRejected(c matrix.Credential) bool {
	_, unknown := t.lookup(c, ever, ever)
	return unknown != nil
}

// valid returns the user of an entry that was asked for after a moment and that no
// revocation has touched, or "". It needs the shard's lock.
func (t *Table) valid(shard *tableShard, key tokenKey, e entry, since int64) string {
	if e.asked <= since || !t.current(shard, key, e) {
		return ""
	}
	return e.userID
}

// effective returns c without the parameters that have no effect.
func (e entry) effective(c matrix.Credential) matrix.Credential {
	if e.ignoresUserID {
		c.UserID = ""
	}
	if e.ignoresDeviceID {
		c.DeviceID = ""
	}
	return c
}

// Effective returns c without the parameters that, as the homeserver has shown, have no effect
// on its token, as long as there is room for that.
func (t *Table) Effective(c matrix.Credential) matrix.Credential {
	if c.UserID == "" && c.DeviceID == "" {
		return c
	}
	key := t.key(c.Token)
	shard := t.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	base, _ := shard.identities.Get(key)
	return base.effective(c)
}

// Len returns how many identities and unknown tokens are kept.
func (t *Table) Len() (identities, unknown int) {
	for i := range t.shards {
		shard := &t.shards[i]
		shard.mu.Lock()
		identities += shard.identities.Len()
		unknown += shard.unknown.Len()
		shard.mu.Unlock()
	}
	return identities, unknown
}

// Evicted returns how many identities and unknown tokens were dropped because there
// were too many.
func (t *Table) Evicted() (identities, unknown uint64) {
	for i := range t.shards {
		shard := &t.shards[i]
		shard.mu.Lock()
		identities += shard.identities.Evicted()
		unknown += shard.evictedUnknown
		shard.mu.Unlock()
	}
	return identities, unknown
}

func (t *Table) shard(key tokenKey) *tableShard {
	return &t.shards[key[0]%shardCount]
}
