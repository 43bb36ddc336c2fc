package identity

import (
	"maps"
	"sync"
)

// endings are the tokens that have ended while a snapshot is being read: those that it may have.
type endings struct {
	asOf uint64 // the number of the last revocation of a user before
	most int

	mu      sync.Mutex // guards all below
	keys    map[tokenKey]bool
	tooMany bool
}

// NoteEndings has it noted which tokens end, until [Table.Restore] or [Table.ForgetEndings].
func (t *Table) NoteEndings(most int) {
	t.endings.Store(&endings{asOf: t.revocations.Load(), most: most, keys: make(map[tokenKey]bool)})
}

// ForgetEndings undoes NoteEndings: there is no snapshot to restore.
func (t *Table) ForgetEndings() { t.endings.Store(nil) }

// onEnding is who is told when a token ends, and how many had made room for others before.
type onEnding struct {
	tell    func()
	evicted uint64
}

// OnEnding has f called when a token, or all of a user's, has ended or may have: when the table says so, and before
// whoever ends it is told. Tokens that somebody makes up don't end.
func (t *Table) OnEnding(f func()) {
	on := &onEnding{f, t.madeRoom()}
	if before := t.onEnding.Load(); before != nil {
		on.evicted = before.evicted // what was saved then may still be there
	}
	t.onEnding.Store(on)
}

// madeRoom returns how many tokens have made room for others.
func (t *Table) madeRoom() (evicted uint64) {
	evicted, _ = t.Evicted()
	t.muIssued.Lock()
	defer t.muIssued.Unlock()
	return evicted + t.evictedIssued
}

// noteEnding tells that a token ends, or the token that was given out with a refresh token. It must be called before
// that is looked up: what a snapshot brings before has been taken over then, and what it brings later hasn't.
func (t *Table) noteEnding(key tokenKey) {
	if e := t.endings.Load(); e != nil {
		e.add(key)
	}
}

// tokenEnds tells whoever asked for it of a token of which something was known, or may have been when it was saved. It
// must be called after the table says so, and without a lock that [Table.Save] needs: what is saved from then on
// doesn't have it.
func (t *Table) tokenEnds(known bool) {
	if on := t.onEnding.Load(); on != nil && (known || t.madeRoom() != on.evicted) {
		on.tell()
	}
}

// somethingEnds tells likewise that all of a user's have ended.
func (t *Table) somethingEnds() { t.tokenEnds(true) }

func (e *endings) add(key tokenKey) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.keys) >= e.most {
		e.tooMany = true
		return
	}
	e.keys[key] = true
}

// take returns a copy of what was noted. All tells that it is too much.
func (e *endings) take() (keys map[tokenKey]bool, all bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.keys), e.tooMany
}
