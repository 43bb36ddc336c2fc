package pending

import (
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

const (
	// maxBytes is the size of the largest request that may wait, as far as the client
	// chose it, with the bodies that it falls back on, and of the head of the one that came: many
	// times what clients send.
	maxBytes = 16 << 10

	// maxFallbacks is how many bodies a write may fall back on: more than homeservers refuse in
	// a row of what they surely take.
	maxFallbacks = 4
)

// Write is one write, in the queue of its user in the order in which they came. It
// has the access token, as every request under way has, for no longer than max_age and a
// delivery take. Once it waits, it belongs to the [Writes].
type Write struct {
	UserID     string
	Device     [16]byte
	Credential matrix.Credential
	Body       matrix.WriteBody
	Accepted   time.Time // by the clock of the writes

	// Head is how many bytes its client has chosen of the head with which it is to be sent, Kept of
	// the request that came, which is kept as long.
	Head, Kept int

	Sender Sender

	// Apart says that others of the user may wait elsewhere, between this one and those here. Then it takes nothing
	// over of an older one: if it would have to, both are sent.
	Apart bool

	source   *Source
	attempts int
	early    bool // it was charged for when it was not its turn

	// fallbacks are bodies to be sent if the homeserver doesn't want this one, the newest
	// first. Refused tells that one was sent in vain. The lock of the writes guards both.
	fallbacks []fallback
	refused   bool
}

// Sender is what a write needs to be sent, also when its configuration has ended.
type Sender interface {
	// Charge takes an event for the write from its user's budget, or returns how long there will be
	// none. For one that goes along with another it makes a debt, and there is no wait.
	Charge(along bool) (wait time.Duration)

	// Hold returns how long the write has to wait in any case, to spare the homeserver, if it may yet
	// wait for so long.
	Hold(left time.Duration) (wait time.Duration)

	// Send sends the write with this body, for which the homeserver has so long. Last says that
	// there won't be another attempt.
	Send(body []byte, timeout time.Duration, last bool) Answer

	// Settle returns for how long reads may not show what was sent.
	Settle() time.Duration

	// Ended is called when the write waits no more, with what became of it.
	Ended(became Result)
}

// Answer is what a request has brought that sent a write.
type Answer struct {
	Reply Reply
	After time.Duration // of what may pass: it says not to try again sooner
}

// Reply says what an answer means.
type Reply int

const (
	Refused   Reply = iota // the homeserver doesn't want it
	Taken                  // it has taken it
	Failed                 // it didn't, in a way that may pass
	Ended                  // it says that the token has ended
	TakenOver              // nothing was sent: a newer one of the device that waits elsewhere has taken its place
	Late                   // nothing was sent, nor will be: a newer one was begun elsewhere without it, which it would undo
	Early                  // nothing was sent: an older one that waits elsewhere goes first
)

// fallback is what a write took the place of. It goes with that one's fields.
type fallback struct {
	body     matrix.WriteBody
	accepted time.Time
}

// takePlaceOf makes a write one that leaves at the homeserver what an older one of the same
// device and this one leave, with what waits between them, and falls back on the older one.
// It reports false if it can't, and has done nothing then. It needs the lock.
func (w *Write) takePlaceOf(older *Write, between []*Write) bool {
	bodies := make([]matrix.WriteBody, len(between))
	for i := range between {
		bodies[i] = between[i].Body
	}
	body, ok := w.Body.Supersede(older.Body, bodies)
	if !ok || w.Apart && len(body.Text) != len(w.Body.Text) {
		return false
	}
	var fallbacks []fallback
	if len(body.Text) != len(w.Body.Text) {
		// What it has taken over may be what the homeserver minds.
		without := w.Body
		if len(older.fallbacks) > 0 {
			without, _ = w.Body.Supersede(older.fallbacks[0].body, bodies)
		}
		fallbacks = append(fallbacks, fallback{without, w.Accepted})
	}
	for _, f := range w.fallbacks {
		if body, ok := f.body.Supersede(older.Body, bodies); ok {
			f.body = body
		}
		fallbacks = append(fallbacks, f)
	}
	kept := len(fallbacks) + 1 // so many at least, or both wait
	for _, f := range append([]fallback{{older.Body, older.Accepted}}, older.fallbacks...) {
		fallbacks = append(fallbacks, fallback{f.body.Fallback(bodies), f.accepted})
	}
	size := w.Head + len(body.Text)
	for i, f := range fallbacks {
		size += len(f.body.Text)
		if size <= maxBytes && i < maxFallbacks {
			continue
		}
		if i < kept {
			return false
		}
		fallbacks = fallbacks[:i]
		break
	}
	w.Body, w.fallbacks = body, fallbacks
	return true
}

// fallBack makes a write that the homeserver doesn't want the one that it took the place of,
// and reports whether there was one. It needs the lock.
func (w *Write) fallBack() bool {
	if len(w.fallbacks) == 0 {
		return false
	}
	w.Body, w.Accepted, w.fallbacks = w.fallbacks[0].body, w.fallbacks[0].accepted, w.fallbacks[1:]
	w.attempts, w.refused = 0, true
	return true
}

// fits tells that a write is none too large to wait.
func (w *Write) fits() bool { return max(w.Head+len(w.Body.Text), w.Kept) <= maxBytes }
