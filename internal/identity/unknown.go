package identity

import (
	"maps"
	"slices"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// UnknownToken is the homeserver's answer, with status 401, to a token that it does
// not know. It is immutable.
type UnknownToken struct {
	Body   string
	Header map[string][]string // canonical names
}

func (r *UnknownToken) equal(other *UnknownToken) bool {
	return r.Body == other.Body && maps.EqualFunc(r.Header, other.Header, slices.Equal)
}

type unknownEntry struct {
	answer *UnknownToken
	asked  int64
}

// Reject remembers that the homeserver does not know c's token, as it said when it was
// asked then.
func (t *Table) Reject(c matrix.Credential, answer *UnknownToken, asked time.Time) {
	key := t.key(c.Token)
	t.noteEnding(key)
	known := t.WasKnown(c)
	defer func() { t.tokenEnds(known) }()
	shard := t.shard(key)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	shard.identities.Delete(key)
	known = t.forgetIssued(key) || known
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
