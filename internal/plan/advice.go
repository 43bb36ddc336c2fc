package plan

import (
	"fmt"
	"math"
)

// advice is what to change in a configuration, by the load: tables that are smaller than what is used at
// a time make the homeserver be asked again for what was known.
func (q *Question) advice(a *Answer) (list []string) {
	s, l := q.Settings.Sizes, &q.Load
	say := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	nodes := float64(q.Nodes)
	tokens := (float64(l.Users)*l.Online*l.Devices + float64(l.Ghosts())) / nodes
	// Who was online within twice what is remembered of a token.
	tokens *= 1 + 2*q.Settings.Lifetimes.Identity.Seconds()/l.Session.seconds()
	if tokens > float64(s.Tokens) {
		say("identity { tokens %d } at least: as many devices are in use at a time, on each node", roundUp(tokens))
	}
	ttl := q.Settings.Rules.TTL.Seconds()
	asked := a.Upstream[ReasonNames[ForFetch]].High + a.Upstream[ReasonNames[ForFirstRead]].High
	if pairs := asked * ttl / nodes; pairs > float64(s.Permissions) {
		say("cache { permissions %d } at least: so many are given within the ttl, on each node", roundUp(pairs))
	}
	if seen := min(asked*ttl/nodes, float64(l.Users+l.Ghosts())); seen > float64(s.States) {
		say("cache { states %d } at least: so many are read within the ttl, on each node", roundUp(seen))
	}
	if a.Overflowed.High > 0 {
		say("identity { tokens } larger: budgets of users overflow")
	}
	return list
}

// roundUp rounds up to two digits that count.
func roundUp(x float64) int {
	unit := math.Pow(10, math.Floor(math.Log10(x))-1)
	return int(math.Ceil(x/unit) * unit)
}
