package pending

import (
	"slices"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/flight"
)

const (
	// deliveryTimeout is how long the homeserver may take for one.
	deliveryTimeout = 30 * time.Second

	// A delivery that fails is tried again after the first of these, then after twice
	// as long each time, up to the second.
	firstRetry, lastRetry = time.Second, 10 * time.Second
)

// schedule has a user's queue delivered later. It needs the lock.
func (p *Writes) schedule(u *user, wait time.Duration) {
	u.timer = time.AfterFunc(wait, func() { p.deliverInTurn(u) })
}

// deliverInTurn delivers a user's queue when there is a place for it. What gets too old
// before that is lost.
func (p *Writes) deliverInTurn(u *user) {
	for {
		left, ok := p.expire(u)
		if !ok {
			return
		}
		timer := time.NewTimer(left)
		select {
		case p.sending <- struct{}{}:
			timer.Stop()
			defer func() { <-p.sending }()
			p.deliverQueue(u, time.Time{})
			return
		case <-timer.C:
		}
	}
}

// expire drops what is too old of a user's queue, and returns when the next will be. It
// reports false if nothing waits, or somebody is at the queue.
func (p *Writes) expire(u *user) (left time.Duration, ok bool) {
	p.mu.Lock()
	defer p.unlock()
	if u.delivering != nil || p.users[u.userID] != u {
		return 0, false
	}
	for len(u.queue) > 0 {
		w := u.queue[0]
		if left = w.left(p); left > 0 {
			return left, true
		}
		u.queue = u.queue[1:]
		p.decide(w, Lost)
	}
	p.finish(u)
	return 0, false
}

// deliverQueue sends what waits in a user's queue, oldest first, once the budget has an event
// for the first: the others that wait by then go along and are charged for, so that the
// homeserver has the newest as soon as it may have any. With an end, which is that of a
// configuration, nothing waits for a budget, and there is no second attempt.
func (p *Writes) deliverQueue(u *user, end time.Time) {
	p.mu.Lock()
	defer p.unlock()
	if u.delivering != nil || p.users[u.userID] != u {
		return
	}
	u.delivering = make(chan struct{})
	if u.timer != nil {
		u.timer.Stop()
		u.timer = nil
	}
	again := p.deliverDue(u, end)
	close(u.delivering)
	u.delivering = nil
	if len(u.queue) > 0 {
		p.schedule(u, again)
		return
	}
	p.finish(u)
}

// deliverDue is deliverQueue for who is at the queue. It returns after which time there is something
// to be sent again. It needs the lock, and gives it up while a write is under way.
func (p *Writes) deliverDue(u *user, end time.Time) (again time.Duration) {
	flushed := !end.IsZero()
	paid := false // for the first, or for one that was there before it
	for together := 0; len(u.queue) > 0 && again == 0; {
		w := u.queue[0]
		timeout := deliveryTimeout
		if flushed {
			if timeout = min(timeout, time.Until(end)); timeout <= 0 {
				break
			}
		}
		if !paid {
			if again = p.charge(w, together > 0 || flushed); again > 0 {
				break
			}
			if paid = true; len(u.queue) == 0 || u.queue[0] != w {
				continue // meanwhile it was dropped, or another has taken its place
			}
		}
		paid = false
		if together == 0 {
			together = len(u.queue)
		}
		together--
		u.queue = u.queue[1:]
		if w.left(p) <= 0 {
			p.decide(w, Lost)
			continue
		}
		var fallen bool
		if again, fallen = p.conclude(u, w, p.send(u, w, timeout, flushed || w.source.ended), flushed); fallen {
			together++ // it goes in the place of the one that was charged for
		}
	}
	return again
}

// charge takes an event for a write from its user's budget, or returns how long
// there will be none, or the homeserver is spared, but no longer than until the write is too old: another configuration's
// deliveries may have led to a debt. For one that goes along with another it makes a debt. It gives the
// lock up meanwhile. If that panics, nothing is charged.
func (p *Writes) charge(w *Write, along bool) (wait time.Duration) {
	left, charged := w.left(p), w.attempts > 0 || w.early
	p.unlock()
	_ = flight.Guard(p.panicked, func() {
		if !along {
			wait = w.Sender.Hold(left)
		}
		if wait == 0 && !charged {
			wait = w.Sender.Charge(along)
		}
	})
	p.mu.Lock()
	if along {
		return 0
	}
	return min(wait, w.left(p))
}

// send sends a write, without the lock. If that panics, the homeserver hasn't wanted it.
func (p *Writes) send(u *user, w *Write, timeout time.Duration, last bool) (answer Answer) {
	u.sent = w
	p.unlock()
	err := flight.Guard(p.panicked, func() { answer = w.Sender.Send(w.Body.Text, timeout, last) })
	settled := p.clock.Now().Add(w.Sender.Settle())
	p.mu.Lock()
	u.sent = nil
	if err == nil {
		w.attempts++
	}
	if settled.After(u.settled) {
		u.settled = settled
	}
	return answer
}

// conclude decides what becomes of a write that was sent. It returns after which time the write is
// to be sent again, and whether that is the one that it falls back on, at once. It needs the lock.
func (p *Writes) conclude(u *user, w *Write, answer Answer, flushed bool) (again time.Duration, fallen bool) {
	switch answer.Reply {
	case Taken:
		p.decide(w, Delivered)
		return 0, false
	case Ended:
		p.decide(w, Dropped)
		return 0, false
	case TakenOver:
		w.attempts-- // it was none
		p.decide(w, Superseded)
		return 0, false
	case Late:
		p.decide(w, Lost)
		return 0, false
	case Early:
		w.attempts--
		w.early, again = true, answer.After
	}
	unwanted := answer.Reply == Refused
	if !unwanted && again == 0 && !w.source.ended && !flushed {
		again = max(min(lastRetry, firstRetry<<min(w.attempts-1, 10)), answer.After)
	}
	fallen = unwanted && w.fallBack()
	switch {
	case u.overtakes(w, unwanted && !fallen):
		p.decide(w, Superseded)
	case fallen:
		u.queue = slices.Insert(u.queue, 0, w)
		return 0, true
	case again > 0 && w.left(p) > again:
		u.queue = slices.Insert(u.queue, 0, w)
		return again, false
	default:
		p.decide(w, Lost)
	}
	return 0, false
}

// overtakes reports whether a newer write of the same device waits that can take the place
// of one that was sent in vain: any, if the homeserver doesn't want that. It needs the lock.
func (u *user) overtakes(w *Write, unwanted bool) bool {
	i := slices.IndexFunc(u.queue, func(other *Write) bool { return other.Device == w.Device })
	return i >= 0 && (unwanted || u.queue[i].takePlaceOf(w, u.queue[:i]))
}
