package identity

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

type tokenKey [16]byte

// Fingerprint identifies a credential without giving its token away: equal for
// equal credentials of one process, and of use for nothing else.
func (t *Table) Fingerprint(c matrix.Credential) [16]byte {
	return t.masqueradeKey(t.key(c.Token), c)
}

// key is the keyed hash under which a token is kept. A prefix is enough of a key
// for SHA-256 here: no hash ever leaves the process, so there is none to extend.
func (t *Table) key(token string) tokenKey {
	var buffer [256]byte
	return hash(append(append(buffer[:0], t.secret[:]...), token...))
}

// masqueradeKey is the key of a token together with its effective parameters.
func (t *Table) masqueradeKey(base tokenKey, c matrix.Credential) tokenKey {
	var buffer [512]byte
	b := append(append(buffer[:0], t.secret[:]...), base[:]...)
	b = binary.AppendUvarint(b, uint64(len(c.UserID)))
	return hash(append(append(b, c.UserID...), c.DeviceID...))
}

func hash(b []byte) tokenKey {
	sum := sha256.Sum256(b)
	return tokenKey(sum[:])
}
