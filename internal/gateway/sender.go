package gateway

import (
	"net/http"
	"net/http/httptrace"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// sender is who has sent a request that ends something of its sender's, while the homeserver
// is asked who that is.
type sender struct {
	tenant
	again whoAmI              // to be asked once the request has succeeded
	ends  func(userID string) // what the request ends

	mu        sync.Mutex // guards all below
	answered  bool
	who       owner
	ended     bool // it has ended, or may have
	succeeded bool
}

// newSender returns the sender of a request with a credential.
func (g *Gateway) newSender(r *http.Request, next Next, c matrix.Credential, ends func(userID string)) *sender {
	s := &sender{tenant: g.tenant, again: g.newWhoAmI(r, next, c, g.cfg.RejectedLimit), ends: ends}
	s.again.from = s.again.from.vouched()
	return s
}

// askMeanwhile asks whose the request is, while that is served. What has been refused isn't asked about.
func (s *sender) askMeanwhile(question whoAmI) {
	if !s.isRefused(question.credential, s.store.now()) {
		if _, ok := question.askInBackground(s.store.learning, s.learn); ok {
			return
		}
	}
	s.learn(owner{wait: crowdedWait})
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
	if s.ended {
		s.end()
	}
}

// may is called when the request has succeeded, or may have.
func (s *sender) may(succeeded bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended, s.succeeded = true, s.succeeded || succeeded; s.answered {
		s.end()
	}
}

// end ends what is the sender's. It asks once more if there was no answer, because the address
// has shown too many unknown tokens, too many were being asked about, or the homeserver
// was too slow; but only about a token that the homeserver has taken. It needs the lock.
func (s *sender) end() {
	end := func(who owner) {
		if who.userID != "" {
			s.ends(who.userID)
		}
	}
	if s.who.wait > 0 || s.who.err != nil {
		if s.succeeded {
			s.again.askInBackground(s.store.confirming, end)
		}
		return
	}
	end(s.who)
}
