package pending

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/clock"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/flight"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// Writes are writes that were answered with 200 and wait for their user's budget, under
// over_limit coalesce: of each device the newest, if the homeserver surely takes it and it
// leaves there what all of them would. While a user has one, their presence
// counts as being written to: nothing about it is stored or served from memory.
//
// What the newest took the place of is still tried if the homeserver doesn't take the
// newest: by its configuration, or because something on the way there minds it.
//
// All writes of a user who has one wait behind it, so that none overtakes another:
//
//	1 write: over the limit, waits
//	2 delivery: of 1, the homeserver is slow
//	3 write: by then within the limit; sent at once it might come before 1
type Writes struct {
	clock    *clock.Clock
	begin    func(userID string) Fence
	panicked func(reason any)
	results  [Results]atomic.Uint64

	// sending has a place for each user whose queue is being delivered, but for those
	// of a flush.
	sending chan struct{}

	mu    sync.Mutex // guards all below, and what the queues hold
	users map[string]*user
	n     int     // writes in all queues, and those that are being delivered
	ended []ended // what no longer waits, to be told when the lock is free
}

// Fence is there as long as a user has writes waiting.
type Fence interface {
	// End tells that none waits any more. What was sent has settled after settle.
	End(now time.Time, settle time.Duration)
}

// Result is what became of a write that waited.
type Result int

const (
	Delivered  Result = iota // the homeserver took it
	Superseded               // the same device has written something else before it was tried
	Overtaken                // likewise, when it had been tried in vain
	Dropped                  // its token has ended
	Lost                     // the homeserver didn't take it
	Results
)

const (
	// maxDevices is how many writes of a user may wait: one of each of so many devices.
	maxDevices = 8

	// maxDeliveries is how many are sent at a time, so that a homeserver that is slow
	// isn't sent everything at once.
	maxDeliveries = 64
)

// user is a user who has writes waiting.
type user struct {
	userID string
	fence  Fence // as long as anything waits
	queue  []*Write
	timer  *time.Timer

	// delivering is there while somebody is at the queue, and closed when that is over.
	// Nobody else may take from it. Sent is what is under way.
	delivering chan struct{}
	sent       *Write

	// settled is when what was sent, taken or not, has settled.
	settled time.Time
}

// NewWrites returns none. A write is accepted and ages by the clock. The first of a user's begins
// a fence, and the last ends it; both hold the lock of the writes. It tells panicked of the panic
// of a Sender.
func NewWrites(c *clock.Clock, begin func(userID string) Fence, panicked func(reason any)) *Writes {
	return &Writes{
		clock: c, begin: begin, panicked: panicked,
		sending: make(chan struct{}, maxDeliveries), users: make(map[string]*user),
	}
}

// ended is a write that no longer waits.
type ended struct {
	sender Sender
	became Result
}

// unlock gives the lock back, and tells the senders of what has ended meanwhile.
func (p *Writes) unlock() {
	all := p.ended
	p.ended = nil
	p.mu.Unlock()
	for _, e := range all {
		_ = flight.Guard(p.panicked, func() { e.sender.Ended(e.became) })
	}
}

// Waits reports whether the user has writes waiting or being delivered, and how many
// there are in the queue.
func (p *Writes) Waits(userID string) (queued int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.users[userID]
	if u == nil {
		return 0, false
	}
	return len(u.queue), true
}

// Len returns how many writes wait or are being delivered.
func (p *Writes) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n
}

// Oldest returns for how long that write has waited, or has been on its way, that did so the longest, or 0 if
// there is none.
func (p *Writes) Oldest() (waited time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, u := range p.users {
		for _, w := range u.queue {
			waited = max(waited, p.clock.Since(w.Accepted))
		}
		if u.sent != nil {
			waited = max(waited, p.clock.Since(u.sent.Accepted))
		}
	}
	return waited
}

// Count returns of how many writes that became.
func (p *Writes) Count(became Result) uint64 { return p.results[became].Load() }

// DropToken drops what waits of a credential that is no longer good. If it is known whose that
// was, what its token writes for this user is dropped too. An appservice's other users are none of
// its business: their writes are delivered, or refused for themselves.
func (p *Writes) DropToken(c matrix.Credential, userID string) {
	p.drop(Dropped, func(w *Write) bool {
		own := w.Credential
		return own.Token == c.Token && (own.UserID == c.UserID && own.DeviceID == c.DeviceID || userID != "" && w.UserID == userID)
	})
}

// SupersedeDevice drops what waits of a user's device, which has written something else, or of all
// of the user's devices.
func (p *Writes) SupersedeDevice(userID string, device [16]byte, all bool) {
	if _, waits := p.Waits(userID); waits {
		p.drop(Superseded, func(w *Write) bool { return w.UserID == userID && (w.Device == device || all) })
	}
}

// drop drops the writes that match. What is on its way can't be.
func (p *Writes) drop(result Result, match func(*Write) bool) {
	p.mu.Lock()
	defer p.unlock()
	for _, u := range p.users {
		u.queue = slices.DeleteFunc(u.queue, func(w *Write) bool {
			if !match(w) {
				return false
			}
			p.decide(w, result)
			return true
		})
		if len(u.queue) == 0 && u.delivering == nil {
			u.timer.Stop()
			p.finish(u)
		}
	}
}

// decide counts what became of a write that waited. It needs the lock.
//
// One that was refused is lost, whatever became of the one that was sent then: that
// has been counted, when this one took its place.
func (p *Writes) decide(w *Write, result Result) {
	switch {
	case w.refused && result != Dropped:
		result = Lost
	case result == Superseded && w.attempts > 0:
		result = Overtaken
	}
	p.n--
	p.results[result].Add(1)
	p.ended = append(p.ended, ended{w.Sender, result})
}

// finish is called when nothing of a user's waits any more. It needs the lock.
func (p *Writes) finish(u *user) {
	delete(p.users, u.userID)
	now := p.clock.Now()
	u.fence.End(now, max(0, u.settled.Sub(now)))
}
