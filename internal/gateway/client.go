package gateway

import (
	"net/http"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// client is where a request comes from, and the budgets of unknown tokens that are
// its own and its network's.
type client struct {
	name    string // equal for requests of one client
	many    bool   // it may be many clients, whom nothing tells apart
	budgets []budget
	charged bool // for the token that it shows now
}

// budget is what is left of limit for a name in the limiter of rejected tokens.
type budget struct {
	name  string
	limit policy.Limit
}

// networkShare is how many clients' budgets a network has.
const networkShare = 8

// earlyName is the name of all clients in early data together. It is no address.
const earlyName = "early data"

// newClient returns the client of a request, which has no budgets if limit is nil or
// its address tells it from no other.
func (g *Gateway) newClient(r *http.Request, limit *policy.Limit) client {
	if isEarly(r) {
		return client{name: earlyName} // its address may be anybody's
	}
	block, ok := policy.ParseClientBlock(g.server.ClientIP(r))
	if !ok {
		// A proxy, before whom we can't tell who is who: nobody has to wait for
		// another more than all do. All of them may have one connection, or a socket
		// that gives none of its connections a name.
		return client{name: r.RemoteAddr, many: true}
	}
	from := client{name: block.Block.String()}
	if limit == nil {
		return from
	}
	from.budgets = append(from.budgets, budget{from.name, *limit})
	if block.Network.IsValid() {
		from.budgets = append(from.budgets, budget{block.Network.String(), limit.Times(networkShare)})
	}
	return from
}

// retryFactor scales a client's budget for checking tokens again that the homeserver didn't know,
// relative to its budget for new ones.
const retryFactor = 8

// retrying returns the client with its budgets of questions about tokens that the homeserver
// didn't know when it was asked before. They are others, so that whoever tries again and
// again with a token that has ended keeps nobody behind the same address from being known.
// But nobody can collect tokens until the homeserver is asked about many in a rejected_ttl.
func (c client) retrying() client { return c.other("again ") }

// vouched returns the client with its budgets of questions about tokens by which a request
// has succeeded. The homeserver knows them, unless something else has answered.
func (c client) vouched() client { return c.other("vouched ") }

// other returns the client with budgets of another kind, larger by retryFactor.
func (c client) other(kind string) client {
	other := client{name: c.name, many: c.many}
	for _, b := range c.budgets {
		other.budgets = append(other.budgets, budget{kind + b.name, b.limit.Times(retryFactor)})
	}
	return other
}

// asker returns who asks about a credential. About a token that the homeserver has known
// it is the token itself, whatever else the client's address has done: it stands in a line
// of its own, and has a budget of its own for what turns out to be unknown, such as users
// of an appservice.
func (m *Store) asker(c matrix.Credential, from client) client {
	if !m.identities.IsKnown(c) {
		return from
	}
	fingerprint := m.identities.Fingerprint(matrix.Credential{Token: c.Token})
	own := client{name: "token " + string(fingerprint[:])}
	if len(from.budgets) > 0 {
		own.budgets = []budget{{own.name, from.budgets[0].limit.Times(retryFactor)}}
	}
	return own
}

// rejectedWait returns how long a client has to wait until one of its tokens may be
// asked about, or 0.
func (m *Store) rejectedWait(from client, now time.Time) (wait time.Duration) {
	for _, b := range from.budgets {
		wait = max(wait, m.rejected.Wait(b.name, b.limit, now))
	}
	return wait
}

// chargeRejected charges a client for a token that the homeserver doesn't know, or didn't.
func (m *Store) chargeRejected(from client, now time.Time) {
	for _, b := range from.budgets {
		m.rejected.Charge(b.name, b.limit, now)
	}
}
