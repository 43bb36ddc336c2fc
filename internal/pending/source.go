package pending

import (
	"slices"
	"time"
)

// Rules are bounds of the writes that wait.
type Rules struct {
	Pending int           // of all users and configurations
	MaxAge  time.Duration // after it a write is given up
}

// Source is where writes come from that are flushed together: a configuration.
type Source struct {
	writes *Writes
	rules  Rules
	ended  bool // the configuration has ended; the lock of the writes guards it
}

// NewSource returns a source without writes.
func (p *Writes) NewSource(rules Rules) *Source { return &Source{writes: p, rules: rules} }

// MayAccept reports whether Accept would let a write wait now. It is for what has to be told before.
func (s *Source) MayAccept(w *Write, wait time.Duration) bool {
	if !s.suits(w, wait) {
		return false
	}
	p := s.writes
	p.mu.Lock()
	defer p.unlock()
	u := p.users[w.UserID]
	isOfItsDevice := func(older *Write) bool { return older.Device == w.Device }
	return !s.ended && (s.hasRoom(u) || u != nil && slices.ContainsFunc(u.queue, isOfItsDevice))
}

// suits tells that a write may wait for so long, if there is room.
func (s *Source) suits(w *Write, wait time.Duration) bool {
	return wait <= s.rules.MaxAge && w.fits() && w.Body.Certain()
}

// hasRoom tells that one more of a user's writes may wait, who may be nil. It needs the lock.
func (s *Source) hasRoom(u *user) bool {
	return s.writes.n < s.rules.Pending && (u == nil || len(u.queue) < maxDevices)
}

// Accept lets a write wait until the user's budget is refilled, in the place of an older
// one of the same device. It reports false if there is no room, it would take too
// long, or the homeserver may refuse it: nothing is acknowledged then, and nothing done.
func (s *Source) Accept(w *Write, wait time.Duration) bool {
	if !s.suits(w, wait) {
		return false
	}
	p := s.writes
	p.mu.Lock()
	defer p.unlock()
	if s.ended {
		return false
	}
	w.source = s
	u := p.users[w.UserID]
	replaced := u != nil && p.replace(u, w)
	if !replaced && !s.hasRoom(u) {
		return false
	}
	if u == nil {
		u = &user{userID: w.UserID, fence: p.begin(w.UserID)}
		p.users[w.UserID] = u
	}
	u.queue = append(u.queue, w)
	p.n++
	if u.delivering == nil && u.timer == nil {
		p.schedule(u, wait)
	}
	return true
}

// replace takes out of a user's queue what a newer write of the same device takes the place of,
// and reports whether there was any. It needs the lock.
func (p *Writes) replace(u *user, w *Write) (replaced bool) {
	for i := len(u.queue) - 1; i >= 0; i-- {
		older := u.queue[i]
		if older.Device == w.Device && w.takePlaceOf(older, u.queue[i+1:]) {
			p.decide(older, Superseded)
			u.queue = slices.Delete(u.queue, i, i+1)
			replaced = true
		}
	}
	return replaced
}

// left returns how long a write may still wait.
func (w *Write) left(p *Writes) time.Duration {
	return w.source.rules.MaxAge - p.clock.Since(w.Accepted)
}
