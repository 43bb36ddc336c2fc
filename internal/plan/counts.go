package plan

// Outcome is how a request was answered, by the words of the metric outcomes_total.
type Outcome int

const (
	Hit       Outcome = iota // from memory
	Collapsed                // by a request that was made for another
	Miss                     // by a request of ours
	Forwarded                // passed on
	Stripped                 // a sync that was passed on without its presence
	Absorbed                 // 200: a write that changes nothing
	Coalesced                // 200: a write that waits
	Limited                  // 429
	Rejected                 // 401: an unknown token
	Outcomes
)

// OutcomeNames are the words for them.
var OutcomeNames = [Outcomes]string{"hit", "collapsed", "miss", "forwarded", "stripped", "absorbed", "coalesced", "limited", "rejected"}

// Reason is why the homeserver was asked, by the words of the metric upstream_requests_total.
type Reason int

const (
	ForFetch Reason = iota
	ForFirstRead
	ForWrite
	ForDelivery
	ForPreflight
	ForSync
	ForWhoAmI
	ForList
	ForVersion
	Reasons
)

// ReasonNames are the words for them.
var ReasonNames = [Reasons]string{"fetch", "first_read", "write", "delivery", "preflight", "sync", "whoami", "list", "version"}

// Work is a request by what it costs the homeserver.
type Work int

const (
	ServeRead       Work = iota // of a presence, answered 200, 403 or 404
	ApplyChange                 // a write that changes a presence
	ApplyRepeat                 // a write that changes nothing
	SyncChange                  // what a sync costs more than one without presence, if it changes a presence
	SyncRepeat                  // likewise, if it changes nothing
	AnswerPreflight             // OPTIONS
	TellOwner                   // whoami
	RejectToken                 // of a token that it doesn't know
	ListMembers                 // of a room; no presence
	Works
)

// Counts are what happened.
type Counts struct {
	// Clients are the requests of clients, and Outcomes what became of them.
	Clients  [Kinds]int64
	Outcomes [Kinds][Outcomes]int64

	// Upstream are those that reached the homeserver through the module.
	Upstream [Reasons]int64

	// With and Without are what the homeserver had to do, with the module and without it.
	With, Without [Works]int64

	Evicted, Overflowed int64 // by all tables
}

// Since returns what was counted after before was taken.
func (c Counts) Since(before Counts) Counts { return c.plus(before, -1) }

func (c *Counts) add(o Counts) { *c = c.plus(o, 1) }

func (c Counts) plus(o Counts, sign int64) Counts {
	for k := range Kinds {
		c.Clients[k] += sign * o.Clients[k]
		for i := range Outcomes {
			c.Outcomes[k][i] += sign * o.Outcomes[k][i]
		}
	}
	for r := range Reasons {
		c.Upstream[r] += sign * o.Upstream[r]
	}
	for w := range Works {
		c.With[w] += sign * o.With[w]
		c.Without[w] += sign * o.Without[w]
	}
	c.Evicted += sign * o.Evicted
	c.Overflowed += sign * o.Overflowed
	return c
}

// Requests is how many clients sent.
func (c Counts) Requests() (n int64) {
	for _, of := range c.Clients {
		n += of
	}
	return n
}

// ToHomeserver is how many requests reached the homeserver through the module.
func (c Counts) ToHomeserver() (n int64) {
	for _, of := range c.Upstream {
		n += of
	}
	return n
}

// HitRatio is the share of reads for which the homeserver was not asked, as docs/metrics.md has it:
// by memory or by another's request. Without reads it is 0.
func (c Counts) HitRatio() float64 {
	if c.Clients[Read] == 0 {
		return 0
	}
	return float64(c.Outcomes[Read][Hit]+c.Outcomes[Read][Collapsed]) / float64(c.Clients[Read])
}
