package model

import (
	"iter"
	"maps"
	"sync"
	"time"
)

// Accounts is what the homeserver knows of accounts, tokens and rooms from one moment to
// another. It is immutable once another has followed it.
type Accounts struct {
	From, Until time.Time // Until is not part of it; zero in the present one

	Sessions map[string]Session // by access token
	Joined   map[Membership]bool
	Locked   map[string]bool // users

	PresenceOff bool // by the homeserver's admin
}

// Session is whose an access token is.
type Session struct {
	User, Device string
	Admin, Guest bool
	Appservice   bool // may act for all users whose names begin with "@ghost_"
}

// Membership is who is in a room.
type Membership struct {
	Room int
	User string
}

// ShareRoom reports whether two users are in one room.
func (a *Accounts) ShareRoom(one, other string) bool {
	for in := range a.Joined {
		if in.User == one && a.Joined[Membership{in.Room, other}] {
			return true
		}
	}
	return false
}

// End ends the sessions of a user for which end is true.
func (a *Accounts) End(user string, end func(token string, s Session) bool) {
	maps.DeleteFunc(a.Sessions, func(token string, s Session) bool {
		return s.User == user && !s.Appservice && end(token, s)
	})
}

// ledger is the succession of Accounts.
type ledger struct {
	mu    sync.Mutex // guards pages
	pages []*Accounts
}

func newLedger() *ledger {
	return &ledger{pages: []*Accounts{{
		From: time.Now(), Sessions: make(map[string]Session), Joined: make(map[Membership]bool), Locked: make(map[string]bool),
	}}}
}

// Now returns what is known at present.
func (l *ledger) Now() *Accounts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pages[len(l.pages)-1]
}

// Change makes the present another.
func (l *ledger) Change(f func(a *Accounts)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.pages[len(l.pages)-1]
	after := &Accounts{
		From: time.Now(), Sessions: maps.Clone(before.Sessions), Joined: maps.Clone(before.Joined), Locked: maps.Clone(before.Locked),
		PresenceOff: before.PresenceOff,
	}
	f(after)
	before.Until = after.From
	l.pages = append(l.pages, after)
}

// Between yields what was known after lo and up to hi, the last first.
func (l *ledger) Between(lo, hi time.Time) iter.Seq[*Accounts] {
	l.mu.Lock()
	pages := l.pages
	l.mu.Unlock()
	return func(yield func(*Accounts) bool) {
		for i := len(pages) - 1; i >= 0; i-- {
			page := pages[i]
			if i < len(pages)-1 && !page.Until.After(lo) {
				return
			}
			if !page.From.After(hi) && !yield(page) {
				return
			}
		}
	}
}
