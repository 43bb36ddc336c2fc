package snapshot

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"time"
)

// Kind is what a file has.
type Kind uint8

const (
	Budgets    Kind = 1
	Identities Kind = 2
)

// Home is what a snapshot is of: a digest of what tells a store of one homeserver from those of others.
type Home [32]byte

// NewHome returns the home that some words name.
func NewHome(words ...string) Home {
	h := sha256.New()
	for _, word := range words {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(word)))
		h.Write(size[:])
		h.Write([]byte(word))
	}
	return Home(h.Sum(nil))
}

// Key is under which users and tokens are in a snapshot, and by which it is seen that it is as it was
// written.
type Key [32]byte

// NewKey returns a new key.
func NewKey() (key Key) {
	rand.Read(key[:]) // never fails, see crypto/rand
	return key
}

// Sub returns a key for one use.
func (k Key) Sub(use string) [32]byte {
	mac := hmac.New(sha256.New, k[:])
	mac.Write([]byte(use))
	return [32]byte(mac.Sum(nil))
}

// A file is, in big-endian order:
//
//	magic     8 bytes
//	version   1
//	kind      1
//	key       8   which key it was made with
//	home     32
//	moment   32   wall clock, time since the machine's start, its start
//	sections      each: length in 8 bytes, and so many bytes
//	mac      32   of all before
const (
	magic      = "\x89presnap"
	version    = 1
	headerSize = 8 + 1 + 1 + 8 + 32 + 32
	macSize    = sha256.Size
)

// encode returns a file with these sections.
func encode(key Key, kind Kind, home Home, at Moment, sections ...[]byte) []byte {
	size := headerSize + macSize
	for _, section := range sections {
		size += 8 + len(section)
	}
	b := append(make([]byte, 0, size), magic...)
	b = append(b, version, byte(kind))
	name := key.Sub("name")
	b = append(append(b, name[:8]...), home[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(at.Wall)) //nolint:gosec // G115: read back as it is
	b = binary.BigEndian.AppendUint64(b, uint64(at.Up))   //nolint:gosec // G115: read back as it is
	b = append(b, at.Boot[:]...)
	for _, section := range sections {
		b = binary.BigEndian.AppendUint64(b, uint64(len(section)))
		b = append(b, section...)
	}
	return append(b, mac(key, b)...)
}

func mac(key Key, b []byte) []byte {
	sub := key.Sub("file")
	h := hmac.New(sha256.New, sub[:])
	h.Write(b)
	return h.Sum(nil)
}

// decode returns what encode made a file of, if it is of this kind and home.
func decode(key Key, kind Kind, home Home, b []byte) (at Moment, sections [][]byte, fault *Fault) {
	name := key.Sub("name")
	switch {
	case !strings.HasPrefix(magic, string(b[:min(len(b), len(magic))])):
		return at, nil, errKind
	case len(b) < headerSize+macSize:
		return at, nil, errCut
	case b[8] != version:
		return at, nil, errVersion
	case !bytes.Equal(b[10:18], name[:8]):
		return at, nil, errKey
	case !hmac.Equal(b[len(b)-macSize:], mac(key, b[:len(b)-macSize])):
		return at, nil, errCut
	case b[9] != byte(kind):
		return at, nil, errKind
	case Home(b[18:50]) != home:
		return at, nil, errHome
	}
	at.Wall = int64(binary.BigEndian.Uint64(b[50:]))       //nolint:gosec // G115: as it was written
	at.Up = time.Duration(binary.BigEndian.Uint64(b[58:])) //nolint:gosec // G115: as it was written
	at.Boot = [16]byte(b[66:82])
	for b = b[headerSize : len(b)-macSize]; len(b) > 0; {
		if len(b) < 8 || binary.BigEndian.Uint64(b) > uint64(len(b)-8) { //nolint:gosec // G115: at least 0
			return at, nil, errCut
		}
		size := int(binary.BigEndian.Uint64(b)) //nolint:gosec // G115: at most len(b)
		sections = append(sections, b[8:8+size])
		b = b[8+size:]
	}
	return at, sections, nil
}
