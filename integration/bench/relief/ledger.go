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

// change is a write that says something new, and its repeats, in order.
type change struct {
	presence string
	writes   []attempt
}

// attempt is when a write was sent, and when it was answered with 200, or zero.
type attempt struct{ sent, acked time.Time }

// acked is when the first of its writes was answered with 200, or zero.
func (c change) acked() time.Time {
	for _, w := range c.writes {
		if !w.acked.IsZero() {
			return w.acked
		}
	}
	return time.Time{}
}

// ackedBefore tells whether one of its writes was answered with 200 before a time, and when
// the last of these was sent.
func (c change) ackedBefore(t time.Time) (sent time.Time, ok bool) {
	for _, w := range c.writes {
		if !w.acked.IsZero() && w.acked.Before(t) {
			sent, ok = w.sent, true
		}
	}
	return sent, ok
}

// sentBefore is when the last of its writes was sent that was sent before a time, or zero.
func (c change) sentBefore(t time.Time) (sent time.Time) {
	for _, w := range c.writes {
		if w.sent.Before(t) {
			sent = w.sent
		}
	}
	return sent
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
		a.changes = append(a.changes, change{presence: presence})
	}
	last := &a.changes[len(a.changes)-1]
	last.writes = append(last.writes, attempt{sent: now})
	return len(a.changes), last.presence
}

// acks notes that the last write of a version was answered with 200.
func (a *account) acks(version int, token string, answered time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := &a.changes[version-1]
	c.writes[len(c.writes)-1].acked = answered
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

// last is the last version that was sent.
func (l *ledger) last(user string) int {
	a := l.of(user)
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.changes)
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
		if when := c.acked(); !when.IsZero() {
			version, presence, acked = i+1, c.presence, when
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
