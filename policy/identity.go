package policy

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/sampled"
)

// Identities remembers whose token is whose, as the homeserver's
// /account/whoami told it. It is safe for use by several goroutines.
//
// Only hashes of tokens are kept, keyed with a secret that is made anew in each
// process, so neither a memory dump nor a timing tells a token.
//
// An appservice's token acts for many users, chosen by a query parameter, so
// an identity belongs to a token and the parameters with it. Homeservers ignore
// these parameters on ordinary tokens; once an answer has shown that for a
// token, all its spellings share one entry, and a client that invents a
// million parameters gains nothing.
//
// Revocations are numbered. An entry carries the number that was current
// before the homeserver was asked:
//
//	1 lookup: takes number 7, asks whoami
//	2 logout/all of the same user succeeds, as number 8
//	1 lookup: whoami, answered before the logout, arrives and is stored as of 7
//	3 next request: 7 is older than the user's last revocation, 8: not used
type Identities struct {
	secret [32]byte
	epoch  time.Time
	shards [identityShards]identityShard
	bases  atomic.Uint32 // the last base that was named

	// revocations is the number of the last revocation.
	revocations atomic.Uint64
	// tokenRevocations counts the calls of RevokeToken, each made under the
	// lock of its token's shard.
	tokenRevocations atomic.Uint64

	mu      sync.Mutex // guards revoked, and orders revocations
	revoked *simplelru.LRU[string, uint64]
	// floor is the number of the last revocation that concerns everybody:
	// entries as of an earlier one are void. Guarded by mu, too.
	floor uint64
}

const identityShards = 16

type tokenKey [16]byte

type identityShard struct {
	mu         sync.Mutex // guards all below
	identities *sampled.Map[tokenKey, identity]
	// rejections has a bound of its own, so that random tokens never push out
	// an identity.
	rejections    *simplelru.LRU[tokenKey, rejected]
	lastRejection *Rejection
	// evictedRejections is how many made room for others.
	evictedRejections uint64
}

// identity is what is known of a token (its base entry), or of a token with
// parameters. Base and parameters are in shards of their own, so that an
// appservice's many users are spread over all of them.
type identity struct {
	userID  string // empty in a base entry if only masquerades were looked up
	expires int64  // nanoseconds since the table's epoch
	asOf    uint64 // number of the last revocation when the homeserver was asked

	// base names a base entry. An entry with parameters holds the name of its
	// base and is void without it, so dropping the base drops them all.
	base uint32

	ignoresUserID   bool // the token is an ordinary one: user_id has no effect
	ignoresDeviceID bool
}

type rejected struct {
	rejection *Rejection
	expires   int64
}

// Rejection is the homeserver's answer, with status 401, to a token that it does
// not know. It is immutable.
type Rejection struct {
	Body   string
	Header map[string][]string // canonical names
}

func (r *Rejection) equal(other *Rejection) bool {
	return r.Body == other.Body && maps.EqualFunc(r.Header, other.Header, slices.Equal)
}

// WhoAmI is the homeserver's answer to a token that it knows.
type WhoAmI struct {
	UserID   string
	DeviceID string // may be empty
}

// NewIdentities returns a table of at most tokens tokens. Rejected tokens, and
// users with a revocation, have an eighth as many places. All are rounded up to
// one place in each shard. Of now only differences matter.
func NewIdentities(tokens int, now time.Time) *Identities {
	t := &Identities{epoch: now}
	rand.Read(t.secret[:]) // never fails, see crypto/rand
	for i := range t.shards {
		t.shards[i].identities = sampled.New[tokenKey](tokens/identityShards, func(a, b identity) bool { return a.expires < b.expires })
		t.shards[i].rejections = newLRU[tokenKey, rejected](tokens/identityShards/8, nil)
	}
	// A revocation that has to make room turns into one that concerns
	// everybody: too much is looked up again, never too little.
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
// end first.
func (t *Identities) Resize(tokens int) {
	for i := range t.shards {
		shard := &t.shards[i]
		shard.mu.Lock()
		shard.identities.Resize(tokens / identityShards)
		// #nosec G115 -- a number of entries that were removed, never below 0
		shard.evictedRejections += uint64(shard.rejections.Resize(max(1, tokens/identityShards/8)))
		shard.mu.Unlock()
	}
	t.mu.Lock()
	t.revoked.Resize(max(1, tokens/8))
	t.mu.Unlock()
}

// Lookup returns the user on whose behalf c acts, or the homeserver's rejection
// of c. Neither means that the homeserver has to be asked.
func (t *Identities) Lookup(c Credential, now time.Time) (userID string, rejection *Rejection) {
	key := t.key(c.Token)
	at := int64(now.Sub(t.epoch))
	shard := t.shard(key)
	shard.mu.Lock()
	base, ok := shard.identities.Get(key)
	if !ok {
		known, ok := shard.rejections.Get(key)
		shard.mu.Unlock()
		if ok && at < known.expires {
			return "", known.rejection
		}
		return "", nil
	}
	if c = base.effective(c); c.UserID == "" && c.DeviceID == "" {
		defer shard.mu.Unlock()
		return t.valid(shard, key, base, at), nil
	}
	shard.mu.Unlock()

	key = t.masqueradeKey(key, c)
	shard = t.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if found, ok := shard.identities.Get(key); ok && found.base == base.base {
		return t.valid(shard, key, found, at), nil
	}
	return "", nil
}

// LastKnown is Lookup of what has expired too, as long as there is room for it: whose a
// token that nobody has revoked is doesn't change. It is for what authorises nothing.
func (t *Identities) LastKnown(c Credential) (userID string) {
	userID, _ = t.Lookup(c, t.epoch) // nothing has expired by then
	return userID
}

// WasRejected reports whether Lookup returns a rejection of c, or did before that expired, as
// long as there is room for it.
func (t *Identities) WasRejected(c Credential) bool {
	_, rejection := t.Lookup(c, t.epoch)
	return rejection != nil
}

// valid returns the user of an entry that has not ended and that no revocation has
// touched, or "". It needs the shard's lock.
func (t *Identities) valid(shard *identityShard, key tokenKey, e identity, at int64) string {
	if at >= e.expires || !t.current(shard, key, e) {
		return ""
	}
	return e.userID
}

// effective returns c without the parameters that have no effect.
func (e identity) effective(c Credential) Credential {
	if e.ignoresUserID {
		c.UserID = ""
	}
	if e.ignoresDeviceID {
		c.DeviceID = ""
	}
	return c
}

// current reports whether no revocation has touched e. What it finds out it
// notes in the entry, so that each revocation costs each entry one search.
func (t *Identities) current(shard *identityShard, key tokenKey, e identity) bool {
	now := t.revocations.Load()
	if e.asOf >= now {
		return true
	}
	t.mu.Lock()
	revokedAt, _ := t.revoked.Peek(e.userID)
	revokedAt = max(revokedAt, t.floor)
	t.mu.Unlock()
	if e.asOf < revokedAt {
		return false
	}
	e.asOf = now
	shard.identities.Put(key, e)
	return true
}

// Revision tells which revocations had happened at some moment.
type Revision struct{ all, tokens uint64 }

// Revision must be taken before the homeserver is asked, and handed to
// [Identities.Learn] with the answer.
func (t *Identities) Revision() Revision {
	return Revision{all: t.revocations.Load(), tokens: t.tokenRevocations.Load()}
}

// Learn remembers until expires that c acts on behalf of who.
func (t *Identities) Learn(c Credential, who WhoAmI, revision Revision, expires time.Time) {
	key := t.key(c.Token)
	learned := identity{userID: who.UserID, expires: int64(expires.Sub(t.epoch)), asOf: revision.all}
	shard := t.shard(key)
	shard.mu.Lock()
	if revision.tokens != t.tokenRevocations.Load() {
		shard.mu.Unlock()
		return // it may have been this token: the answer holds for one request
	}
	shard.rejections.Remove(key)

	base, ok := shard.identities.Get(key)
	if !ok {
		base = identity{base: t.bases.Add(1)}
	}
	// An appservice's token with user_id is that user or an error on every
	// homeserver. Somebody else is the owner of an ordinary token.
	if c.UserID != "" && c.UserID != who.UserID {
		base.ignoresUserID, base.ignoresDeviceID = true, true
	}
	if c.DeviceID != "" && c.DeviceID != who.DeviceID {
		base.ignoresDeviceID = true
	}
	c = base.effective(c)
	plain := c.UserID == "" && c.DeviceID == ""
	if plain {
		base.userID, base.asOf = learned.userID, learned.asOf
	}
	if plain || base.userID == "" {
		// A base that is only there for its masquerades lives as long as they.
		base.expires = learned.expires
	}
	shard.identities.Put(key, base)
	shard.mu.Unlock()
	if plain {
		return
	}

	learned.base = base.base
	key = t.masqueradeKey(key, c)
	shard = t.shard(key)
	shard.mu.Lock()
	shard.identities.Put(key, learned)
	shard.mu.Unlock()
}

// Reject remembers until expires that the homeserver does not know c's token.
func (t *Identities) Reject(c Credential, rejection *Rejection, expires time.Time) {
	key := t.key(c.Token)
	shard := t.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	shard.identities.Delete(key)
	// Homeservers send one and the same answer, so that one copy is enough for
	// all the tokens that somebody makes up.
	if last := shard.lastRejection; last != nil && last.equal(rejection) {
		rejection = last
	}
	shard.lastRejection = rejection
	if shard.rejections.Add(key, rejected{rejection, int64(expires.Sub(t.epoch))}) {
		shard.evictedRejections++
	}
}

// RevokeToken forgets a token with all its masquerades. If its user is known,
// that user's other tokens are forgotten too, which costs them one lookup each.
func (t *Identities) RevokeToken(c Credential) {
	key := t.key(c.Token)
	shard := t.shard(key)
	shard.mu.Lock()
	base, _ := shard.identities.Get(key)
	shard.identities.Delete(key)
	t.tokenRevocations.Add(1)
	shard.mu.Unlock()
	if base.userID != "" {
		t.RevokeUser(base.userID)
	}
}

// RevokeUser forgets all tokens of a user.
func (t *Identities) RevokeUser(userID string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.revoked.Add(userID, t.revocations.Add(1))
}

// RevokeAll forgets all tokens. It is for a revocation that doesn't tell whose
// tokens it ended, such as a password reset by mail.
func (t *Identities) RevokeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.floor = t.revocations.Add(1)
}

// Len returns how many identities and rejections are kept.
func (t *Identities) Len() (identities, rejections int) {
	for i := range t.shards {
		shard := &t.shards[i]
		shard.mu.Lock()
		identities += shard.identities.Len()
		rejections += shard.rejections.Len()
		shard.mu.Unlock()
	}
	return identities, rejections
}

// Evicted returns how many identities and rejections were dropped because there
// were too many.
func (t *Identities) Evicted() (identities, rejections uint64) {
	for i := range t.shards {
		shard := &t.shards[i]
		shard.mu.Lock()
		identities += shard.identities.Evicted()
		rejections += shard.evictedRejections
		shard.mu.Unlock()
	}
	return identities, rejections
}

// Fingerprint identifies a credential without giving its token away: equal for
// equal credentials of one process, and of use for nothing else.
func (t *Identities) Fingerprint(c Credential) [16]byte {
	return t.masqueradeKey(t.key(c.Token), c)
}

func (t *Identities) shard(key tokenKey) *identityShard {
	return &t.shards[key[0]%identityShards]
}

// key is the keyed hash under which a token is kept. A prefix is enough of a key
// for SHA-256 here: no hash ever leaves the process, so there is none to extend.
func (t *Identities) key(token string) tokenKey {
	var buffer [256]byte
	return hash(append(append(buffer[:0], t.secret[:]...), token...))
}

// masqueradeKey is the key of a token together with its effective parameters.
func (t *Identities) masqueradeKey(base tokenKey, c Credential) tokenKey {
	var buffer [512]byte
	b := append(append(buffer[:0], t.secret[:]...), base[:]...)
	b = binary.AppendUvarint(b, uint64(len(c.UserID)))
	return hash(append(append(b, c.UserID...), c.DeviceID...))
}

func hash(b []byte) tokenKey {
	sum := sha256.Sum256(b)
	return tokenKey(sum[:])
}
