package gateway

import (
	"net/http"
	"sync"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/hashicorp/golang-lru/v2/simplelru"
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
	plain, acting *simplelru.LRU[[16]byte, time.Time]
}

// maxRefusals is how many are remembered of each kind.
const maxRefusals = 1024

func newRefusals() *refusals {
	plain, _ := simplelru.NewLRU[[16]byte, time.Time](maxRefusals, nil) // fails below 1 only
	acting, _ := simplelru.NewLRU[[16]byte, time.Time](maxRefusals, nil)
	return &refusals{plain: plain, acting: acting}
}

// of returns those of a kind of credential. It needs the lock.
func (r *refusals) of(c matrix.Credential) *simplelru.LRU[[16]byte, time.Time] {
	if c.UserID != "" || c.DeviceID != "" {
		return r.acting
	}
	return r.plain
}

// isRefused reports whether the homeserver has refused a credential a moment ago.
func (g *Gateway) isRefused(c matrix.Credential, now time.Time) bool {
	m := g.store
	m.refusals.mu.Lock()
	defer m.refusals.mu.Unlock()
	asked, ok := m.refusals.of(c).Get(m.identities.Fingerprint(c))
	return ok && now.Sub(asked) < g.cfg.Lifetimes.UnknownToken
}

// refuse remembers that the homeserver refuses a credential, as it said when it was asked
// then, if the answer is about that.
func (m *Store) refuse(c matrix.Credential, answer *subresponse, asked time.Time) {
	if !isAboutCredential(answer) {
		return
	}
	m.refusals.mu.Lock()
	defer m.refusals.mu.Unlock()
	m.refusals.of(c).Add(m.identities.Fingerprint(c), asked)
}

// accept notes that the homeserver no longer refuses a credential.
func (m *Store) accept(c matrix.Credential) {
	m.refusals.mu.Lock()
	defer m.refusals.mu.Unlock()
	m.refusals.of(c).Remove(m.identities.Fingerprint(c))
}

// isAboutCredential tells of a refusal that it isn't about a limit or trouble of the
// homeserver's own.
func isAboutCredential(answer *subresponse) bool {
	return answer.status < http.StatusInternalServerError && answer.status != http.StatusTooManyRequests
}

// isKnown reports whether the homeserver has ever known a token, as long as there is room
// for it: it may be locked, or have ended elsewhere, but nobody has made it up.
func (m *Store) isKnown(c matrix.Credential) bool {
	if m.identities.WasKnown(c) {
		return true
	}
	m.refusals.mu.Lock()
	defer m.refusals.mu.Unlock()
	return m.refusals.of(c).Contains(m.identities.Fingerprint(c))
}
