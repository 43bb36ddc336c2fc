package gateway

import (
	"net/http"
	"sync/atomic"
)

// varInHand is not for logs. It is the [inHand] of a request.
const varInHand = "matrix_presence.in_hand"

// inHand says that a gateway of a store has a request in hand, so that no other gateway of the
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
type inHand struct {
	store *Store
	over  atomic.Bool
}

// isInHand reports whether another gateway of the store has a request in hand.
func (g *Gateway) isInHand(r *http.Request) bool {
	j, ok := g.server.Var(r, varInHand).(*inHand)
	return ok && j.store == g.store && !j.over.Load()
}

// sendOn passes on a request that has been judged.
func (g *Gateway) sendOn(w http.ResponseWriter, r *http.Request, next Next) error {
	if g.cfg.Observe {
		return next.ServeHTTP(w, r)
	}
	j := &inHand{store: g.store}
	g.server.SetVar(r, varInHand, j)
	defer j.over.Store(true)
	return next.ServeHTTP(w, r)
}
