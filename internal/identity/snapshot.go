package identity

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/sampled"
)

// A snapshot keeps over a restart whose tokens are whose: all that a request which ends tokens needs
// to find them by too. Tokens are in it by the keyed hashes of the table, so only a table with the
// same secret can use it. Tokens that the homeserver doesn't know aren't in it.

// Tokens are what a snapshot has.
type Tokens struct {
	entries  []savedEntry
	issued   []savedEntry // by base, ignores… unused
	succeeds [][2]tokenKey
}

// savedEntry is an entry at the moment of the snapshot.
type savedEntry struct {
	key    tokenKey
	age    int64 // since the homeserver was asked, in nanoseconds; never: it isn't good any more
	base   uint32
	flags  uint8
	userID string
}

// never is the age of what isn't good any more, but tells whose it was.
const never = math.MaxInt64

// The flags of a saved entry.
const (
	savedIgnoresUserID = 1 << iota
	savedIgnoresDeviceID
)

const (
	savedEntrySize = 16 + 8 + 4 + 1 + 1 // and the user ID
	savedPairSize  = 16 + 16
)

// MaxSaved is the size in bytes of the largest snapshot of a table of so many tokens.
func MaxSaved(tokens int) int {
	return 3*4 + (max(shardCount, tokens)+max(1, tokens/8))*(savedEntrySize+matrix.MaxUserID) + max(1, tokens/8)*savedPairSize
}

// Save appends what the table knows to b.
func (t *Table) Save(b []byte, now time.Time) []byte {
	at := int64(now.Sub(t.epoch))
	var saved Tokens
	for i := range t.shards {
		shard := &t.shards[i]
		shard.mu.Lock()
		saved.entries = slices.Grow(saved.entries, shard.identities.Len())
		for key, e := range shard.identities.All() {
			if len(e.userID) > matrix.MaxUserID {
				continue
			}
			saved.entries = append(saved.entries, savedEntry{key, t.savedAge(e.userID, e.asked, e.asOf, at), e.base, e.flags(), e.userID})
		}
		shard.mu.Unlock()
	}
	t.muIssued.Lock()
	for _, key := range t.issuedTo.Keys() {
		known, _ := t.issuedTo.Peek(key)
		saved.issued = append(saved.issued, savedEntry{key: key, age: t.savedAge(known.userID, known.asked, known.asOf, at), userID: known.userID})
	}
	for _, refresh := range t.succeeds.Keys() {
		access, _ := t.succeeds.Peek(refresh)
		saved.succeeds = append(saved.succeeds, [2]tokenKey{refresh, access})
	}
	t.muIssued.Unlock()
	return saved.append(b)
}

// savedAge is how old what is known of a user's token is, or never if it isn't good.
func (t *Table) savedAge(userID string, asked int64, asOf uint64, now int64) int64 {
	if asked == ever || asOf < t.revokedAt(userID) {
		return never
	}
	return max(0, now-asked)
}

// flags are those of a saved entry.
func (e entry) flags() (flags uint8) {
	if e.ignoresUserID {
		flags |= savedIgnoresUserID
	}
	if e.ignoresDeviceID {
		flags |= savedIgnoresDeviceID
	}
	return flags
}

// append appends what the snapshot has to b.
func (s *Tokens) append(b []byte) []byte {
	for _, list := range [][]savedEntry{s.entries, s.issued} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(list))) //nolint:gosec // G115: a table's size
		for _, e := range list {
			b = append(b, e.key[:]...)
			b = binary.BigEndian.AppendUint64(b, uint64(e.age)) //nolint:gosec // G115: not below 0
			b = binary.BigEndian.AppendUint32(b, e.base)
			b = append(b, e.flags, uint8(len(e.userID))) //nolint:gosec // G115: at most matrix.MaxUserID
			b = append(b, e.userID...)
		}
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(s.succeeds))) //nolint:gosec // G115: a table's size
	for _, pair := range s.succeeds {
		b = append(append(b, pair[0][:]...), pair[1][:]...)
	}
	return b
}

// errTokens says that what should be tokens is something else.
var errTokens = errors.New("the identities can't be read")

// ReadTokens reads what [Table.Save] wrote, which must be all of b.
func ReadTokens(b []byte) (read Tokens, err error) {
	for _, list := range []*[]savedEntry{&read.entries, &read.issued} {
		if len(b) < 4 {
			return Tokens{}, errTokens
		}
		n := int(binary.BigEndian.Uint32(b))
		if b = b[4:]; n > len(b)/savedEntrySize {
			return Tokens{}, errTokens
		}
		*list = make([]savedEntry, 0, n)
		for range n {
			e, size := readEntry(b)
			if size == 0 {
				return Tokens{}, errTokens
			}
			*list = append(*list, e)
			b = b[size:]
		}
	}
	if len(b) < 4 || len(b)-4 != int(binary.BigEndian.Uint32(b))*savedPairSize {
		return Tokens{}, errTokens
	}
	for pair := range slices.Chunk(b[4:], savedPairSize) {
		read.succeeds = append(read.succeeds, [2]tokenKey{tokenKey(pair[:16]), tokenKey(pair[16:])})
	}
	return read, nil
}

// readEntry reads an entry, and returns its size, or 0 if it is none.
func readEntry(b []byte) (e savedEntry, size int) {
	if len(b) < savedEntrySize {
		return savedEntry{}, 0
	}
	size = savedEntrySize + int(b[29])
	e = savedEntry{key: tokenKey(b[:16]), age: int64(binary.BigEndian.Uint64(b[16:])), base: binary.BigEndian.Uint32(b[24:]), flags: b[28]} //nolint:gosec // G115: checked
	if len(b) < size || e.age < 0 || e.flags&^(savedIgnoresUserID|savedIgnoresDeviceID) != 0 {
		return savedEntry{}, 0
	}
	e.userID = string(b[savedEntrySize:size])
	return e, size
}

// Len returns how many tokens a snapshot knows.
func (s *Tokens) Len() int { return len(s.entries) }

// Restore takes tokens over from a snapshot that was made so long ago. What the table has learned since, and
// what has ended since [Table.NoteEndings], counts more: nothing is taken over of a user
// whose token or session has ended. It happens at one moment for all tokens:
//
//	1 restore: is about to take over that T1 and T2 are alice's
//	2 logout of all devices, with T2: it isn't known whose T2 is, but it is noted that T2 has ended
//	1 restore: T2 was alice's, so nothing of alice is taken over
//
// It returns how many tokens it took over, which are none if too much has ended to be noted.
func (t *Table) Restore(saved Tokens, elapsed time.Duration, now time.Time) (tokens int) {
	noted := t.endings.Load()
	if noted == nil {
		return 0
	}
	at := int64(now.Sub(t.epoch)) - max(0, int64(elapsed))
	maps := t.build(&saved, noted.asOf, at)
	for i := range t.shards {
		t.shards[i].mu.Lock()
		defer t.shards[i].mu.Unlock()
	}
	t.muIssued.Lock()
	defer t.muIssued.Unlock()
	defer t.endings.Store(nil)
	ended, all := noted.take()
	if all {
		return 0
	}
	t.endSaved(&saved, ended)
	for i := range t.shards {
		tokens += t.shards[i].takeOver(maps[i], ended)
	}
	for _, e := range saved.issued {
		if known := t.issuedTo.Contains(e.key); !known {
			asked := askedAt(e.age, at)
			if ended[e.key] {
				asked = ever
			}
			t.issuedTo.Add(e.key, issued{userID: e.userID, asked: asked, asOf: noted.asOf})
		}
	}
	for _, pair := range saved.succeeds {
		if !t.succeeds.Contains(pair[0]) {
			t.succeeds.Add(pair[0], pair[1])
		}
	}
	return tokens
}

// build makes the tables of the shards as they were, of what was asked about before a moment.
func (t *Table) build(saved *Tokens, asOf uint64, at int64) (maps [shardCount]*sampled.Map[tokenKey, entry]) {
	for i := range t.shards {
		t.shards[i].mu.Lock()
		maps[i] = t.shards[i].identities.Like()
		t.shards[i].mu.Unlock()
	}
	bases := make(map[uint32]uint32) // their names here
	for _, e := range saved.entries {
		base, ok := bases[e.base]
		if !ok {
			base = t.bases.Add(1)
			bases[e.base] = base
		}
		maps[e.key[0]%shardCount].Put(e.key, entry{
			userID: e.userID, asked: askedAt(e.age, at), asOf: asOf, base: base,
			ignoresUserID: e.flags&savedIgnoresUserID != 0, ignoresDeviceID: e.flags&savedIgnoresDeviceID != 0,
		})
	}
	return maps
}

// askedAt returns when somebody was asked an age before a moment.
func askedAt(age, at int64) int64 {
	if age > never/4 || at < -(never/4) {
		return ever
	}
	return at - age
}

// endSaved ends what a snapshot has of users of whose tokens one has ended, and adds the tokens that
// have ended by the use of a refresh token.
func (t *Table) endSaved(saved *Tokens, ended map[tokenKey]bool) {
	for _, pair := range saved.succeeds {
		if ended[pair[0]] {
			ended[pair[1]] = true
		}
	}
	for _, list := range [][]savedEntry{saved.entries, saved.issued} {
		for _, e := range list {
			if ended[e.key] && e.userID != "" {
				t.revokeUser(e.userID)
			}
		}
	}
}

// takeOver puts entries of a snapshot under those of the shard, and returns how many. It needs the shard's lock.
func (s *tableShard) takeOver(saved *sampled.Map[tokenKey, entry], ended map[tokenKey]bool) (tokens int) {
	for key := range ended {
		saved.Delete(key)
	}
	tokens = saved.Len()
	s.identities.PutUnder(saved)
	return tokens
}
