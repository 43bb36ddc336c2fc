package gateway

import (
	"net/http"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/identity"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// owner is what is known of whose a credential is. One of the fields is set.
type owner struct {
	userID  string
	asked   time.Time              // of an answer that was asked for, when that was
	asOf    identity.Revision      // of such an answer, what had been revoked by then
	unknown *identity.UnknownToken // the homeserver doesn't know the token

	// refusal is another Matrix error than an unknown token, such as a locked
	// account or an appservice that may not act for the user. It is the
	// homeserver's answer to this one request. That there was one is remembered, see
	// [identity.Table.Refuse].
	refusal *subresponse

	// wait is set if the homeserver was not asked, because too many tokens are
	// being looked up, or too many of this client's turned out to be unknown: how
	// long to wait before trying again.
	wait time.Duration

	// shed is set if the homeserver was not asked because presence gives way: how long to wait before
	// trying again.
	shed time.Duration

	// barrier is what the site's own handlers said to the question, which didn't reach
	// the homeserver. It is for the client that asked.
	barrier *subresponse

	// err says why there is no answer, with a status: 502, 503 or 504.
	err error

	// page is there if the client is to get that for an err: what the site has put in the
	// place of the homeserver's error, or what says that the request was none to be answered.
	page *subresponse

	// crashed tells of an err that our own code panicked.
	crashed bool

	// down tells of an err or a refusal that the homeserver could not tell, by a question that
	// had nothing of the client's but its credential.
	down bool
}

// known tells that the homeserver has told, one way or the other.
func (o *owner) known() bool { return o.userID != "" || o.unknown != nil }

// fact returns what it is to a decision.
func (o *owner) fact() policy.OwnerFact {
	switch {
	case o.userID != "":
		return policy.OwnerKnown
	case o.unknown != nil:
		return policy.OwnerRejected
	case o.wait > 0:
		return policy.OwnerLimited
	case o.shed > 0:
		return policy.OwnerShed
	case o.down:
		return policy.OwnerDown
	case o.refusal != nil && isAboutCredential(o.refusal):
		return policy.OwnerRefused
	}
	return policy.OwnerUnknown
}

// isShared tells that an answer is about the credential, and not about the client that
// asked with it: its address, its budget, its failure.
func (o *owner) isShared() bool {
	return o.known() || o.crashed || o.refusal != nil && o.refusal.status != http.StatusTooManyRequests && !o.refusal.failed()
}

// Facts are what those have to know who share it.
func (o owner) Facts() identity.Facts {
	return identity.Facts{UserID: o.userID, Asked: o.asked, AsOf: o.asOf, Shared: o.isShared(), Alone: o.barrier != nil || o.wait > 0}
}

// cached returns what is remembered of whose a credential is.
func (t tenant) cached(c matrix.Credential, now time.Time) (known owner) {
	known.userID, known.unknown = t.store.identities.Lookup(c, now, t.cfg.Lifetimes)
	return known
}

// isRefused reports whether the homeserver has refused a credential a moment ago.
func (t tenant) isRefused(c matrix.Credential, now time.Time) bool {
	return t.store.identities.IsRefused(c, now, t.cfg.Lifetimes)
}

// isAboutCredential tells of a refusal that it isn't about a limit or trouble of the
// homeserver's own.
func isAboutCredential(answer *subresponse) bool {
	return answer.status < http.StatusInternalServerError && answer.status != http.StatusTooManyRequests
}
