package identity

import (
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// inquiries are what there is of a token that is being looked up.
type inquiries struct {
	n       int    // how many look it up
	revoked uint64 // the number of its last revocation meanwhile
}

// Inquiry is a lookup of a credential that is under way.
type Inquiry struct {
	table      *Table
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
func (t *Table) Begin(c matrix.Credential) Inquiry {
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
	shard := i.table.shard(i.key)
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
func (t *Table) Revision() Revision {
	return Revision{users: t.revocations.Load(), tokens: t.tokenRevocations.Load()}
}

// IsNextTo tells that one revocation of a user has happened since before, and none of a token that
// was being looked up.
func (r Revision) IsNextTo(before Revision) bool {
	return r.users == before.users+1 && r.tokens == before.tokens
}

// Holds reports whether what was asked for as of a revision, that the credential acts on
// behalf of the user, has been touched by no revocation since.
func (i Inquiry) Holds(userID string, asOf Revision) bool {
	shard := i.table.shard(i.key)
	shard.mu.Lock()
	revoked := shard.inquiries[i.key].revoked
	shard.mu.Unlock()
	return revoked <= asOf.tokens && i.table.revokedAt(userID) <= asOf.users
}

// Learn remembers that the credential acts on behalf of who, as the homeserver said when it
// was asked then and as of a revision.
func (i Inquiry) Learn(who WhoAmI, asOf Revision, asked time.Time) {
	t, c, key := i.table, i.credential, i.key
	learned := entry{userID: who.UserID, asked: int64(asked.Sub(t.epoch)), asOf: asOf.users}
	shard := t.shard(key)
	shard.mu.Lock()
	if shard.inquiries[key].revoked > asOf.tokens {
		shard.mu.Unlock()
		return // the token has been revoked meanwhile: the answer holds for one request
	}
	shard.unknown.Remove(key)
	if t.settles(key, who.UserID, learned.asked) {
		shard.mu.Unlock()
		return // likewise: a process of the homeserver may not know yet
	}

	base, ok := shard.identities.Get(key)
	if !ok {
		base = entry{base: t.bases.Add(1)}
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
