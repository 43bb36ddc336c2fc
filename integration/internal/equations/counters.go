package equations

import (
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
)

// Counters are those of the module, summed up over the memories, by name and labels:
// "outcomes_total{outcome=hit,route=read}".
type Counters map[string]int

// ours begins the names of the module's metrics.
const ours = "caddy_matrix_presence_"

// Read takes the module's counters out of all of Caddy's metrics.
func Read(families []*dto.MetricFamily) Counters {
	c := make(Counters)
	for _, family := range families {
		name, isOurs := strings.CutPrefix(family.GetName(), ours)
		if !isOurs || family.GetType() != dto.MetricType_COUNTER {
			continue
		}
		for _, m := range family.GetMetric() {
			c[name+labels(m)] += int(m.GetCounter().GetValue())
		}
	}
	return c
}

// labels are those of a metric but for the name of its memory, or "" if there are none.
func labels(m *dto.Metric) string {
	var all []string
	for _, label := range m.GetLabel() {
		if label.GetName() != "cache" {
			all = append(all, label.GetName()+"="+label.GetValue())
		}
	}
	if len(all) == 0 {
		return ""
	}
	slices.Sort(all)
	return "{" + strings.Join(all, ",") + "}"
}

// Sum adds up the counters of a name, by the values of their only label.
func (c Counters) Sum(name, label string, values ...string) (n int) {
	for _, value := range values {
		n += c[name+"{"+label+"="+value+"}"]
	}
	return n
}

// Outcomes is how many requests of a route had one of the outcomes.
func (c Counters) Outcomes(route string, outcomes ...string) (n int) {
	for _, outcome := range outcomes {
		n += c["outcomes_total{outcome="+outcome+",route="+route+"}"]
	}
	return n
}

func (c Counters) requests(route string) int { return c.Sum("requests_total", "route", route) }

func (c Counters) upstream(reasons ...string) int {
	return c.Sum("upstream_requests_total", "reason", reasons...)
}

func (c Counters) deliveries(results ...string) int {
	return c.Sum("deliveries_total", "result", results...)
}

func (c Counters) lookups(results ...string) int { return c.Sum("lookups_total", "result", results...) }

func (c Counters) syncs(results ...string) int {
	return c.Sum("sync_writes_total", "result", results...)
}

// routes are the module's words for what a request is.
var routes = []string{"read", "write", "preflight", "sync"}

// words are what the access log says of an outcome, in the variables cache and decision.
// A fetch that was made for a reader and one that was made for another are the same there.
var words = []struct {
	outcomes        []string
	cache, decision string
}{
	{[]string{"hit"}, "hit", "answered"},
	{[]string{"stale", "older"}, "stale", "answered"},
	{[]string{"miss", "collapsed"}, "miss", "forwarded"},
	{[]string{"bypass"}, "bypass", "forwarded"},
	{[]string{"forwarded"}, "", "forwarded"},
	{[]string{"stripped_unchanged"}, "", "stripped_unchanged"},
	{[]string{"stripped_limited"}, "", "stripped_limited"},
	{[]string{"absorbed"}, "", "absorbed"},
	{[]string{"coalesced"}, "", "coalesced"},
	{[]string{"rejected"}, "", "rejected"},
	{[]string{"refused"}, "", "refused"},
	{[]string{"limited"}, "", "limited"},
	{[]string{"shed"}, "", "shed"},
	{[]string{"invalid"}, "", "invalid"},
	{[]string{"failed"}, "", "failed"},
	{[]string{"canceled"}, "", "canceled"},
}

// saving are the outcomes for which the homeserver is not asked.
var saving = []string{"hit", "older", "collapsed", "absorbed", "limited", "shed", "refused", "rejected", "invalid"}

// Counters adds what the counters promise in their Help about each other. It holds once
// nothing is under way and no write waits.
func (l *List) Counters(c Counters) {
	saved := 0
	for _, route := range routes {
		all := 0
		for _, w := range words {
			all += c.Outcomes(route, w.outcomes...)
		}
		l.Equal(all, c.requests(route), "outcomes_total of %s, requests_total", route)
		saved += c.Outcomes(route, saving...)
	}
	l.Equal(c["saved_total"], saved+c.deliveries("superseded"), "saved_total, outcomes_total of those and deliveries_total of superseded")

	l.Equal(c.upstream("whoami"), c.lookups("known", "rejected", "refused", "failed"), "upstream_requests_total of whoami, lookups_total that asked")
	l.Equal(c.upstream("bypass"), c.Outcomes("read", "bypass"), "upstream_requests_total of bypass, outcomes_total of bypass")
	l.Equal(c.upstream("write"), c.Outcomes("write", "forwarded"), "upstream_requests_total of write, outcomes_total of forwarded")
	l.Equal(c.upstream("preflight"), c.Outcomes("preflight", "forwarded"), "upstream_requests_total of preflight, outcomes_total of forwarded")
	miss := c.Outcomes("read", "miss")
	// What a fetch found too large, its reader asks for anew. What a first read has brought may be for
	// nobody: an unknown token's reader, or one over their limit.
	l.Between(c.upstream("fetch", "first_read"), miss, miss+c.Outcomes("read", "stale", "failed", "canceled", "bypass")+c.upstream("first_read"),
		"upstream_requests_total of fetch and first_read, outcomes_total of miss and of those that may have asked")
	l.Between(c.lookups("by_read"), 0, c.upstream("first_read"), "lookups_total of by_read, upstream_requests_total of first_read")
	l.Equal(c.deliveries("delivered", "superseded", "overtaken", "dropped", "lost"), c.Outcomes("write", "coalesced"), "deliveries_total, outcomes_total of coalesced")
	l.Between(c.deliveries("delivered"), 0, c.upstream("delivery"), "deliveries_total of delivered, upstream_requests_total of delivery")

	syncs := c.requests("sync")
	l.Equal(c.upstream("sync"), syncs, "upstream_requests_total of sync, requests_total")
	l.Equal(c.syncs("changed", "repeated", "unknown", "none", "unchanged", "stripped", "limited", "outranked"), syncs, "sync_writes_total, requests_total")
	l.Equal(c.syncs("unchanged", "stripped"), c.Outcomes("sync", "stripped_unchanged"), "sync_writes_total of unchanged and stripped, outcomes_total of stripped_unchanged")
	l.Equal(c.syncs("limited", "outranked"), c.Outcomes("sync", "stripped_limited"), "sync_writes_total of limited and outranked, outcomes_total of stripped_limited")
}

// Log adds what the counters promise about the access log: logged is how many of its lines
// are about a route and have these words in the module's variables.
func (l *List) Log(c Counters, logged func(route, cache, decision string) int, lines func(route string) int) {
	for _, route := range routes {
		l.Equal(c.requests(route), lines(route), "requests_total of %s, requests in the log", route)
		for _, w := range words {
			l.Equal(c.Outcomes(route, w.outcomes...), logged(route, w.cache, w.decision),
				"outcomes_total of %s %s, in the log", route, strings.Join(w.outcomes, " and "))
		}
	}
}

// Answered is what the homeserver has answered.
type Answered struct{ Reads, Writes, WhoAmI int }

// Homeserver adds what the counters promise about the homeserver. It may be away, so it has
// answered no more than it was sent.
func (l *List) Homeserver(c Counters, a Answered) {
	l.Equal(c.lookups("known", "rejected", "refused"), a.WhoAmI, "lookups_total of known, rejected and refused, questions that the homeserver answered")
	l.Between(a.Writes, 0, c.upstream("write", "delivery"), "writes that the homeserver answered, upstream_requests_total of write and delivery")
	l.Between(a.Reads, 0, c.upstream("fetch", "first_read", "bypass", "retry"), "reads that the homeserver answered, upstream_requests_total of fetch, first_read, bypass and retry")
}
