package identity

import (
	"encoding/hex"
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// RevokeToken forgets a credential that is no longer good, as the homeserver says or as
// a logout has made it. For an ordinary token that is the token, with all the parameters
// that it may come with. For an appservice's token with the user_id of a user it is that
// user: Dendrite doesn't know the token either if it doesn't know the user. What else is
// remembered of the user is forgotten too, which costs their other tokens one lookup each:
// a device may have several. It returns the user, if that was known.
func (t *Table) RevokeToken(c matrix.Credential) (userID string) {
	if userID = t.forget(c, true); userID != "" {
		t.RevokeUser(userID)
	}
	return userID
}

// Doubt has the homeserver asked again on whose behalf a credential acts, because it may
// no longer do so: a logout was not answered, or the homeserver refuses the account.
// Nobody else is touched, and the token stays one that was known.
func (t *Table) Doubt(c matrix.Credential) { t.forget(c, false) }

// DoubtKey is Doubt of a token, by its [Table.TokenKey], or [Table.Refreshed] of a refresh token by the same.
func (t *Table) DoubtKey(text string) {
	var key tokenKey
	if n, err := hex.Decode(key[:], []byte(text)); err == nil && n == len(key) {
		t.forgetBase(key, false)
		t.refreshed(key)
	}
}

// RevokeAll forgets on whose behalf any token acts.
func (t *Table) RevokeAll() {
	defer t.somethingEnds()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.floor = t.revocations.Add(1)
}

// forget ends what is remembered of a credential, and what is learned by the lookups of
// its token that are under way. It returns the user for whom it acted, if that was known. If
// the token has ended for sure, it is no longer one that was known.
func (t *Table) forget(c matrix.Credential, ended bool) (userID string) {
	key := t.key(c.Token)
	known := false
	defer func() { t.tokenEnds(known) }()
	t.noteEnding(key)
	if c.UserID != "" || c.DeviceID != "" {
		t.noteEnding(t.masqueradeKey(key, c))
	}
	givenOut := t.doubtIssued(key)
	shard := t.shard(key)
	shard.mu.Lock()
	t.noteRevocation(shard, key)
	base, ok := shard.identities.Get(key)
	shard.mu.Unlock()
	if known = ok || givenOut; !ok {
		if ended && c.UserID == "" && c.DeviceID == "" {
			t.forgetIssued(key)
		}
		return ""
	}
	if c = base.effective(c); c.UserID != "" || c.DeviceID != "" {
		// If it is one user of an appservice's, the others have nothing to do with it.
		switch userID = t.forgetMasquerade(key, base, c); {
		case userID == "": // nor has the token, if it is one whom nobody has known
			ended = false
		case userID != base.userID:
			return userID
		}
	}
	return t.forgetBase(key, ended)
}

// forgetBase ends what is remembered of a token, and returns its user, if that was known.
func (t *Table) forgetBase(key tokenKey, ended bool) (userID string) {
	known := false
	defer func() { t.tokenEnds(known) }()
	t.noteEnding(key)
	givenOut := t.doubtIssued(key)
	shard := t.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	t.noteRevocation(shard, key)
	base, ok := shard.identities.Get(key)
	switch known = ok || givenOut; {
	case !ok:
		return ""
	case ended:
		shard.identities.Delete(key)
		t.forgetIssued(key)
	default:
		if base.userID != "" {
			t.isOf(key, issued{userID: base.userID, asked: ever}) // for what it may yet end
		}
		// Its masquerades are void, as they hold its old name.
		shard.identities.Put(key, entry{
			base: t.bases.Add(1), asked: base.asked, ignoresUserID: base.ignoresUserID, ignoresDeviceID: base.ignoresDeviceID,
		})
	}
	return base.userID
}

// noteRevocation notes a revocation with the lookups of a token that are under way. It needs
// the shard's lock.
func (t *Table) noteRevocation(shard *tableShard, key tokenKey) {
	if under := shard.inquiries[key]; under != nil {
		under.revoked = t.tokenRevocations.Add(1)
	}
}

// forgetMasquerade ends what is remembered of a token with parameters, and returns the
// user, if that was known. Whose it was stays: what is doubted first, and then known to have ended, has nothing to do with
// the others that time either.
func (t *Table) forgetMasquerade(key tokenKey, base entry, c matrix.Credential) (userID string) {
	key = t.masqueradeKey(key, c)
	shard := t.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	found, ok := shard.identities.Get(key)
	if !ok || found.base != base.base {
		return ""
	}
	found.asked = ever
	shard.identities.Put(key, found)
	return found.userID
}

// RevokeUser forgets on whose behalf all tokens of a user act.
func (t *Table) RevokeUser(userID string) {
	t.revokeUser(userID)
	t.somethingEnds()
}

func (t *Table) revokeUser(userID string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	// A copy: it may be a part of a request that is much longer.
	t.revoked.Add(strings.Clone(userID), t.revocations.Add(1))
}

// current reports whether no revocation has touched e. What it finds out it
// notes in the entry, so that each revocation costs each entry one search.
func (t *Table) current(shard *tableShard, key tokenKey, e entry) bool {
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
func (t *Table) revokedAt(userID string) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	number, _ := t.revoked.Peek(userID)
	return max(number, t.floor)
}
