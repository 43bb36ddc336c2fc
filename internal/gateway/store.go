package gateway

import (
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/clock"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/devices"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/fairqueue"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/flight"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/identity"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/pending"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/snapshot"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// Store is all that outlives a request. It holds data only: limits and
// lifetimes belong to the gateways, which a reload replaces.
type Store struct {
	clock         *clock.Clock // by which all of it ages
	began         time.Time
	presence      *cache.Presence
	identities    *identity.Table
	reads, writes *policy.Limiter
	syncs         *policy.Limiter // changes of presence by syncs
	devices       *devices.Devices
	software      software
	// rejected is about clients, by their address: who has shown how many tokens
	// that the homeserver doesn't know.
	rejected *policy.Limiter
	// repeats is about what users last wrote, pendings about what is still to be
	// written.
	repeats  *policy.Repeats
	pendings *pending.Writes
	// TopLimited are the users who were over a limit most often.
	TopLimited [limitCount]*policy.TopLimited

	preflights *preflights

	fetches *flight.Group[fetchKey, *fetched]
	whoAmIs *identity.Lookups[origin, owner]
	// asking bounds how many of them the homeserver is asked at a time.
	asking *fairqueue.Queue
	faults faultLog
	outage outage
	host   goodHost
	claims claims
	echoes atomic.Bool // see learnOrigins
	losses lossLog
	// refusedRooms lets a line about a room that counts no more into the log.
	refusedRooms logInterval
	// rateHint is the hint about Synapse's rc_presence.
	rateHint sync.Once

	// brownOut is about how slow the homeserver is, for gateways at which presence gives way to that;
	// brownOuts is where its changes are logged, of the gateway that was last used first.
	brownOut  *policy.BrownOut
	brownOuts atomic.Pointer[slog.Logger]

	// key is under which a snapshot keeps users and tokens; snapshots counts those.
	key       snapshot.Key
	snapshots snapshot.Counts

	counters *counters
	batches  *batches // whose news syncs have asked for
	// learning has a place for each request whose sender is looked up while its client doesn't
	// wait. Confirming is the same for requests that the homeserver has shown to be somebody's.
	learning, confirming *fairqueue.Seats
	heard                *fairqueue.Seats // has a place for each answer of which much is kept while it is read

	mu    sync.Mutex // guards sizes
	sizes Sizes

	ancestors ancestors

	needs    needs
	feeds    feeds
	clusters clusters

	// panicked is told of a panic in a goroutine of ours.
	panicked func(reason any)

	inHand inHand // of what the gateways of the store send themselves
}

// maxWhoAmIs is how many tokens the homeserver is asked about at a time. Each takes
// it about a millisecond, so that is tens of thousands a second.
const maxWhoAmIs = 64

// maxWhoAmIsEach is how many of them come from one client, as far as its address
// tells it from others.
const maxWhoAmIsEach = 8

// maxWhoAmIsWaiting is how many wait for that. It leaves room for those calls that
// haven't come to wait yet.
const maxWhoAmIsWaiting = flight.MaxCalls / 2

// NewStore returns an empty store with tables of these sizes. It tells latency how long the
// homeserver takes, by the reason of a request, and panicked of panics in goroutines of ours.
func NewStore(s Sizes, latency func(reason string) Observer, panicked func(reason any)) *Store {
	clock := clock.New()
	now := clock.Now()
	m := &Store{
		clock:      clock,
		began:      now,
		presence:   cache.NewPresence(s.States, s.Permissions, now),
		identities: identity.NewTable(s.Tokens, now),
		reads:      policy.NewLimiter(s.Tokens, now),
		writes:     policy.NewLimiter(s.Tokens, now),
		syncs:      policy.NewLimiter(s.Tokens, now),
		devices:    devices.NewDevices(s.Tokens, now),
		rejected:   policy.NewLimiter(s.Tokens, now),
		repeats:    policy.NewRepeats(s.Tokens, now),
		preflights: newPreflights(),
		asking:     fairqueue.New(maxWhoAmIs, maxWhoAmIsEach, maxWhoAmIsWaiting),
		counters:   newCounters(latency),
		batches:    newBatches(time.Now()),
		learning:   fairqueue.NewSeats(maxLearning, maxLearningEach),
		confirming: fairqueue.NewSeats(maxLearning, maxLearningEach),
		heard:      fairqueue.NewSeats(maxHeard, maxHeardEach),
		sizes:      s,
		panicked:   panicked,
	}
	m.rekey(snapshot.NewKey())
	m.brownOut = policy.NewBrownOut(now, rand.Float64, m.logBrownOut)
	m.pendings = pending.NewWrites(clock, func(userID string) pending.Fence { return m.presence.BeginDeferred(userID) }, panicked)
	m.fetches = flight.NewGroup[fetchKey](panicked, func(err error) *fetched {
		return &fetched{subresponse: &subresponse{err: fail(http.StatusInternalServerError, err)}, crashed: true}
	})
	m.whoAmIs = identity.NewLookups[origin](m.identities, m.now, panicked, func(err error) owner {
		return owner{err: fail(http.StatusInternalServerError, err), crashed: true}
	})
	m.presence.ResizeRooms(s.Rooms)
	m.inHand.store = m
	m.clusters.reads.init()
	for limit := range m.TopLimited {
		m.TopLimited[limit] = policy.NewTopLimited(maxTopLimited, now)
	}
	return m
}

// guard calls f in a goroutine of ours. A panic is told of, and returned as an error.
func (m *Store) guard(f func()) error { return flight.Guard(m.panicked, f) }

// now returns the time by which all that is remembered ages.
func (m *Store) now() time.Time { return m.clock.Now() }

// resize makes the tables fit s. It is called when a gateway serves its first
// request, not when it is provisioned: that configuration may yet fail.
func (m *Store) resize(s Sizes) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sizes == s {
		return
	}
	m.sizes = s
	m.presence.Resize(s.States, s.Permissions)
	m.presence.ResizeRooms(s.Rooms)
	m.identities.Resize(s.Tokens)
	m.reads.Resize(s.Tokens)
	m.writes.Resize(s.Tokens)
	m.syncs.Resize(s.Tokens)
	m.devices.Resize(s.Tokens)
	m.rejected.Resize(s.Tokens)
	m.repeats.Resize(s.Tokens)
}
