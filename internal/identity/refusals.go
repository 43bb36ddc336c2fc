package identity

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// refusals remembers that the homeserver refuses a credential for another reason than
// that it doesn't know the token: the account is locked or has expired, or an appservice
// may not act for the user. It is safe for use by several goroutines.
//
// Until that is over, nobody asks whose the credential is before a read of its is passed on:
// a locked account costs what it costs without us, and not twice that. What the homeserver
// said is not kept: its answer to each request is the right one.
type refusals struct {
	mu sync.Mutex // guards all below

	// plain is about tokens, acting about tokens with a user or device that they may not act
	// for. An appservice may be refused for as many as it likes to name, and must not have a
	// locked account be forgotten by that.
	plain, acting *simplelru.LRU[tokenKey, time.Time] // when the homeserver was asked
}

// maxRefusals is how many are remembered of each kind.
const maxRefusals = 1024

func newRefusals() *refusals {
	return &refusals{plain: newLRU[tokenKey, time.Time](maxRefusals, nil), acting: newLRU[tokenKey, time.Time](maxRefusals, nil)}
}

// of returns those of a kind of credential. It needs the lock.
func (r *refusals) of(c matrix.Credential) *simplelru.LRU[tokenKey, time.Time] {
	if c.UserID != "" || c.DeviceID != "" {
		return r.acting
	}
	return r.plain
}

// Refuse remembers that the homeserver refuses a credential, as it said when it was asked then.
func (t *Table) Refuse(c matrix.Credential, asked time.Time) {
	key := t.Fingerprint(c)
	t.refusals.mu.Lock()
	defer t.refusals.mu.Unlock()
	t.refusals.of(c).Add(key, asked)
}

// Accept notes that the homeserver no longer refuses a credential.
func (t *Table) Accept(c matrix.Credential) {
	key := t.Fingerprint(c)
	t.refusals.mu.Lock()
	defer t.refusals.mu.Unlock()
	t.refusals.of(c).Remove(key)
}

// IsRefused reports whether the homeserver has refused a credential a moment ago: for as long as
// an unknown token is good for.
func (t *Table) IsRefused(c matrix.Credential, now time.Time, good Lifetimes) bool {
	key := t.Fingerprint(c)
	t.refusals.mu.Lock()
	defer t.refusals.mu.Unlock()
	asked, ok := t.refusals.of(c).Get(key)
	return ok && now.Sub(asked) < good.UnknownToken
}

// IsKnown reports whether the homeserver has ever known a token, as long as there is room
// for it: it may be locked, or have ended elsewhere, but nobody has made it up.
func (t *Table) IsKnown(c matrix.Credential) bool {
	if t.WasKnown(c) {
		return true
	}
	key := t.Fingerprint(c)
	t.refusals.mu.Lock()
	defer t.refusals.mu.Unlock()
	return t.refusals.of(c).Contains(key)
}
