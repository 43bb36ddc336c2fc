package gateway

import "github.com/caddy-matrix/caddy-matrix-presence/internal/pending"

// Metric is something that a store counts.
type Metric struct {
	Name   string // in snake case, without a prefix
	Help   string
	Labels []string // the names of its labels

	// IsGauge tells that it may go down.
	IsGauge bool
}

// The metrics. docs/metrics.md says what each has to do with the others. All counters are
// since the store began.
var (
	requestsMetric = &Metric{
		Name: "requests_total", Labels: []string{"route"},
		Help: "Presence requests, and the syncs that are looked at, by route.",
	}
	outcomesMetric = &Metric{
		Name: "outcomes_total", Labels: []string{"route", "outcome"},
		Help: "Presence requests by how they were answered.",
	}
	observedMetric = &Metric{
		Name: "observed_total", Labels: []string{"route", "outcome"},
		Help: "Presence requests in mode observe, by what mode enforce would have answered.",
	}
	upstreamMetric = &Metric{
		Name: "upstream_requests_total", Labels: []string{"reason"},
		Help: "Requests to the homeserver, by reason.",
	}
	savedMetric = &Metric{
		Name: "saved_total",
		Help: "Presence requests, without syncs, that the homeserver was spared.",
	}
	syncWritesMetric = &Metric{
		Name: "sync_writes_total", Labels: []string{"result"},
		Help: "Syncs that are looked at, by what became of their set_presence.",
	}
	lookupsMetric = &Metric{
		Name: "lookups_total", Labels: []string{"result"},
		Help: "Lookups of access tokens that were not in memory (whoami), by result.",
	}
	learnedMetric = &Metric{
		Name: "learned_total", Labels: []string{"what"},
		Help: "What answers that passed by have taught, by what that is.",
	}
	byRoomMetric = &Metric{
		Name: "room_hits_total",
		Help: "Hits that rest on a list of a room's members that passed by.",
	}
	deliveriesMetric = &Metric{
		Name: "deliveries_total", Labels: []string{"result"},
		Help: "Writes that were answered 200 and had to wait, by what became of them.",
	}
	pendingMetric = &Metric{
		Name: "pending", IsGauge: true,
		Help: "Writes that were answered 200 and wait for their user's budget, or are being delivered.",
	}
	pendingOldestMetric = &Metric{
		Name: "pending_oldest_seconds", IsGauge: true,
		Help: "How long the oldest of these writes has waited, or 0 if none waits.",
	}
	entriesMetric = &Metric{
		Name: "entries", Labels: []string{"table"}, IsGauge: true,
		Help: "Entries in a table, fresh or not: at most as many as configured, and 64 preflights.",
	}
	entriesMaxMetric = &Metric{
		Name: "entries_max", Labels: []string{"table"}, IsGauge: true,
		Help: "Entries that a table may hold, as configured.",
	}
	evictionsMetric = &Metric{
		Name: "evictions_total", Labels: []string{"table"},
		Help: "Entries that a table dropped to make room.",
	}
	feedsMetric = &Metric{
		Name: "feeds", Labels: []string{"state"}, IsGauge: true,
		Help: "Feeds by how far they are believed: one, and during some reloads two.",
	}
	feedLinesMetric = &Metric{
		Name: "feed_lines_total", Labels: []string{"kind"},
		Help: "Lines of the homeserver's feed, by what they are about.",
	}
	feedLossesMetric = &Metric{
		Name: "feed_losses_total", Labels: []string{"reason"},
		Help: "How often the feed turned out not to be whole, by reason.",
	}
	feedPresenceMetric = &Metric{
		Name: "feed_presence_total", Labels: []string{"result"},
		Help: "Presences that the feed told of, by what became of what was kept.",
	}
	clusterUpMetric = &Metric{
		Name: "cluster_up", IsGauge: true,
		Help: "1 if the cluster's log can be reached, else 0.",
	}
	clusterNodesMetric = &Metric{
		Name: "cluster_nodes", IsGauge: true,
		Help: "Nodes of the cluster that were there of late, with this one.",
	}
	clusterLagMetric = &Metric{
		Name: "cluster_lag_entries", IsGauge: true,
		Help: "Entries of the cluster's log that the last pull had to catch up with.",
	}
	clusterBarriersMetric = &Metric{
		Name: "cluster_barriers_total",
		Help: "Pulls of the cluster's log: for reads, all who came before it share one, and four a second.",
	}
	clusterWaitedMetric = &Metric{
		Name: "cluster_barrier_seconds_total",
		Help: "How long requests have waited for pulls of the cluster's log, together.",
	}
	clusterUnannouncedMetric = &Metric{
		Name: "cluster_unannounced_writes_total",
		Help: "Writes that the other nodes could be told of only afterwards.",
	}
	clusterFlushesMetric = &Metric{
		Name: "cluster_flushes_total", Labels: []string{"reason"},
		Help: "How often what was remembered was dropped for the cluster, by reason.",
	}
	brownOutMetric = &Metric{
		Name: "brown_out_level", IsGauge: true,
		Help: "How far presence gives way while the homeserver is slow: 0 not, 1 spare, 2 hold, 3 off.",
	}
	snapshotsMetric = &Metric{
		Name: "snapshots_total", Labels: []string{"result"},
		Help: "Files of a snapshot that were read or written, by what became of them.",
	}
	snapshotAgeMetric = &Metric{
		Name: "snapshot_age_seconds", IsGauge: true,
		Help: "How long ago budgets were last written to a snapshot.",
	}
	overflowMetric = &Metric{
		Name: "limiter_overflow_total", Labels: []string{"limit"},
		Help: "Events charged to the budget that users without a place in a limit's table share.",
	}
)

// Metrics are all of them.
var Metrics = []*Metric{
	requestsMetric, outcomesMetric, observedMetric, upstreamMetric, savedMetric, syncWritesMetric, lookupsMetric, learnedMetric, byRoomMetric, deliveriesMetric,
	pendingMetric, pendingOldestMetric, entriesMetric, entriesMaxMetric, evictionsMetric, overflowMetric, brownOutMetric,
	feedsMetric, feedLinesMetric, feedLossesMetric, feedPresenceMetric,
	clusterUpMetric, clusterNodesMetric, clusterLagMetric, clusterBarriersMetric, clusterWaitedMetric, clusterUnannouncedMetric, clusterFlushesMetric,
	snapshotsMetric, snapshotAgeMetric,
}

// Samples calls yield with each value of each metric, and the values of its labels. They are
// from lists of words in this package: nothing in them comes from a request. What there is about a feed, a
// cluster, a brown-out or the age of a snapshot is left out while there is none, so that nobody takes the last word of one
// that is gone for news.
func (m *Store) Samples(yield func(metric *Metric, value float64, labels ...string)) {
	m.sampleCounters(yield)
	m.sampleTables(yield)
	m.sampleSizes(yield)
	m.sampleFeeds(yield)
	m.sampleClusters(yield)
	m.sampleSnapshots(yield)
}

// savingOutcomes are those without an upstream request of any kind.
var savingOutcomes = []outcome{
	outcomeHit, outcomeOlder, outcomeCollapsed, outcomeAbsorbed, outcomeLimited, outcomeShed, outcomeRefused, outcomeRejected, outcomeInvalid,
}

func (m *Store) sampleCounters(yield func(metric *Metric, value float64, labels ...string)) {
	counter := func(metric *Metric, n uint64, labels ...string) { yield(metric, float64(n), labels...) }
	c := m.counters
	var saved uint64
	for route, routeName := range routeNames {
		// The outcomes come first, so that a request that comes meanwhile makes
		// them no more than the requests.
		for o, words := range outcomes {
			counter(outcomesMetric, c.outcomes[route][o].Load(), routeName, words.name)
			counter(observedMetric, c.observed[route][o].Load(), routeName, words.name)
		}
		for _, o := range savingOutcomes {
			saved += c.outcomes[route][o].Load()
		}
		counter(requestsMetric, c.requests[route].Load(), routeName)
	}
	for result, resultName := range deliveryNames {
		counter(deliveriesMetric, m.pendings.Count(pending.Result(result)), resultName)
	}
	saved += m.pendings.Count(pending.Superseded)
	counter(savedMetric, saved)
	for verdict, words := range syncVerdicts {
		counter(syncWritesMetric, c.syncWrites[verdict].Load(), words.name)
	}
	for result, resultName := range lookupNames {
		counter(lookupsMetric, c.lookups[result].Load(), resultName)
	}
	for what, name := range learnedNames {
		counter(learnedMetric, c.learned[what].Load(), name)
	}
	counter(byRoomMetric, c.byRoom.Load())
	for reason, reasonName := range ReasonNames {
		counter(upstreamMetric, c.upstream[reason].Load(), reasonName)
	}
}

func (m *Store) sampleTables(yield func(metric *Metric, value float64, labels ...string)) {
	entries := func(table string, n int) {
		yield(entriesMetric, float64(n), table)
	}
	evictions := func(table string, n uint64) {
		yield(evictionsMetric, float64(n), table)
	}
	states, permissions, refusals := m.presence.Len()
	entries("states", states)
	entries("permissions", permissions)
	entries("refusals", refusals)
	listed, evictedListed := m.presence.Rooms()
	entries("room_members", listed)
	identities, unknown := m.identities.Len()
	entries("identities", identities)
	entries("rejections", unknown)
	entries("readers", m.reads.Users())
	entries("writers", m.writes.Users())
	entries("syncers", m.syncs.Users())
	entries("devices", m.devices.Len())
	entries("rejected_clients", m.rejected.Users())
	entries("last_writes", m.repeats.Len())
	yield(pendingMetric, float64(m.pendings.Len()))
	yield(pendingOldestMetric, m.pendings.Oldest().Seconds())
	if m.needs.brownOut.Load() {
		yield(brownOutMetric, float64(m.brownOut.Level(m.now())))
	}
	preflights, evictedPreflights := m.preflights.usage()
	entries("preflights", preflights)

	evictedStates, evictedPermissions, evictedRefusals := m.presence.Evicted()
	evictions("states", evictedStates)
	evictions("permissions", evictedPermissions)
	evictions("refusals", evictedRefusals)
	evictions("room_members", evictedListed)
	evictedIdentities, evictedUnknown := m.identities.Evicted()
	evictions("identities", evictedIdentities)
	evictions("rejections", evictedUnknown)
	evictions("preflights", evictedPreflights)

	evictions("last_writes", m.repeats.Evicted())

	evictions("devices", m.devices.Evicted())

	overflow := func(limit string, n uint64) {
		yield(overflowMetric, float64(n), limit)
	}
	overflow("read", m.reads.Overflowed())
	overflow("write", m.writes.Overflowed())
	overflow("sync", m.syncs.Overflowed())
	overflow("rejected", m.rejected.Overflowed())
}

// sampleSizes yields how many entries each table may hold. Shards round that up in small tables.
func (m *Store) sampleSizes(yield func(metric *Metric, value float64, labels ...string)) {
	m.mu.Lock()
	sizes := m.sizes
	m.mu.Unlock()
	for _, table := range []struct {
		name string
		most int
	}{
		{"states", sizes.States}, {"permissions", sizes.Permissions}, {"refusals", sizes.Permissions / 8}, {"room_members", sizes.Rooms},
		{"identities", sizes.Tokens}, {"rejections", sizes.Tokens / 8},
		{"readers", sizes.Tokens}, {"writers", sizes.Tokens}, {"syncers", sizes.Tokens}, {"rejected_clients", sizes.Tokens},
		{"devices", sizes.Tokens}, {"last_writes", sizes.Tokens}, {"preflights", maxPreflights},
	} {
		yield(entriesMaxMetric, float64(max(1, table.most)), table.name)
	}
}
