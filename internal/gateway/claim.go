package gateway

import (
	"strings"
	"sync/atomic"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// claims is what the homeserver has made of tokens that name their user, see
// [matrix.TokenLocalpart]: on which server that user is, and whether it has ever named somebody
// else. Then something on the way changes tokens, and what they say means nothing.
type claims struct {
	server  atomic.Pointer[string] // of the first such token's user; nil if there was none
	refuted atomic.Bool
}

// note notes whom the homeserver has named as the user of a credential.
func (k *claims) note(c matrix.Credential, userID string) {
	localpart, ok := matrix.TokenLocalpart(c.Token)
	if !ok || c.UserID != "" || c.DeviceID != "" {
		return
	}
	name, server, _ := strings.Cut(userID, ":")
	if name != "@"+localpart {
		k.refuted.Store(true)
		return
	}
	if known := k.server.Load(); known == nil {
		server = strings.Clone(server)
		k.server.CompareAndSwap(nil, &server)
	}
	if *k.server.Load() != server {
		k.refuted.Store(true)
	}
}

// user returns whom a token names, or "".
func (k *claims) user(token string) string {
	server := k.server.Load()
	if server == nil || k.refuted.Load() {
		return ""
	}
	localpart, ok := matrix.TokenLocalpart(token)
	if !ok || len("@:")+len(localpart)+len(*server) > matrix.MaxUserID {
		return ""
	}
	return "@" + localpart + ":" + *server
}

// claimed returns on whose behalf a credential acts if the homeserver takes it, or "": on whose it
// did when the homeserver last said so, or on Synapse whom its token names. It authorises nothing:
// the homeserver has to serve a request with it first.
func (t tenant) claimed(c matrix.Credential) (userID string) {
	userID = t.store.identities.LastKnown(c)
	if userID == "" && c.UserID == "" && c.DeviceID == "" && t.learns() && t.knownDialect() == synapse {
		userID = t.store.claims.user(c.Token)
	}
	return userID
}
