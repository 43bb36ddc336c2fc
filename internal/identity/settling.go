package identity

import (
	"encoding/binary"
	"encoding/hex"
	"sync/atomic"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// settling says from when on answers about a token, or a user's, are remembered again after it has ended. A
// homeserver of several processes ends it in one of them before another, which answers whoami, knows:
//
//	1 logout: the process that ends the token says so, and we are told at 11
//	2 read:   asks whoami at 12; that process doesn't know of the logout yet, and names the user
//	1 logout: that one knows of it at 13
//	3 read:   must not find what 2 was told
//
// The answer holds for one request. What departs from the end of a time of settle on is remembered. Tokens and users have the
// same slots, by their hashes, four each: whoever has all four in common with others that have ended is asked about once more
// than needed, and nobody is told anything. With 2,000 that end within a time of settle that is one in 4,500.
type settling struct {
	// from is in nanoseconds since the table's epoch, and only grows. It is nil until something ends.
	from atomic.Pointer[[settlingRows][settlingSlots]atomic.Int64]
	// all is from when on answers about any token are remembered.
	all atomic.Int64
}

// They take 512 KiB.
const (
	settlingRows  = 4
	settlingSlots = 1 << 14
)

// slotOf returns which slot of a row is a key's.
func slotOf(key tokenKey, row int) int {
	return int(binary.BigEndian.Uint16(key[2*row:])) % settlingSlots
}

func (s *settling) set(key tokenKey, from int64) {
	rows := s.from.Load()
	if rows == nil {
		s.from.CompareAndSwap(nil, new([settlingRows][settlingSlots]atomic.Int64))
		rows = s.from.Load()
	}
	for i := range rows {
		raise(&rows[i][slotOf(key, i)], from)
	}
}

// raise lets a slot grow.
func raise(slot *atomic.Int64, from int64) {
	for known := slot.Load(); known < from; known = slot.Load() {
		if slot.CompareAndSwap(known, from) {
			return
		}
	}
}

// has tells that what was asked then isn't remembered.
func (s *settling) has(key tokenKey, asked int64) bool {
	rows := s.from.Load()
	if rows == nil {
		return false
	}
	for i := range rows {
		if asked >= rows[i][slotOf(key, i)].Load() {
			return false
		}
	}
	return true
}

// Settle has no answer remembered about a token that has ended whose question departs before a moment. It must be
// called before what ends it.
func (t *Table) Settle(c matrix.Credential, until time.Time) {
	t.settling.set(t.key(c.Token), int64(until.Sub(t.epoch)))
}

// SettleKey is Settle of a token by its [Table.TokenKey].
func (t *Table) SettleKey(text string, until time.Time) {
	var key tokenKey
	if n, err := hex.Decode(key[:], []byte(text)); err == nil && n == len(key) {
		t.settling.set(key, int64(until.Sub(t.epoch)))
	}
}

// SettleUser is Settle of all of a user's tokens.
func (t *Table) SettleUser(userID string, until time.Time) {
	t.settling.set(t.key(userID), int64(until.Sub(t.epoch)))
}

// SettleAll is Settle of all tokens, for when it isn't known which have ended.
func (t *Table) SettleAll(until time.Time) { raise(&t.settling.all, int64(until.Sub(t.epoch))) }

// settles tells that an answer isn't remembered that was asked for then.
func (t *Table) settles(key tokenKey, userID string, asked int64) bool {
	s := &t.settling
	return asked < s.all.Load() || s.from.Load() != nil && (s.has(key, asked) || s.has(t.key(userID), asked))
}

// hasSettled tells of an answer that was asked for then that it isn't remembered, and that the answer to who came later would be:
// that one must not share it.
//
//	1 logout: the process that ends the token says so
//	2 read:   asks whoami; a process that doesn't know of the logout yet names the user, slowly
//	3 read:   begins when all processes know, and must not share what 2 was told
func (i Inquiry) hasSettled(userID string, asked, came time.Time) bool {
	t := i.table
	settles := func(at time.Time) bool { return t.settles(i.key, userID, int64(at.Sub(t.epoch))) }
	return settles(asked) && !settles(came)
}
