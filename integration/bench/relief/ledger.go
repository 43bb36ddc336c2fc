package main

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// ledger knows what users wrote, and so what a read may show. A status_msg is
// "v7 of @user:domain": the version grows with each change of that user's.
type ledger struct {
	merges, timers bool
	lag            time.Duration

	mu    sync.Mutex // guards users
	users map[string]*account
}

// account is what one user wrote.
type account struct {
	// writing is held during a write, so that writes of a user are in order.
	writing sync.Mutex

	mu      sync.Mutex // guards what is below
	changes []change   // the version of changes[i] is i+1
	devices map[string]string
	synced  bool // a sync of theirs set their presence: it isn't what they last wrote
}

// change is a write that says something new, and its repeats.
type change struct {
	presence string
	// sent is when the first was sent, acked when the first was answered with 200, or zero.
	sent, acked time.Time
	// lastSent is when the last was sent, lastAcked when the last was sent that got a 200.
	lastSent, lastAcked time.Time
}

func newLedger(k kindOfHomeserver) *ledger {
	return &ledger{merges: k.merges, timers: k.timers, lag: k.lag, users: make(map[string]*account)}
}

func (l *ledger) of(user string) *account {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.users[user]
	if a == nil {
		a = &account{devices: make(map[string]string)}
		l.users[user] = a
	}
	return a
}

// statusOf is the status_msg of a version.
func statusOf(version int, user string) string { return fmt.Sprintf("v%d of %s", version, user) }

// readStatus is the reverse.
func readStatus(text string) (version int, user string, ok bool) {
	before, user, ok := strings.Cut(text, " of ")
	n, err := fmt.Sscanf(before, "v%d", &version)
	return version, user, ok && err == nil && n == 1
}

// sends notes that a write is being sent, which is a change or repeats the last. It
// returns the version and the presence to write.
func (a *account) sends(presence string, isChange bool, now time.Time) (int, string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if isChange || len(a.changes) == 0 {
		a.changes = append(a.changes, change{presence: presence, sent: now})
	}
	last := &a.changes[len(a.changes)-1]
	last.lastSent = now
	return len(a.changes), last.presence
}

// acks notes that the write of a version that was sent at one time was answered with 200
// at another.
func (a *account) acks(version int, token string, sent, answered time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := &a.changes[version-1]
	if c.acked.IsZero() {
		c.acked = answered
	}
	c.lastAcked = sent
	a.devices[token] = c.presence
}

// syncs notes that a device sets a presence by sync.
func (a *account) syncs(token, presence string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.synced = true
	a.devices[token] = presence
}

// settled notes that the user's devices are all as they wrote last.
func (a *account) settled() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.synced = false
}

// order is by how present a device is (Synapse's handlers/presence.py).
var order = []string{"offline", "unavailable", "online"}

// final is what the user is after all writes that were acknowledged: the last version, the
// presence, and when that was acknowledged.
func (l *ledger) final(user string) (version int, presence string, acked time.Time) {
	a := l.of(user)
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, c := range a.changes {
		if !c.acked.IsZero() {
			version, presence, acked = i+1, c.presence, c.acked
		}
	}
	if !l.merges {
		return version, presence, acked
	}
	for _, word := range order {
		for _, of := range a.devices {
			if of == word {
				presence = word
			}
		}
	}
	return version, presence, acked
}
