package gateway

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// outage tells a client whose questions fail from a homeserver that answers nobody. A
// failure is charged to its client when the next answer to anybody shows that the
// homeserver is there, so each answer has one failure charged at most: all that failed
// while there was none are the homeserver's. And only if no other client's question
// failed within the last few answers: a homeserver that answers now and then is nobody's
// doing.
type outage struct {
	mu      sync.Mutex // guards all below
	client  client     // whose question failed last
	at      time.Time  // when it did; zero if that is settled
	answers int        // since another client's failed
}

// aloneFor is how many answers there must have been since another client's question failed.
const aloneFor = 4

// fails notes that a client's question failed.
func (o *outage) fails(from client, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.client.name != from.name {
		o.answers = 0
	}
	o.client, o.at = from, now
}

// answered notes that the homeserver has answered a request of ours that was sent then.
func (m *Store) answered(sent time.Time) {
	o := &m.outage
	o.mu.Lock()
	defer o.mu.Unlock()
	o.answers = min(o.answers+1, aloneFor)
	if o.at.IsZero() || sent.Before(o.at) {
		return
	}
	if o.answers == aloneFor {
		m.chargeRejected(o.client, o.at)
	}
	o.at = time.Time{}
}

// goodHost is the host to which a request of ours was last answered as it should be. A site
// without a host of its own takes any, and what stands before the homeserver may drop those
// that it doesn't know.
type goodHost struct{ last atomic.Pointer[string] }

// known returns it, or the one that a client names if there is none yet.
func (g *goodHost) known(client string) string {
	if last := g.last.Load(); last != nil {
		return *last
	}
	return client
}

// note notes that a host is good.
func (g *goodHost) note(host string) {
	if g.known("") != host {
		last := strings.Clone(host)
		g.last.Store(&last)
	}
}
