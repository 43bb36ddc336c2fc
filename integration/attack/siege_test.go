package attack_test

import (
	"testing"
	"time"
)

// siege is one attack on one site: what is sent, and what it may cost.
type siege struct {
	name string

	// site is what is attacked: if nil, a new one with these options.
	site    *site
	options options

	// flood is what is sent. An attack of another kind returns when all is sent and answered.
	flood  flood
	attack func() tally

	// work is what the homeserver may be asked in so many seconds.
	work func(seconds float64) limits

	// entries are what is in the tables, if that is out of the ordinary.
	entries entries

	// inFlight is how much of the attack may be in memory at a time, in bytes.
	inFlight int64
}

// limits bound what attackers may make the homeserver do. A kind without a limit is
// one that it must not be asked for at all.
type limits struct {
	count   [kinds]int
	atATime [kinds]int // 0: as many as there are connections
	each    int        // lookups at a time for one address; 0: as many as at all
}

// calm is for how long victims are watched before an attack.
const calm = 200 * time.Millisecond

// run carries the attack out, judges it and notes its figures.
func (a siege) run(t *testing.T) tally {
	t.Helper()
	progress(t, a.name)
	if a.site == nil {
		a.site = newSite(t, newHomeserver(t, false), a.options)
	}
	a.site.hs.take()
	v := newVictims(t, a.site)
	<-time.After(calm) // to compare with; nothing depends on its length
	v.phase.Store(during)
	began := time.Now()
	if a.attack == nil {
		a.attack = func() tally { return a.flood.run(a.site.URL) }
	}
	got := a.attack()
	seconds := time.Since(began).Seconds()
	suffered := v.goHome()
	work := a.site.hs.take()
	allowed := a.work(seconds)
	m := a.site.memory(t)

	if got.wrong != nil {
		t.Errorf("%s: %v", a.name, got.wrong)
	}
	for k := range kinds {
		if work.count[k] > allowed.count[k] {
			t.Errorf("%s: the homeserver was asked for %d %v, at most %d were allowed", a.name, work.count[k], k, allowed.count[k])
		}
		if most := allowed.atATime[k]; most > 0 && work.most[k] > most {
			t.Errorf("%s: the homeserver was asked for %d %v at a time, at most %d were allowed", a.name, work.most[k], k, most)
		}
	}
	if allowed.each > 0 && work.busiest > allowed.each {
		t.Errorf("%s: %d lookups at a time for one address, at most %d were allowed", a.name, work.busiest, allowed.each)
	}
	if work.most[whoami] > lookupsAll {
		t.Errorf("%s: %d lookups at a time, at most %d were allowed", a.name, work.most[whoami], lookupsAll)
	}
	if suffered.errands[during] == 0 {
		t.Errorf("%s: no victim did anything during the attack", a.name)
	}
	heap := idleHeap + a.site.tables.heap(a.entries)
	resident := idleResident + 2*(a.site.tables.heap(a.entries)+a.inFlight)
	if m.heap > heap {
		t.Errorf("%s: the heap is %s after it, at most %s were allowed", a.name, inMB(m.heap), inMB(heap))
	}
	if m.peak > resident {
		t.Errorf("%s: the process has had %s of memory, at most %s were allowed", a.name, inMB(m.peak), inMB(resident))
	}
	figures.add(row{
		name: a.name, got: got, seconds: seconds, work: work, allowed: allowed, memory: m, heap: heap, resident: resident, suffered: suffered,
	})
	return got
}

// idleHeap and idleResident are what a process may take that remembers nothing: Caddy
// itself, its connections and their buffers, and the garbage between two collections.
const (
	idleHeap     = 12 << 20
	idleResident = 80 << 20
)

// entries are the sizes of what is in the tables, for attacks that make it larger than
// usual.
type entries struct {
	userID int // bytes of a target's or a viewer's user ID
	body   int // bytes of a presence
}

// heap is what the tables take at most when they are full. Bytes for an entry are
// those of docs/performance.md, and half as much again.
func (s sizesOfTables) heap(e entries) int64 {
	const (
		state      = 640
		permission = 84
		refusal    = 1024 // a body of 100 bytes, and the header fields that came with it
		identity   = 240
		rejection  = 240 // and as much for a user with a revocation, and for a refresh token
		budget     = 57
	)
	return int64(s.states*(state+2*e.userID+2*e.body) +
		s.permissions*permission + s.permissions/8*(refusal+2*e.body) +
		s.tokens*(identity+e.userID) + s.tokens/8*3*rejection +
		3*s.tokens*budget)
}
