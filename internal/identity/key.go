package identity

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

type tokenKey [16]byte

// Fingerprint identifies a credential without giving its token away: equal for
// equal credentials of one process, and of use for nothing else.
func (t *Table) Fingerprint(c matrix.Credential) [16]byte {
	return t.masqueradeKey(t.key(c.Token), c)
}

// Rekey has tokens kept under another secret, one that others have too. What is remembered of
// tokens is of no more use, also when this secret was theirs once: what has ended under the other wasn't found.
func (t *Table) Rekey(secret [32]byte) {
	if *t.secret.Load() != secret {
		t.secret.Store(&secret)
		t.RevokeAll()
	}
}

// TokenKey returns by what others who have the secret know a token. It tells nobody else which it is.
func (t *Table) TokenKey(c matrix.Credential) string {
	key := t.key(c.Token)
	return hex.EncodeToString(key[:])
}

// key is the keyed hash under which a token is kept. A prefix is enough of a key
// for SHA-256 here: of a hash only the half is told, which can't be extended.
func (t *Table) key(token string) tokenKey {
	var buffer [128]byte
	return hash(append(append(buffer[:0], t.secret.Load()[:]...), token...))
}

// masqueradeKey is the key of a token together with its effective parameters.
func (t *Table) masqueradeKey(base tokenKey, c matrix.Credential) tokenKey {
	var buffer [512]byte
	b := append(append(buffer[:0], t.secret.Load()[:]...), base[:]...)
	b = binary.AppendUvarint(b, uint64(len(c.UserID)))
	return hash(append(append(b, c.UserID...), c.DeviceID...))
}

func hash(b []byte) tokenKey {
	sum := sha256.Sum256(b)
	return tokenKey(sum[:])
}
