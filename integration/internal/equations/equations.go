// Package equations is what the module's counters promise about each other, for the soak and for
// the world. The unit tests of the plugin, which can't import it, have the same in
// TestCountersAgreeAfterRandomTraffic.
package equations

import "fmt"

// Counters are the module's own, by name and labels in alphabetical order, without the prefix and
// without the memory's: "outcomes_total{outcome=hit,route=read}".
type Counters map[string]int

// Sum adds up those of a name whose one label has one of some values.
func (c Counters) Sum(name, label string, values ...string) (n int) {
	for _, value := range values {
		n += c[name+"{"+label+"="+value+"}"]
	}
	return n
}

// Outcomes adds up the outcomes of a route.
func (c Counters) Outcomes(route string, outcomes ...string) (n int) {
	for _, outcome := range outcomes {
		n += c["outcomes_total{outcome="+outcome+",route="+route+"}"]
	}
	return n
}

// Equation is a count that must lie between two others. Mostly these are equal; they differ
// where nobody can know what became of a request, such as one whose client went away.
type Equation struct {
	What      string
	Low, High int
	Value     int
}

// Holds tells whether it does.
func (e Equation) Holds() bool { return e.Low <= e.Value && e.Value <= e.High }

// Bounds are what it must lie between, for people.
func (e Equation) Bounds() string {
	if e.Low == e.High {
		return fmt.Sprintf("= %d", e.Low)
	}
	return fmt.Sprintf("%d to %d", e.Low, e.High)
}

func (e Equation) String() string { return fmt.Sprintf("%s: %d %s", e.What, e.Value, e.Bounds()) }

// Routes are those of requests_total.
var Routes = []string{"read", "write", "preflight", "sync"}

// Outcomes are the words of outcomes_total, and Saving those for which the homeserver is not
// asked.
var (
	Outcomes = []string{
		"hit", "stale", "miss", "collapsed", "bypass", "forwarded", "quieted", "held", "absorbed", "coalesced",
		"rejected", "refused", "limited", "invalid", "failed", "canceled",
	}
	Saving = []string{"hit", "collapsed", "absorbed", "limited", "refused", "rejected", "invalid"}
)

// All are the equations that the Help of each counter promises about the others, when no request
// is under way. So many writes wait.
func (c Counters) All(pending int) (all []Equation) {
	between := func(value, low, high int, what string) { all = append(all, Equation{what, low, high, value}) }
	equal := func(value, want int, what string) { between(value, want, want, what) }

	saved := 0
	for _, route := range Routes {
		equal(c.Outcomes(route, Outcomes...), c.Sum("requests_total", "route", route), "outcomes_total of "+route+", requests_total")
		saved += c.Outcomes(route, Saving...)
	}
	deliveries := func(results ...string) int { return c.Sum("deliveries_total", "result", results...) }
	upstream := func(reason string) int { return c.Sum("upstream_requests_total", "reason", reason) }
	syncWrites := func(results ...string) int { return c.Sum("sync_writes_total", "result", results...) }
	equal(c["saved_total"], saved+deliveries("superseded"), "saved_total, outcomes_total of those and deliveries_total of superseded")
	equal(upstream("whoami"), c.Sum("lookups_total", "result", "known", "rejected", "refused", "failed"), "upstream_requests_total of whoami, lookups_total that asked")
	equal(upstream("bypass"), c.Outcomes("read", "bypass"), "upstream_requests_total of bypass, outcomes_total of bypass")
	equal(upstream("write"), c.Outcomes("write", "forwarded"), "upstream_requests_total of write, outcomes_total of forwarded")
	equal(upstream("preflight"), c.Outcomes("preflight", "forwarded"), "upstream_requests_total of preflight, outcomes_total of forwarded")
	equal(deliveries("delivered", "superseded", "overtaken", "dropped", "lost")+pending, c.Outcomes("write", "coalesced"), "deliveries_total and what waits, outcomes_total of coalesced")
	between(deliveries("delivered"), 0, upstream("delivery"), "deliveries_total of delivered, upstream_requests_total of delivery")
	syncs := c.Sum("requests_total", "route", "sync")
	equal(upstream("sync"), syncs, "upstream_requests_total of sync, requests_total")
	equal(syncWrites("changed", "repeated", "unknown", "none", "spared", "off", "limited", "damped"), syncs, "sync_writes_total, requests_total")
	equal(syncWrites("spared", "off"), c.Outcomes("sync", "quieted"), "sync_writes_total of spared and off, outcomes_total of quieted")
	equal(syncWrites("limited", "damped"), c.Outcomes("sync", "held"), "sync_writes_total of limited and damped, outcomes_total of held")
	miss := c.Outcomes("read", "miss")
	// What a fetch found too large, its reader asks for anew.
	between(upstream("fetch"), miss, miss+c.Outcomes("read", "stale", "failed", "canceled", "bypass"),
		"upstream_requests_total of fetch, outcomes_total of miss and of those that may have asked")
	return all
}
