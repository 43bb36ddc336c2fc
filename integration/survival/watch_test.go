package survival_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/vitals"
)

// sample is what was seen at a moment.
type sample struct {
	at time.Duration
	vitals.Vitals
	liveHeap           int64
	requests, upstream int // so far
}

// liveEvery is how many samples share one measurement of the live heap, which costs the
// sidecar a garbage collection that it would not have made.
const liveEvery = 5

// watch samples until ctx is done, and tells a person how it goes.
func (s *soaking) watch(ctx context.Context) error {
	begin := time.Now()
	tick := time.NewTicker(s.plan.sample)
	defer tick.Stop()
	tell := max(5*time.Second, s.plan.duration/60)
	told := begin
	var live int64
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-s.server.Exited():
			return fmt.Errorf("the sidecar ended by itself:\n%s", s.server.Tail(30))
		case <-tick.C:
		}
		v, err := vitals.Read(ctx, s.server.Admin)
		if err == nil && n%liveEvery == 0 {
			live, err = vitals.LiveHeap(ctx, s.server.Admin)
		}
		if err != nil {
			// A reload replaces the admin endpoint too.
			s.missed++
			n--
			continue
		}
		now := sample{time.Since(begin), v, live, s.clients.requests(), arrived(s.hs.Counts())}
		s.samples = append(s.samples, now)
		if time.Since(told) >= tell {
			told = time.Now()
			s.tell(now)
		}
	}
}

// arrived is how many requests came to the homeserver.
func arrived(counts map[scripted.Key]scripted.Tally) (n int) {
	for _, t := range counts {
		n += t.Asked
	}
	return n
}

// tell prints a line.
func (s *soaking) tell(now sample) {
	reloads, restarts := s.upheaval.counts()
	fmt.Fprintf(s.out, "%s of %s: %d requests, %d to the homeserver; resident %s, live heap %s, %d goroutines, %d files; %d reloads, %d restarts, %d wrong answers\n",
		now.at.Round(time.Second), s.plan.duration, now.requests, now.upstream,
		mib(float64(now.Resident)), mib(float64(now.liveHeap)), now.Goroutines, now.Descriptors,
		reloads, restarts, s.clients.wrong())
}

// tableOf begins the names of the series of tables.
const tableOf = "table of "

// allSeries are the samples, one by one, with what each may grow. The margins are for noise;
// what leaks by the request or by the reload goes beyond them.
func allSeries(samples []sample) (all []series) {
	add := func(name string, format func(float64) string, share, more float64, value func(sample) float64) {
		s := series{name: name, format: format, share: share, more: more}
		for _, at := range samples {
			s.values = append(s.values, value(at))
		}
		all = append(all, s)
	}
	if len(samples) == 0 {
		return nil
	}
	if samples[0].OfProcess() {
		add("resident memory", mib, 0.10, 16<<20, func(s sample) float64 { return float64(s.Resident) })
		add("file descriptors", count, 0.15, 20, func(s sample) float64 { return float64(s.Descriptors) })
	}
	add("live heap", mib, 0.10, 2<<20, func(s sample) float64 { return float64(s.liveHeap) })
	add("goroutines", count, 0.15, 30, func(s sample) float64 { return float64(s.Goroutines) })
	for _, table := range slices.Sorted(maps.Keys(samples[0].Tables)) {
		add(tableOf+table, count, 0.20, 50, func(s sample) float64 { return float64(s.Tables[table]) })
	}
	return all
}

// full returns what is wrong with the number of entries in the tables: each has a bound, by
// the larger of the two configurations.
func full(samples []sample, tables tableSizes) (wrong []string) {
	bounds := map[string]int{
		"states": tables.states, "permissions": tables.permissions, "refusals": tables.permissions / 8,
		"identities": tables.tokens, "rejections": tables.tokens / 8,
	}
	over := make(map[string]int)
	for _, s := range samples {
		for table, n := range s.Tables {
			bound, ok := bounds[table]
			if !ok {
				bound = tables.tokens // of clients and users whose budgets are tracked
			}
			if n > bound {
				over[table] = max(over[table], n)
			}
		}
	}
	for _, table := range slices.Sorted(maps.Keys(over)) {
		wrong = append(wrong, fmt.Sprintf("the table of %s had %d entries", table, over[table]))
	}
	return wrong
}
