package gateway

import (
	"net/http"
	"sync/atomic"
)

// varJudge is not for logs. It is the [judgement] of a request.
const varJudge = "matrix_presence.judge"

// judgement says that a gateway of a store has a request in hand, so that no other gateway of the
// store judges it, or charges it, once more. It stays among the request's variables when that is
// over, and says so itself: nothing is written there once a request has been sent on. The
// variables are a map without a lock, and a reverse proxy may go on reading it after the answer:
//
//	1 request: is sent on; the reverse proxy begins to dial
//	2 another request: leaves its connection to this one, which is answered
//	3 we: write a variable
//	4 the dial: is done, and reads what the connection is for
//
// Go ends the process when it sees 3 and 4 at once.
type judgement struct {
	store *Store
	over  atomic.Bool
}

// isBeingJudged reports whether another gateway of the store has a request in hand.
func (g *Gateway) isBeingJudged(r *http.Request) bool {
	j, ok := g.server.Var(r, varJudge).(*judgement)
	return ok && j.store == g.store && !j.over.Load()
}

// sendOn passes on a request that has been judged.
func (g *Gateway) sendOn(w http.ResponseWriter, r *http.Request, next Next) error {
	if g.cfg.Observe {
		return next.ServeHTTP(w, r)
	}
	j := &judgement{store: g.store}
	g.server.SetVar(r, varJudge, j)
	defer j.over.Store(true)
	return next.ServeHTTP(w, r)
}

// verdict is the variable of a request in mode observe. It is there before the request is sent on,
// and empty until it has been judged.
type verdict struct{ name atomic.Pointer[string] }

// newVerdict returns the verdict on a request, which is one of its variables.
func (g *Gateway) newVerdict(r *http.Request) *verdict {
	v := new(verdict)
	g.server.SetVar(r, varObserved, v)
	return v
}

// String returns what an access log shows.
func (v *verdict) String() string {
	if name := v.name.Load(); name != nil {
		return *name
	}
	return ""
}
