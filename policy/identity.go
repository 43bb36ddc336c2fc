package policy

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
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
// Revocations of users are numbered. An entry carries the number that was current
// before the homeserver was asked:
//
//	1 lookup: takes number 7, asks whoami
//	2 logout/all of the same user succeeds, as number 8
//	1 lookup: whoami, answered before the logout, arrives and is stored as of 7
//	3 next request: 7 is older than the user's last revocation, 8: not used
//
// A revocation of a token ends what is remembered of it, and is noted with the
// lookups of that token that are under way, see [Identities.Begin]. A token that is
// neither remembered nor being looked up leaves no trace: tokens that somebody makes
// up change nothing.
type Identities struct {
	secret [32]byte
	epoch  time.Time
	shards [identityShards]identityShard
	bases  atomic.Uint32 // the last base that was named

	// revocations is the number of the last revocation of a user.
	revocations atomic.Uint64
	// tokenRevocations is the number of the last revocation of a token that was
	// being looked up.
	tokenRevocations atomic.Uint64

	mu      sync.Mutex // guards revoked, and orders revocations
	revoked *simplelru.LRU[string, uint64]
	// floor is the number of the last revocation that had to make room: entries
	// as of an earlier one are void. Guarded by mu, too.
	floor uint64

	muIssued sync.Mutex // guards all below
	// succeeds tells which access token ends when a refresh token is used.
	succeeds *simplelru.LRU[tokenKey, tokenKey]
	// issuedTo tells to whom an access token was given out, or whose one was that is in doubt. It
	// authorises nothing.
	issuedTo *simplelru.LRU[tokenKey, string]
}

const identityShards = 16

type tokenKey [16]byte

type identityShard struct {
	mu         sync.Mutex // guards all below
	identities *sampled.Map[tokenKey, identity]
	// unknown has a bound of its own, so that random tokens never push out
	// an identity.
	unknown     *simplelru.LRU[tokenKey, unknownEntry]
	lastUnknown *UnknownToken
	// inquiries are the tokens that somebody looks up, as many as that are.
	inquiries map[tokenKey]*inquiries
	// evictedUnknown is how many made room for others.
	evictedUnknown uint64
}

// identity is what is known of a token (its base entry), or of a token with
// parameters. Base and parameters are in shards of their own, so that an
// appservice's many users are spread over all of them.
type identity struct {
	userID string // empty in a base entry if only masquerades were looked up
	asked  int64  // when the homeserver was, in nanoseconds since the table's epoch
	asOf   uint64 // number of the last revocation by then

	// base names a base entry. An entry with parameters holds the name of its
	// base and is void without it, so dropping the base drops them all.
	base uint32

	ignoresUserID   bool // the token is an ordinary one: user_id has no effect
	ignoresDeviceID bool
}

type unknownEntry struct {
	answer *UnknownToken
	asked  int64
}

// UnknownToken is the homeserver's answer, with status 401, to a token that it does
// not know. It is immutable.
type UnknownToken struct {
	Body   string
	Header map[string][]string // canonical names
}

func (r *UnknownToken) equal(other *UnknownToken) bool {
	return r.Body == other.Body && maps.EqualFunc(r.Header, other.Header, slices.Equal)
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

// NewIdentities returns a table of at most tokens tokens. Rejected tokens, users with
// a revocation, and tokens that were given out have an eighth as many places. All are rounded up to
// one place in each shard. Of now only differences matter.
func NewIdentities(tokens int, now time.Time) *Identities {
	t := &Identities{epoch: now}
	rand.Read(t.secret[:]) // never fails, see crypto/rand
	for i := range t.shards {
		t.shards[i].identities = sampled.New[tokenKey](tokens/identityShards, func(a, b identity) bool { return a.asked < b.asked })
		t.shards[i].unknown = newLRU[tokenKey, unknownEntry](tokens/identityShards/8, nil)
		t.shards[i].inquiries = make(map[tokenKey]*inquiries)
	}
	t.succeeds = newLRU[tokenKey, tokenKey](tokens/8, nil)
	t.issuedTo = newLRU[tokenKey, string](tokens/8, nil)
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
func (t *Identities) Resize(tokens int) {
	for i := range t.shards {
		shard := &t.shards[i]
		shard.mu.Lock()
		shard.identities.Resize(tokens / identityShards)
		//nolint:gosec // G115: a number of entries that were removed, never below 0
		shard.evictedUnknown += uint64(shard.unknown.Resize(max(1, tokens/identityShards/8)))
		shard.mu.Unlock()
	}
	t.mu.Lock()
	t.revoked.Resize(max(1, tokens/8))
	t.mu.Unlock()
	t.muIssued.Lock()
	t.succeeds.Resize(max(1, tokens/8))
	t.issuedTo.Resize(max(1, tokens/8))
	t.muIssued.Unlock()
}

// Lookup returns the user on whose behalf c acts, or the homeserver's answer that it
// doesn't know c. Neither means that the homeserver has to be asked.
func (t *Identities) Lookup(c matrix.Credential, now time.Time, good Lifetimes) (userID string, unknown *UnknownToken) {
	return t.lookup(c, t.before(now, good.Identity), t.before(now, good.UnknownToken))
}

// before returns a moment so long before now, in nanoseconds since the table's epoch.
func (t *Identities) before(now time.Time, age time.Duration) int64 {
	at := int64(now.Sub(t.epoch))
	if at < math.MinInt64+int64(age) {
		return math.MinInt64
	}
	return at - int64(age)
}

// ever is before everything that was asked.
const ever = math.MinInt64

// lookup is Lookup of what was asked after a moment.
func (t *Identities) lookup(c matrix.Credential, since, rejectedSince int64) (userID string, unknown *UnknownToken) {
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
		return "", nil
	}
	if c = base.effective(c); c.UserID == "" && c.DeviceID == "" {
		defer shard.mu.Unlock()
		return t.valid(shard, key, base, since), nil
	}
	shard.mu.Unlock()

	key = t.masqueradeKey(key, c)
	shard = t.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if found, ok := shard.identities.Get(key); ok && found.base == base.base {
		return t.valid(shard, key, found, since), nil
	}
	return "", nil
}

// LastKnown is Lookup of what has expired too, as long as there is room for it: whose a
// token that nobody has revoked is doesn't change. It is for what authorises nothing.
func (t *Identities) LastKnown(c matrix.Credential) (userID string) {
	userID, _ = t.lookup(c, ever, ever)
	return userID
}

// Holder is LastKnown of what a revocation has touched too, or of a token of which only the
// answer that gave it out has told whose it is. It is for what ends by a request of c's that
// the homeserver has taken: a token may have ended, but never becomes another's.
func (t *Identities) Holder(c matrix.Credential) (userID string) {
	key := t.key(c.Token)
	shard := t.shard(key)
	shard.mu.Lock()
	base, ok := shard.identities.Get(key)
	shard.mu.Unlock()
	if c = base.effective(c); !ok || c.UserID == "" && c.DeviceID == "" {
		return t.holderOf(key, base)
	}
	key = t.masqueradeKey(key, c)
	shard = t.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if found, ok := shard.identities.Get(key); ok && found.base == base.base {
		return found.userID
	}
	return ""
}

// holderOf returns whose a token is, by its base entry or by the answer that gave it out.
func (t *Identities) holderOf(key tokenKey, base identity) (userID string) {
	if base.userID != "" {
		return base.userID
	}
	t.muIssued.Lock()
	defer t.muIssued.Unlock()
	userID, _ = t.issuedTo.Get(key)
	return userID
}

// WasKnown reports whether the homeserver has ever known c's token, as long as there is
// room for it, and hasn't said since that it no longer does. It may not be known on whose
// behalf c acts.
func (t *Identities) WasKnown(c matrix.Credential) bool {
	key := t.key(c.Token)
	shard := t.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	_, ok := shard.identities.Get(key)
	return ok
}

// WasRejected reports whether Lookup returns that c is unknown, or did before that expired, as
// long as there is room for it.
func (t *Identities) WasRejected(c matrix.Credential) bool {
	_, unknown := t.lookup(c, ever, ever)
	return unknown != nil
}

// valid returns the user of an entry that was asked for after a moment and that no
// revocation has touched, or "". It needs the shard's lock.
func (t *Identities) valid(shard *identityShard, key tokenKey, e identity, since int64) string {
	if e.asked <= since || !t.current(shard, key, e) {
		return ""
	}
	return e.userID
}

// effective returns c without the parameters that have no effect.
func (e identity) effective(c matrix.Credential) matrix.Credential {
	if e.ignoresUserID {
		c.UserID = ""
	}
	if e.ignoresDeviceID {
		c.DeviceID = ""
	}
	return c
}

// Effective returns c without the parameters of which the homeserver has shown that they have no
// effect on its token, as long as there is room for that.
func (t *Identities) Effective(c matrix.Credential) matrix.Credential {
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

// current reports whether no revocation has touched e. What it finds out it
// notes in the entry, so that each revocation costs each entry one search.
func (t *Identities) current(shard *identityShard, key tokenKey, e identity) bool {
	now := t.revocations.Load()
	if e.asOf >= now {
		return true
	}
	if e.asOf < t.revokedAt(e.userID) {
		return false
	}
	e.asOf = now
	shard.identities.Put(key, e)
	return true
}

// revokedAt returns the number of the last revocation that may concern a user.
func (t *Identities) revokedAt(userID string) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	number, _ := t.revoked.Peek(userID)
	return max(number, t.floor)
}

// inquiries are what there is of a token that is being looked up.
type inquiries struct {
	n       int    // how many look it up
	revoked uint64 // the number of its last revocation meanwhile
}

// Inquiry is a lookup of a credential that is under way.
type Inquiry struct {
	identities *Identities
	credential matrix.Credential
	key        tokenKey
}

// Begin tells that somebody looks c up, perhaps by sharing another's question. Whoever
// does must call [Inquiry.End] after the last use of the answer that was got: until then a
// revocation of the token is noted.
//
//	1 lookup: begins, asks whoami
//	2 logout of the token succeeds, and is noted with 1
//	3 lookup: begins, shares the question of 1
//	1 whoami, answered before the logout, arrives: not remembered
//	3 the answer doesn't hold for 3, which came after the logout: 3 asks anew
func (t *Identities) Begin(c matrix.Credential) Inquiry {
	key := t.key(c.Token)
	shard := t.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	under := shard.inquiries[key]
	if under == nil {
		under = new(inquiries)
		shard.inquiries[key] = under
	}
	under.n++
	return Inquiry{t, c, key}
}

// End tells that the inquiry is over.
func (i Inquiry) End() {
	shard := i.identities.shard(i.key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	under := shard.inquiries[i.key]
	if under.n--; under.n == 0 {
		delete(shard.inquiries, i.key)
	}
}

// Revision tells which revocations had happened at some moment.
type Revision struct{ users, tokens uint64 }

// Revision must be taken before the homeserver is asked, and handed to
// [Inquiry.Learn] with the answer.
func (t *Identities) Revision() Revision {
	return Revision{users: t.revocations.Load(), tokens: t.tokenRevocations.Load()}
}

// Holds reports whether what was asked for as of a revision, that the credential acts on
// behalf of the user, has been touched by no revocation since.
func (i Inquiry) Holds(userID string, asOf Revision) bool {
	shard := i.identities.shard(i.key)
	shard.mu.Lock()
	revoked := shard.inquiries[i.key].revoked
	shard.mu.Unlock()
	return revoked <= asOf.tokens && i.identities.revokedAt(userID) <= asOf.users
}

// Learn remembers that the credential acts on behalf of who, as the homeserver said when it
// was asked then and as of a revision.
func (i Inquiry) Learn(who WhoAmI, asOf Revision, asked time.Time) {
	t, c, key := i.identities, i.credential, i.key
	learned := identity{userID: who.UserID, asked: int64(asked.Sub(t.epoch)), asOf: asOf.users}
	shard := t.shard(key)
	shard.mu.Lock()
	if shard.inquiries[key].revoked > asOf.tokens {
		shard.mu.Unlock()
		return // the token has been revoked meanwhile: the answer holds for one request
	}
	shard.unknown.Remove(key)

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
		base.asked = learned.asked
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

// Reject remembers that the homeserver does not know c's token, as it said when it was
// asked then.
func (t *Identities) Reject(c matrix.Credential, answer *UnknownToken, asked time.Time) {
	key := t.key(c.Token)
	shard := t.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	shard.identities.Delete(key)
	// Homeservers send one and the same answer, so that one copy is enough for
	// all the tokens that somebody makes up.
	if last := shard.lastUnknown; last != nil && last.equal(answer) {
		answer = last
	}
	shard.lastUnknown = answer
	if shard.unknown.Add(key, unknownEntry{answer, int64(asked.Sub(t.epoch))}) {
		shard.evictedUnknown++
	}
}

// RevokeToken forgets a credential that is no longer good, as the homeserver says or as
// a logout has made it. For an ordinary token that is the token, with all the parameters
// that it may come with. For an appservice's token with the user_id of a user it is that
// user: Dendrite doesn't know the token either if it doesn't know the user. What else is
// remembered of the user is forgotten too, which costs their other tokens one lookup each:
// a device may have several.
func (t *Identities) RevokeToken(c matrix.Credential) {
	if userID := t.forget(c, true); userID != "" {
		t.RevokeUser(userID)
	}
}

// Doubt has the homeserver asked again on whose behalf a credential acts, because it may
// no longer do so: a logout was not answered, or the homeserver refuses the account.
// Nobody else is touched, and the token stays one that was known.
func (t *Identities) Doubt(c matrix.Credential) { t.forget(c, false) }

// forget ends what is remembered of a credential, and what is learned by the lookups of
// its token that are under way. It returns the user for whom it acted, if that was known. If
// the token has ended for sure, it is no longer one that was known.
func (t *Identities) forget(c matrix.Credential, ended bool) (userID string) {
	key := t.key(c.Token)
	shard := t.shard(key)
	shard.mu.Lock()
	t.noteRevocation(shard, key)
	base, ok := shard.identities.Get(key)
	shard.mu.Unlock()
	if !ok {
		return ""
	}
	if c = base.effective(c); c.UserID != "" || c.DeviceID != "" {
		// If it is one user of an appservice's, the others have nothing to do with it.
		if userID = t.forgetMasquerade(key, base, c); userID != "" && userID != base.userID {
			return userID
		}
	}
	return t.forgetBase(key, ended)
}

// forgetBase ends what is remembered of a token, and returns its user, if that was known.
func (t *Identities) forgetBase(key tokenKey, ended bool) (userID string) {
	shard := t.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	t.noteRevocation(shard, key)
	base, ok := shard.identities.Get(key)
	switch {
	case !ok:
		return ""
	case ended:
		shard.identities.Delete(key)
	default:
		if base.userID != "" {
			t.isOf(key, base.userID) // for what it may yet end
		}
		// Its masquerades are void, as they hold its old name.
		shard.identities.Put(key, identity{
			base: t.bases.Add(1), asked: base.asked, ignoresUserID: base.ignoresUserID, ignoresDeviceID: base.ignoresDeviceID,
		})
	}
	return base.userID
}

// noteRevocation notes a revocation with the lookups of a token that are under way. It needs
// the shard's lock.
func (t *Identities) noteRevocation(shard *identityShard, key tokenKey) {
	if under := shard.inquiries[key]; under != nil {
		under.revoked = t.tokenRevocations.Add(1)
	}
}

// forgetMasquerade ends what is remembered of a token with parameters, and returns the
// user, if that was known.
func (t *Identities) forgetMasquerade(key tokenKey, base identity, c matrix.Credential) (userID string) {
	key = t.masqueradeKey(key, c)
	shard := t.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	found, ok := shard.identities.Get(key)
	if !ok || found.base != base.base {
		return ""
	}
	shard.identities.Delete(key)
	return found.userID
}

// RevokeUser forgets on whose behalf all tokens of a user act.
func (t *Identities) RevokeUser(userID string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	// A copy: it may be a part of a request that is much longer.
	t.revoked.Add(strings.Clone(userID), t.revocations.Add(1))
}

// IssuedTo remembers to whom the homeserver has given out an access token.
func (t *Identities) IssuedTo(userID, accessToken string) {
	if userID == "" || len(userID) > matrix.MaxUserID {
		return
	}
	t.isOf(t.key(accessToken), strings.Clone(userID))
}

// isOf notes whose a token is.
func (t *Identities) isOf(key tokenKey, userID string) {
	t.muIssued.Lock()
	defer t.muIssued.Unlock()
	t.issuedTo.Add(key, userID)
}

// Issued remembers that the homeserver has given out an access token together with a
// refresh token, by whose use it ends, in exchange for a refresh token if one was used. If it has
// given out none, the used one stays good. If it has, that may be used once more by mistake,
// and ends this access token then (tuwunel). Of used there are those that it may have been.
func (t *Identities) Issued(accessToken, refreshToken string, used ...string) {
	access := t.key(accessToken)
	for _, token := range used {
		refresh := t.key(token)
		before, known := t.issuedWith(refresh)
		if known {
			t.inherit(access, before)
		}
		// Not what somebody makes up: it would make room for itself.
		if known || refreshToken == "" {
			t.endsBy(refresh, access)
		}
	}
	if refreshToken != "" {
		t.endsBy(t.key(refreshToken), access)
	}
}

// issuedWith returns the access token that was last given out with a refresh token.
func (t *Identities) issuedWith(refresh tokenKey) (access tokenKey, ok bool) {
	t.muIssued.Lock()
	defer t.muIssued.Unlock()
	return t.succeeds.Get(refresh)
}

func (t *Identities) endsBy(refresh, access tokenKey) {
	t.muIssued.Lock()
	defer t.muIssued.Unlock()
	t.succeeds.Add(refresh, access)
}

// inherit notes that an access token is whose the one before was.
func (t *Identities) inherit(access, before tokenKey) {
	shard := t.shard(before)
	shard.mu.Lock()
	base, _ := shard.identities.Get(before)
	shard.mu.Unlock()
	if userID := t.holderOf(before, base); userID != "" {
		t.isOf(access, userID)
	}
}

// Refreshed forgets on whose behalf the access token acts that was given out with a
// refresh token, as [Identities.Doubt] does: that has been used.
func (t *Identities) Refreshed(refreshToken string) {
	if access, ok := t.issuedWith(t.key(refreshToken)); ok {
		t.forgetBase(access, false)
	}
}

// Len returns how many identities and unknown tokens are kept.
func (t *Identities) Len() (identities, unknown int) {
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
func (t *Identities) Evicted() (identities, unknown uint64) {
	for i := range t.shards {
		shard := &t.shards[i]
		shard.mu.Lock()
		identities += shard.identities.Evicted()
		unknown += shard.evictedUnknown
		shard.mu.Unlock()
	}
	return identities, unknown
}

// Fingerprint identifies a credential without giving its token away: equal for
// equal credentials of one process, and of use for nothing else.
func (t *Identities) Fingerprint(c matrix.Credential) [16]byte {
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
func (t *Identities) masqueradeKey(base tokenKey, c matrix.Credential) tokenKey {
	var buffer [512]byte
	b := append(append(buffer[:0], t.secret[:]...), base[:]...)
	b = binary.AppendUvarint(b, uint64(len(c.UserID)))
	return hash(append(append(b, c.UserID...), c.DeviceID...))
}

func hash(b []byte) tokenKey {
	sum := sha256.Sum256(b)
	return tokenKey(sum[:])
}
