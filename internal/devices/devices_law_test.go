package devices

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// habit is what a device does for a while: it polls, writes and is active at some pace.
type habit struct {
	word           string // of its syncs
	timeout, pause float64
	write          string  // "" for none
	writes         float64 // seconds between two
	active         float64 // the same, 0 for never
	away           bool    // it does nothing
	unjudged       float64 // the share of its syncs that can't be judged
	slow           float64 // how long a write takes
}

func newHabit(random *rand.Rand, dialect matrix.Dialect) habit {
	words := []string{"online", "online", "online", "unavailable", "offline"}
	if dialect == matrix.Tuwunel {
		words = append(words, "busy", "ONLINE")
	}
	h := habit{
		word:    testkit.Pick(random, words...),
		timeout: testkit.Pick(random, 0., 0, 1, 5, 10, 26, 29.9, 30, 60),
		pause:   testkit.Pick(random, .05, .1, .5, 1, 2, 5),
		away:    random.IntN(6) == 0,
	}
	if h.timeout == 0 {
		h.pause = max(h.pause, .5)
	}
	if random.IntN(4) == 0 {
		h.write, h.writes = testkit.Pick(random, "online", "unavailable", "offline"), testkit.Pick(random, 3., 11, 40)
	}
	h.unjudged, h.slow = testkit.Pick(random, 0, 0, 0, .1), testkit.Pick(random, 0., 0, 2, 20)
	if random.IntN(4) == 0 {
		h.active = testkit.Pick(random, 2., 20, 70)
	}
	return h
}

// twins are two equal homeservers, one behind us, and a reader of a user who keeps what was
// read until told that it may have changed.
type twins struct {
	t              *testing.T
	what           string
	dialect        matrix.Dialect
	direct, behind *testkit.Homeserver
	devices        *Devices
	limiter        *policy.Limiter
	watch          bool           // nothing is changed by us
	known          matrix.Dialect // as which we know it
	limit          policy.Limit
	cached         string
	writing        int                      // writes in flight: nothing is kept
	wrote          string                   // last
	asked          map[byte]map[string]bool // by each device's syncs
}

const twin = "@a:b"

func (tw *twins) sync(device byte, h habit, judged bool, now time.Time) (end func(now time.Time)) {
	query := "since=s&set_presence=" + h.word
	_, endDirect := tw.direct.Sync(twin, string(device), query, nil, now)
	q := matrix.ParseSyncQuery(tw.known, query)
	if !judged || !q.Certain || tw.known == matrix.UnknownDialect && !tw.watch {
		// As if its token wasn't known, or its query odd.
		tw.doubt(device, now)
		_, endBehind := tw.behind.Sync(twin, string(device), query, nil, now)
		tw.doubt(device, now)
		return func(now time.Time) { endDirect(now); endBehind(now) }
	}
	if q.Sets == matrix.NoPresence {
		_, endBehind := tw.behind.Sync(twin, string(device), query, nil, now)
		return func(now time.Time) { endDirect(now); endBehind(now) }
	}
	decision := tw.devices.Sync(SyncAsk{twin, [16]byte{device}, q.Sets, seconds(h.timeout)}, SyncRules{
		Dialect: tw.known, ObserveOnly: tw.watch, Refresh: 20 * time.Second,
		Allow: func() bool { _, ok := tw.limiter.Take(twin, tw.limit, now); return ok },
	}, now)
	if tw.asked[device] == nil {
		tw.asked[device] = make(map[string]bool)
	}
	asks, _ := tw.behind.Reads(query, nil)
	sent := query
	if decision.Value != "" {
		sent = q.Set(decision.Value)
		says, _ := tw.behind.Reads(sent, nil)
		if says != "" && (testkit.StateRank(says) > testkit.StateRank(asks) || !tw.asked[device][says]) {
			tw.t.Fatalf("%s: at %v a sync of %c for %q is made to say %q", tw.what, now.Sub(testkit.Epoch), device, asks, says)
		}
	}
	tw.asked[device][asks] = true
	if decision.Changes {
		tw.cached = ""
	}
	_, endBehind := tw.behind.Sync(twin, string(device), sent, nil, now)
	return func(now time.Time) {
		endDirect(now)
		endBehind(now)
		decision.End(true, now)
	}
}

func (tw *twins) doubt(device byte, now time.Time) {
	tw.devices.Doubt(twin, [16]byte{device}, now)
	tw.cached = ""
}

// write is a presence write that the homeserver takes at some time between begin and end. Its
// answer may get lost.
func (tw *twins) write(device byte, h habit, lost bool, began time.Time) (takes, end func(now time.Time)) {
	body := []byte(`{"presence":"` + h.write + `"}`)
	fingerprint := [16]byte{device}
	under := tw.devices.BeginWrite(twin, fingerprint, tw.known, began)
	tw.writing++
	takes = func(now time.Time) {
		tw.direct.Put(twin, string(device), body, now)
		tw.behind.Put(twin, string(device), body, now)
		tw.wrote = h.write
	}
	end = func(now time.Time) {
		if lost {
			under.Failed(true, now)
		} else {
			under.Taken(matrix.BodyPresence(body, tw.known), tw.known, now)
		}
		tw.writing--
		tw.cached = ""
	}
	return takes, end
}

func (tw *twins) activity(device byte, now time.Time) {
	tw.direct.Active(twin, string(device), now)
	tw.behind.Active(twin, string(device), now)
	if tw.devices.Active(twin, [16]byte{device}, tw.known, now, now) {
		tw.cached = ""
	}
}

// look reads from memory. It may show what was, only if a timer of the homeserver's has
// changed it since.
func (tw *twins) look(now time.Time) {
	shown, timed := tw.behind.Presence(twin, now)
	if tw.writing > 0 {
		tw.cached = ""
		return
	}
	if tw.cached == "" || !timed.IsZero() && now.Sub(timed) > 30*time.Second { // ttl
		tw.cached = shown
	}
	if tw.cached != shown && timed.IsZero() {
		tw.t.Fatalf("%s: at %v a reader sees %q, and the homeserver has %q", tw.what, now.Sub(testkit.Epoch), tw.cached, shown)
	}
}

// Whatever devices do, a watcher sees what they would see without us: at once if it is by a
// request, and the same in the end. Habits hold for some minutes each, longer than any
// timer and any wait for a budget takes.
func TestSyncsShowWhatTheyWouldWithoutUs(t *testing.T) {
	random := testkit.Rand(t)
	for dialect, name := range map[matrix.Dialect]string{matrix.Synapse: "synapse", matrix.Dendrite: "dendrite", matrix.Tuwunel: "tuwunel"} {
		for round := range 25 {
			limit, err := policy.NewLimit(6, time.Minute, 5)
			if err != nil {
				t.Fatal(err)
			}
			tw := &twins{
				t: t, what: fmt.Sprintf("%s, round %d", name, round), dialect: dialect, limit: limit,
				direct: testkit.NewHomeserver(name, testkit.Epoch), behind: testkit.NewHomeserver(name, testkit.Epoch),
				watch: random.IntN(4) == 0, known: dialect,
				devices: NewDevices(100, testkit.Epoch), limiter: policy.NewLimiter(100, testkit.Epoch), asked: make(map[byte]map[string]bool),
			}
			tw.run(random, 1+random.IntN(3))
		}
	}
}

// turn changes something else between two phases: the homeserver isn't recognised any more, or is
// again; a device is forgotten.
func (tw *twins) turn(random *rand.Rand) {
	tw.known = tw.dialect
	if random.IntN(5) == 0 {
		tw.known = matrix.UnknownDialect
	}
	switch random.IntN(6) {
	case 0:
		tw.devices.Forget(twin, [16]byte{byte('p' + random.IntN(3))})
	case 1:
		tw.devices.ForgetUser(twin)
	}
}

// plan is what happens at some second.
type plan struct {
	at float64
	do func(now time.Time)
}

// plans are a heap, the next one first.
type plans []plan

func (p plans) Len() int           { return len(p) }
func (p plans) Less(i, j int) bool { return p[i].at < p[j].at }
func (p plans) Swap(i, j int)      { p[i], p[j] = p[j], p[i] }
func (p *plans) Push(x any)        { *p = append(*p, x.(plan)) }

func (p *plans) Pop() any {
	last := (*p)[len(*p)-1]
	*p = (*p)[:len(*p)-1]
	return last
}

func (tw *twins) run(random *rand.Rand, devices int) {
	const phase, phases = 200., 4
	var todo plans
	then := func(at float64, do func(now time.Time)) { heap.Push(&todo, plan{at, do}) }
	var habits []string
	var history []string // of the direct one, each second
	for n := range phases {
		tw.turn(random)
		begin, end := float64(n)*phase, float64(n+1)*phase
		habits = nil
		highest := "" // that a device asks for
		sure := true
		for i := range devices {
			device, h := byte('p'+i), newHabit(random, tw.dialect)
			habits = append(habits, fmt.Sprintf("%c %+v", device, h))
			if h.away {
				continue
			}
			// There, what couldn't be judged counts for a moment.
			sure = sure && (tw.dialect != matrix.Dendrite || h.unjudged == 0)
			// What Synapse has once taken for gone, up to refresh sooner, no activity brings back, but
			// it would have kept it in place.
			sure = sure && (tw.dialect != matrix.Synapse || h.word != "offline" || h.active == 0)
			if testkit.StateRank(h.word) > testkit.StateRank(highest) {
				highest = h.word
			}
			var poll func(at float64)
			poll = func(at float64) {
				if at >= end {
					return
				}
				then(at, func(now time.Time) {
					over := tw.sync(device, h, random.Float64() >= h.unjudged, now)
					done := min(at+h.timeout, end)
					then(done, func(now time.Time) {
						over(now)
						then(done+h.pause/2, tw.look)
						poll(done + h.pause)
					})
				})
			}
			poll(begin + random.Float64()*5)
			for at := begin + random.Float64()*h.writes; h.write != "" && at < end; at += h.writes {
				lost, done := random.IntN(8) == 0, min(at+h.slow, end)
				taken := at + random.Float64()*(done-at)
				then(at, func(now time.Time) {
					takes, over := tw.write(device, h, lost, now)
					then(taken, takes)
					then(done, over)
				})
			}
			for at := begin + random.Float64()*h.active; h.active > 0 && at < end; at += h.active {
				then(at, func(now time.Time) { tw.activity(device, now) })
			}
		}
		for at := begin; at < end; at++ {
			then(at, func(now time.Time) {
				tw.look(now)
				shown, _ := tw.direct.Presence(twin, now)
				history = append(history, shown)
				if at < end-10 || !sure {
					return
				}
				was := make(map[string]bool)
				if tw.dialect == matrix.Dendrite {
					// A write stays until syncs ask for something else than they did, which they
					// do less often behind us: there, devices don't take turns. What none asks
					// for any more stays.
					if highest == "" {
						return
					}
					was[tw.wrote], was[highest] = true, true
				}
				for _, state := range history[max(0, len(history)-70):] {
					was[state] = true
				}
				if got, _ := tw.behind.Presence(twin, now); !was[got] {
					tw.t.Fatalf("%s: at %v the user is %q, and without us has been %v for a minute; %q", tw.what, at, got, was, habits)
				}
			})
		}
		for todo.Len() > 0 {
			p := heap.Pop(&todo).(plan)
			p.do(testkit.At(seconds(p.at)))
		}
	}
}
