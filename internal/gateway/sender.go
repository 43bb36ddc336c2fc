package gateway

import (
	"net/http/httptrace"
	"runtime"
	"sync"
	"sync/atomic"
)

// sender is who has sent a request that ends its sender's sessions, while the homeserver
// is asked who that is.
type sender struct {
	tenant
	again whoAmI // to be asked once the request has succeeded

	mu        sync.Mutex // guards all below
	answered  bool
	who       owner
	succeeded bool
}

// ask asks whose the request is, and lets the question leave first if it can at once: when
// the homeserver has done what the request asks for, it may no longer know the token. What
// is waited for is that another goroutine begins and gets the processor for a while, never
// the homeserver, nor a place in line.
func (s *sender) ask(question whoAmI) {
	var left atomic.Bool
	trace := &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { left.Store(true) }}
	question.request.client = httptrace.WithClientTrace(question.request.client, trace)
	begins, ok := question.askInBackground(s.store.learning, func(who owner) {
		left.Store(true)
		s.learn(who)
	})
	if !ok {
		s.learn(owner{wait: crowdedWait})
		return
	}
	<-begins
	for turn := 0; turn < maxTurns && !left.Load(); turn++ {
		runtime.Gosched()
	}
}

// maxTurns is how often other goroutines are let go first, which takes microseconds if
// there are none.
const maxTurns = 100

// learn is called with the homeserver's answer.
func (s *sender) learn(who owner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answered, s.who = true, who
	if s.succeeded {
		s.end()
	}
}

// succeed is called when the request has succeeded.
func (s *sender) succeed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.succeeded = true; s.answered {
		s.end()
	}
}

// end forgets the sender, and asks once more if there was no answer: because the address
// has shown too many unknown tokens, too many were being asked about, or the homeserver
// was too slow. It needs the lock.
func (s *sender) end() {
	revoke := func(who owner) {
		if who.userID != "" {
			s.revokeUser(who.userID)
		}
	}
	if s.who.wait > 0 || s.who.err != nil {
		s.again.askInBackground(s.store.confirming, revoke)
		return
	}
	revoke(s.who)
}
