package identity

import (
	"encoding/hex"
	"strings"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// issued is to whom a token was given out. As long as the homeserver's word for that is good, it is
// as good as an entry; but of those there would be one for each token that somebody has given out
// and never uses.
type issued struct {
	userID string
	asked  int64  // when the request departed by which it was given out; ever if it is in doubt
	asOf   uint64 // as of an entry
}

// IssuedTo remembers to whom an access token was given out. It authorises nothing: the homeserver
// has to be asked.
func (t *Table) IssuedTo(userID, accessToken string) {
	if userID == "" || len(userID) > matrix.MaxUserID {
		return
	}
	t.isOf(t.key(accessToken), issued{userID: strings.Clone(userID), asked: ever})
}

// LearnIssued remembers to whom the homeserver itself has given out an access token, by its answer
// to a request that departed then. As of the revision nothing had been revoked that has to do with
// the token. It is as good as the homeserver's answer to whose it is.
func (t *Table) LearnIssued(userID, accessToken string, asOf Revision, asked time.Time) {
	if userID == "" || len(userID) > matrix.MaxUserID {
		return
	}
	t.isOf(t.key(accessToken), issued{strings.Clone(userID), int64(asked.Sub(t.epoch)), asOf.users})
}

// issuedSince returns to whom a token was given out after a moment, if no revocation has touched that.
func (t *Table) issuedSince(key tokenKey, since int64) (userID string) {
	t.muIssued.Lock()
	known, ok := t.issuedTo.Get(key)
	t.muIssued.Unlock()
	if !ok || known.asked <= since || known.asOf < t.revokedAt(known.userID) {
		return ""
	}
	return known.userID
}

// doubtIssued has the homeserver asked whose a token is that was given out. It reports whether it is one.
func (t *Table) doubtIssued(key tokenKey) (ok bool) {
	t.muIssued.Lock()
	defer t.muIssued.Unlock()
	known, ok := t.issuedTo.Peek(key)
	if ok && known.asked != ever {
		known.asked = ever
		t.issuedTo.Add(key, known)
	}
	return ok
}

// Issued remembers that the homeserver has given out an access token together with a
// refresh token, by whose use it ends, in exchange for a refresh token if one was used. If it has
// given out none, the used one stays good. If it has, that may be used once more by mistake,
// and ends this access token then (tuwunel). Of used there are those that it may have been.
func (t *Table) Issued(accessToken, refreshToken string, used ...string) {
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

// Refreshed forgets on whose behalf the access token acts that was given out with a
// refresh token, as [Table.Doubt] does: that has been used. It returns that one's [Table.TokenKey], if it is
// known.
func (t *Table) Refreshed(refreshToken string) (accessKey string, ok bool) {
	return t.refreshed(t.key(refreshToken))
}

func (t *Table) refreshed(refresh tokenKey) (accessKey string, ok bool) {
	t.noteEnding(refresh)
	access, ok := t.issuedWith(refresh)
	if !ok {
		return "", false
	}
	t.forgetBase(access, false)
	return hex.EncodeToString(access[:]), true
}

// Holder is LastKnown also for what a revocation has touched, and for a token whose user is known
// only by the answer that gave it out. It is for what ends by a request of c's that
// the homeserver has taken: a token may have ended, but never becomes another's.
func (t *Table) Holder(c matrix.Credential) (userID string) {
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
func (t *Table) holderOf(key tokenKey, base entry) (userID string) {
	if base.userID != "" {
		return base.userID
	}
	t.muIssued.Lock()
	defer t.muIssued.Unlock()
	known, _ := t.issuedTo.Get(key)
	return known.userID
}

// isOf notes whose a token is.
func (t *Table) isOf(key tokenKey, of issued) {
	t.muIssued.Lock()
	defer t.muIssued.Unlock()
	if t.issuedTo.Add(key, of) {
		t.evictedIssued++
	}
}

// issuedWith returns the access token that was last given out with a refresh token.
func (t *Table) issuedWith(refresh tokenKey) (access tokenKey, ok bool) {
	t.muIssued.Lock()
	defer t.muIssued.Unlock()
	return t.succeeds.Get(refresh)
}

// forgetIssued notes of a token that it has ended for sure, and reports whether it had been given out. Whoever still has it
// changes nothing for the one whose it was.
func (t *Table) forgetIssued(key tokenKey) (ok bool) {
	t.muIssued.Lock()
	defer t.muIssued.Unlock()
	return t.issuedTo.Remove(key)
}

func (t *Table) endsBy(refresh, access tokenKey) {
	t.muIssued.Lock()
	defer t.muIssued.Unlock()
	t.succeeds.Add(refresh, access)
}

// inherit notes that an access token is whose the one before was.
func (t *Table) inherit(access, before tokenKey) {
	shard := t.shard(before)
	shard.mu.Lock()
	base, _ := shard.identities.Get(before)
	shard.mu.Unlock()
	if userID := t.holderOf(before, base); userID != "" {
		t.isOf(access, issued{userID: userID, asked: ever})
	}
}
