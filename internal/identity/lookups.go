package identity

import (
	"errors"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/flight"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// Lookups are the whoami requests that are under way. One is sent for each credential, and all who
// ask about that share its answer A. O is where a question comes from, as far as the way to the
// homeserver may depend on it.
type Lookups[O comparable, A Answer] struct {
	table *Table
	now   func() time.Time
	calls *flight.Group[tokenKey, result[O, A]]
}

// Answer is what a question has brought. It is immutable.
type Answer interface{ Facts() Facts }

// Facts are what there is to know of an answer for those who share it.
type Facts struct {
	UserID string    // on whose behalf the credential acts, or "" if the answer doesn't tell
	Asked  time.Time // of a user, when the homeserver was asked
	AsOf   Revision  // of a user, what had been revoked by then

	Shared bool // it is about the credential, and not about the client that asked with it
	Alone  bool // it is about that client, and another is to ask for itself
}

// result is an answer, and if it isn't shared, the questions of those who have waited for it. The
// credential is the same, the client need not be, so one of each origin asks again: what fails
// there has nothing to do with what else a client sends.
type result[O comparable, A Answer] struct {
	answer  A
	retries *flight.Once[O, result[O, A]]
}

// Question is about one credential.
type Question[O comparable, A Answer] struct {
	Credential matrix.Credential
	Origin     O
	Timeout    time.Duration // for the answer
	Lifetime   time.Duration // of a user
	// Ask asks the homeserver, which has until the deadline. What is learned goes into the
	// inquiry's table.
	Ask func(under Inquiry, deadline time.Time) A
}

var (
	// ErrCrowded says that too many questions are under way.
	ErrCrowded = errors.New("too many access tokens are being looked up")

	// ErrLeft says that the client has left.
	ErrLeft = errors.New("the client left while the homeserver was asked whose access token it is")

	// ErrOutlived says that an answer was no longer good when it came. The homeserver is
	// slow then, not down, so nothing stale may stand in for it.
	ErrOutlived = errors.New("the homeserver took longer to tell whose access token it is than that is good for")
)

// NewLookups returns none. Times are told by now. It tells panicked of a panic in a question, of
// which the answer is then what crashed returns.
func NewLookups[O comparable, A Answer](t *Table, now func() time.Time, panicked func(reason any), crashed func(err error) A) *Lookups[O, A] {
	return &Lookups[O, A]{t, now, flight.NewGroup[tokenKey](panicked, func(err error) result[O, A] {
		return result[O, A]{answer: crashed(err)}
	})}
}

// Ask asks a question, or waits for another's answer to the same until gone. Another's answer is
// good only if nothing has been revoked since.
func (l *Lookups[O, A]) Ask(q Question[O, A], gone <-chan struct{}) (answer A, err error) {
	end, came := time.Now().Add(q.Timeout), l.now()
	under := l.table.Begin(q.Credential)
	defer under.End()
	var retries *flight.Once[O, result[O, A]]
	for {
		call, run := l.join(q, under, end, retries)
		switch {
		case call == nil:
			return answer, ErrCrowded
		case run != nil:
			run()
			return call.Result().answer, nil
		}
		select {
		case <-call.Done():
		case <-gone:
			return answer, ErrLeft
		}
		shared := call.Result()
		switch facts := shared.answer.Facts(); {
		case !facts.Shared && retries == nil && time.Now().Before(end):
			retries = shared.retries
		case facts.Alone && time.Now().Before(end):
			return l.alone(q, under, end).answer, nil
		case facts.UserID == "":
			return shared.answer, nil
		case !under.Holds(facts.UserID, facts.AsOf):
			// It was true when another asked, and something has been revoked since.
			retries = nil
		case under.hasSettled(facts.UserID, facts.Asked, came):
			retries = nil
		case l.now().Sub(facts.Asked) < q.Lifetime:
			return shared.answer, nil
		default:
			// It was true when another asked, but is not good for so long.
			return answer, ErrOutlived
		}
	}
}

// join returns the call that a question shares, which is the caller's to begin if run isn't nil. With
// retries it is one of those.
func (l *Lookups[O, A]) join(q Question[O, A], under Inquiry, end time.Time, retries *flight.Once[O, result[O, A]]) (call *flight.Call[result[O, A]], run func()) {
	if retries != nil {
		return retries.Join(q.Origin, func() result[O, A] { return l.alone(q, under, end) })
	}
	call, _, run = l.calls.Join(l.table.Fingerprint(q.Credential), true, func() result[O, A] {
		return ask(q, under, time.Now().Add(q.Timeout))
	})
	return call, run
}

// alone asks for a caller who shares that with nobody else.
func (l *Lookups[O, A]) alone(q Question[O, A], under Inquiry, end time.Time) result[O, A] {
	return l.calls.Alone(func() result[O, A] { return ask(q, under, end) })
}

func ask[O comparable, A Answer](q Question[O, A], under Inquiry, deadline time.Time) result[O, A] {
	r := result[O, A]{answer: q.Ask(under, deadline)}
	if !r.answer.Facts().Shared {
		r.retries = new(flight.Once[O, result[O, A]])
	}
	return r
}
