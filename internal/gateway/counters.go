package gateway

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/devices"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/pending"
)

// counters are what a store has counted since it is there. They outlive a reload as it
// does.
type counters struct {
	requests [routeCount]atomic.Uint64
	outcomes [routeCount][outcomeCount]atomic.Uint64
	observed [routeCount][outcomeCount]atomic.Uint64
	upstream [reasonCount]atomic.Uint64
	lookups  [lookupCount]atomic.Uint64

	syncWrites [devices.SyncVerdicts]atomic.Uint64
	learned    [learnedCount]atomic.Uint64
	byRoom     atomic.Uint64 // reads that were answered from memory because of a room

	latency [reasonCount]Observer // of all but sync, which waits for news
}

// route is what a presence request asks for.
type route int

const (
	routeRead route = iota
	routeWrite
	routePreflight // if they are answered here
	routeSync      // if it is looked at
	routeCount
)

var routeNames = [routeCount]string{"read", "write", "preflight", "sync"}

func routeOf(r *http.Request) route {
	switch r.Method {
	case http.MethodPut:
		return routeWrite
	case http.MethodOptions:
		return routePreflight
	}
	return routeRead
}

// reason is why the homeserver was asked.
type reason int

const (
	reasonFetch     reason = iota // a read of ours, whose answer may be kept and shared
	reasonBypass                  // a client's read, as it came
	reasonWrite                   // a client's write
	reasonDelivery                // a write that has waited
	reasonPreflight               // a client's preflight, whose answer may be kept and shared
	reasonSync                    // a client's sync that was looked at
	reasonWhoAmI                  // whose token it is
	reasonVersion                 // which homeserver it is
	reasonFirstRead               // a read of ours like a fetch, which tells whose its token is
	reasonRetry                   // a fetch or whoami that failed or hangs, without the client's fields
	reasonCount
)

var ReasonNames = [reasonCount]string{"fetch", "bypass", "write", "delivery", "preflight", "sync", "whoami", "version", "first_read", "retry"}

// lookup is what became of a question whose token it is.
type lookup int

const (
	lookupKnown    lookup = iota // the homeserver named a user
	lookupRejected               // it doesn't know the token
	lookupRefused                // it knows the token but not for this
	lookupFailed                 // it didn't tell
	lookupCrowded                // it wasn't asked: too many questions before this one
	lookupLimited                // it wasn't asked: too many unknown tokens from this client
	lookupShared                 // it wasn't asked: another question had brought the answer
	lookupByRead                 // it wasn't asked: its answer to the read itself has told
	lookupCount
)

var lookupNames = [lookupCount]string{"known", "rejected", "refused", "failed", "crowded", "limited", "shared", "by_read"}

// deliveryNames are what became of writes that were answered with 200 and had to wait.
var deliveryNames = [pending.Results]string{
	pending.Delivered: "delivered", pending.Superseded: "superseded", pending.Overtaken: "overtaken",
	pending.Dropped: "dropped", pending.Lost: "lost",
}

// learned is what an answer that passed by has taught.
type learned int

const (
	learnedList     learned = iota // who is joined to a room
	learnedPresence                // by a sync: that its user may see another
	learnedChange                  // likewise: that what was kept of the other is no longer true
	learnedIdentity                // whose a token is, or still is
	learnedCount
)

var learnedNames = [learnedCount]string{"list", "presence", "change", "identity"}

// departure is a request that is on its way to the homeserver.
type departure struct {
	counters *counters
	why      reason
	at       time.Time
}

// departs counts a request to the homeserver.
func (c *counters) departs(why reason) departure {
	c.upstream[why].Add(1)
	return departure{c, why, time.Now()}
}

// arrives is to be called when the answer begins, or there won't be any.
func (d departure) arrives() { d.counters.latency[d.why].Observe(time.Since(d.at).Seconds()) }

// forward passes a client's request on. It calls then with the status of the answer
// before that goes out.
func (g *Gateway) forward(w http.ResponseWriter, r *http.Request, next Next, why reason, then func(status int)) error {
	departure, arrived := g.store.counters.departs(why), false
	defer func() {
		if !arrived {
			departure.arrives()
		}
	}()
	return g.sendOn(onStatus(w, func(status int) {
		arrived = true
		departure.arrives()
		then(status)
	}), r, next)
}

// Observer is told of a time in seconds.
type Observer interface{ Observe(seconds float64) }

// newCounters returns counters that tell latency how long the homeserver takes, by the reason
// of a request.
func newCounters(latency func(reason string) Observer) *counters {
	c := new(counters)
	for reason, word := range ReasonNames {
		if reason != int(reasonSync) {
			c.latency[reason] = latency(word)
		}
	}
	return c
}
