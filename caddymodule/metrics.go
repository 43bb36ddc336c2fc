package caddymodule

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddyserver/caddy/v2"
)

const metricsPrefix = "caddy_matrix_presence_"

// Each Help says what the metric has to do with the others, when no request is under
// way. All counters are since the memory began.
var (
	requestsDesc = newDesc("requests_total",
		"Presence requests, by route: read, write, preflight with preflight local, and sync for those that the options sync and repeat_writes look at. The sum of outcomes_total of the route.",
		"route")
	outcomesDesc = newDesc("outcomes_total",
		"Presence requests by how they were answered: hit, stale, collapsed, absorbed, limited, refused, rejected and invalid without asking the homeserver for them; coalesced, perhaps later; "+
			"miss by an upstream request of reason fetch, bypass by one of reason bypass, forwarded by one of reason write, preflight or sync, as the route says; "+
			"quieted (without its presence, which changes nothing) and held (without its presence, which is too much) are syncs, by one of reason sync; "+
			"failed (the homeserver could not be asked) and canceled (the client left) with or without one.",
		"route", "outcome")
	observedDesc = newDesc("observed_total",
		"In mode observe: presence requests by what would have become of them in mode enforce, by the words of outcomes_total. "+
			"Of all requests since the mode was set, as requests_total; a collapsed one counts as miss.",
		"route", "outcome")
	upstreamDesc = newDesc("upstream_requests_total",
		"Requests to the homeserver, by reason. fetch is at least outcome miss, and more by those whose readers left, were told a failure or a stale answer, or found it too large; "+
			"bypass is outcome bypass; write and preflight are outcome forwarded of these routes; sync is requests_total of route sync; version asks which homeserver it is; delivery is at least deliveries_total of delivered, and more by what was tried again, overtaken, dropped or lost; "+
			"whoami is the sum of lookups_total of known, rejected, refused and failed; retry is a fetch or whoami that failed, sent once more without what the client chose.",
		"reason")
	savedDesc = newDesc("saved_total",
		"Presence requests that the homeserver was spared, none of them a sync: the sum of outcomes_total of hit, collapsed, absorbed, limited, refused, rejected and invalid, and of deliveries_total of superseded. What that cost it is upstream_requests_total of whoami and retry.")
	syncWritesDesc = newDesc("sync_writes_total",
		"Syncs that were looked at, by what became of the presence that they set. The sum is requests_total of route sync: "+
			"changed, repeated, unknown (it is not known whose it is or what it means) and none (the homeserver makes nothing of it) are outcome forwarded; "+
			"spared (a repeat) and off are quieted; limited and damped (another device of the user comes first) are held. "+
			"The homeserver was spared a write of presence by each that is spared, off, limited or damped, but for those limited that feed its timers with the old state.",
		"result")
	lookupsDesc = newDesc("lookups_total",
		"Access tokens that were not in memory, by what became of the question whose they are: known, rejected, refused and failed asked the homeserver, one upstream request of reason whoami each; "+
			"crowded, limited and spared (another question had brought the answer) did not.",
		"result")
	deliveriesDesc = newDesc("deliveries_total",
		"Writes that were answered 200 and had to wait, by what became of them: delivered, superseded by another of the same device before it was tried, overtaken by one after it was tried in vain, dropped because its token has ended, lost (refused, or not taken in time). "+
			"The sum is outcomes_total of coalesced, without pending.",
		"result")
	pendingDesc = newDesc("pending",
		"Writes that were answered 200 and wait for their user's budget, or are being delivered.")
	entriesDesc = newDesc("entries",
		"Entries in a table of a memory, fresh or not. At most the size that is configured for it, and 64 preflights.",
		"table")
	evictionsDesc = newDesc("evictions_total",
		"Entries that a table dropped because there were too many.",
		"table")
	overflowDesc = newDesc("limiter_overflow_total",
		"Events charged to the overflow budget of a limit because its table was full of users whose budgets are not full.",
		"limit")
)

func newDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(metricsPrefix+name, help, append([]string{"cache"}, labels...), nil)
}

// memoryCollector reads the memories when it is asked, so it has nothing that a
// reload could lose, and its series are those of the words above for each
// memory: nothing in them comes from a request.
type memoryCollector struct{}

func registerMetrics(ctx caddy.Context) error {
	for _, collector := range []prometheus.Collector{memoryCollector{}, upstreamSeconds} {
		err := ctx.GetMetricsRegistry().Register(collector)
		if registered := (prometheus.AlreadyRegisteredError{}); errors.As(err, &registered) {
			continue // by another handler of this configuration
		}
		if err != nil {
			return fmt.Errorf("registering metrics: %w", err)
		}
	}
	return nil
}

// Describe implements prometheus.Collector.
func (memoryCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		requestsDesc, outcomesDesc, observedDesc, upstreamDesc, savedDesc, syncWritesDesc, lookupsDesc, deliveriesDesc, pendingDesc, entriesDesc, evictionsDesc, overflowDesc,
	} {
		descs <- desc
	}
}

// Collect implements prometheus.Collector.
func (memoryCollector) Collect(metrics chan<- prometheus.Metric) {
	eachMemory(func(name string, m *pooled) {
		m.collectCounters(name, metrics)
		m.collectTables(name, metrics)
	})
}

// savingOutcomes are those without an upstream request of any kind.
var savingOutcomes = []outcome{
	outcomeHit, outcomeCollapsed, outcomeAbsorbed, outcomeLimited, outcomeRefused, outcomeRejected, outcomeInvalid,
}

func (m *pooled) collectCounters(name string, metrics chan<- prometheus.Metric) {
	counter := func(desc *prometheus.Desc, n uint64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), append([]string{name}, labels...)...)
	}
	c := m.counters
	var saved uint64
	for route, routeName := range routeNames {
		// The outcomes come first, so that a request that comes meanwhile makes
		// them no more than the requests.
		for o, words := range outcomes {
			counter(outcomesDesc, c.outcomes[route][o].Load(), routeName, words.name)
			counter(observedDesc, c.observed[route][o].Load(), routeName, words.name)
		}
		for _, o := range savingOutcomes {
			saved += c.outcomes[route][o].Load()
		}
		counter(requestsDesc, c.requests[route].Load(), routeName)
	}
	for result, resultName := range deliveryNames {
		counter(deliveriesDesc, c.deliveries[result].Load(), resultName)
	}
	saved += c.deliveries[deliverySuperseded].Load()
	counter(savedDesc, saved)
	for result, resultName := range syncWriteNames {
		counter(syncWritesDesc, c.syncWrites[result].Load(), resultName)
	}
	for result, resultName := range lookupNames {
		counter(lookupsDesc, c.lookups[result].Load(), resultName)
	}
	for reason, reasonName := range reasonNames {
		counter(upstreamDesc, c.upstream[reason].Load(), reasonName)
	}
}

func (m *pooled) collectTables(name string, metrics chan<- prometheus.Metric) {
	entries := func(table string, n int) {
		metrics <- prometheus.MustNewConstMetric(entriesDesc, prometheus.GaugeValue, float64(n), name, table)
	}
	evictions := func(table string, n uint64) {
		metrics <- prometheus.MustNewConstMetric(evictionsDesc, prometheus.CounterValue, float64(n), name, table)
	}
	states, permissions, refusals := m.presence.Len()
	entries("states", states)
	entries("permissions", permissions)
	entries("refusals", refusals)
	identities, rejections := m.identities.Len()
	entries("identities", identities)
	entries("rejections", rejections)
	entries("readers", m.reads.Users())
	entries("writers", m.writes.Users())
	entries("syncers", m.syncs.Users())
	entries("devices", m.devices.Len())
	entries("rejected_clients", m.rejected.Users())
	entries("last_writes", m.repeats.Len())
	metrics <- prometheus.MustNewConstMetric(pendingDesc, prometheus.GaugeValue, float64(m.pendings.len()), name)
	preflights, evictedPreflights := m.preflights.usage()
	entries("preflights", preflights)

	evictedStates, evictedPermissions, evictedRefusals := m.presence.Evicted()
	evictions("states", evictedStates)
	evictions("permissions", evictedPermissions)
	evictions("refusals", evictedRefusals)
	evictedIdentities, evictedRejections := m.identities.Evicted()
	evictions("identities", evictedIdentities)
	evictions("rejections", evictedRejections)
	evictions("preflights", evictedPreflights)

	evictions("last_writes", m.repeats.Evicted())

	evictions("devices", m.devices.Evicted())

	overflow := func(limit string, n uint64) {
		metrics <- prometheus.MustNewConstMetric(overflowDesc, prometheus.CounterValue, float64(n), name, limit)
	}
	overflow("read", m.reads.Overflowed())
	overflow("write", m.writes.Overflowed())
	overflow("sync", m.syncs.Overflowed())
	overflow("rejected", m.rejected.Overflowed())
}

// latencyBuckets are seconds: from a homeserver that answers from its own memory to
// one that is about to be given up.
var latencyBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// upstreamSeconds is one for all memories. Caddy makes a registry for each
// configuration; it is registered with all of them.
var upstreamSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
	Name: metricsPrefix + "upstream_seconds",
	Help: "Time until the homeserver began to answer, or a request to it ended without an answer, by reason. " +
		"Its count is upstream_requests_total, but for reason sync, which is not measured: it waits for news.",
	Buckets: latencyBuckets,
}, []string{"cache", "reason"})
