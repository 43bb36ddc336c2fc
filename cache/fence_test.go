package cache

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

func TestAWriteIsSeenInTickets(t *testing.T) {
	p := newPresence()
	const target = "@a:hs"
	idle := p.Depart(target, testkit.Epoch)
	if !idle.Settled() {
		t.Error("not settled before any write")
	}
	first := p.BeginWrite(target)
	inFirst := p.Depart(target, testkit.Epoch)
	second := p.BeginWrite(target)
	inBoth := p.Depart(target, testkit.Epoch)
	second.End(testkit.At(time.Second), time.Second)
	afterSecond := p.Depart(target, testkit.At(time.Hour)) // the first is still in flight
	first.End(testkit.At(time.Hour), time.Second)
	settling := p.Depart(target, testkit.At(time.Hour+time.Second-1))
	settled := p.Depart(target, testkit.At(time.Hour+time.Second))

	for _, tt := range []struct {
		name   string
		ticket Ticket
		want   bool
	}{
		{"in the first write", inFirst, false}, {"in both", inBoth, false}, {"after the second", afterSecond, false},
		{"settling", settling, false}, {"settled", settled, true},
	} {
		if tt.ticket.Settled() != tt.want {
			t.Errorf("%s: settled is %v", tt.name, !tt.want)
		}
	}
	// A read that departed between a write's beginning and its end may have read
	// either state, so nobody who comes later may share it.
	tickets := []Ticket{idle, inFirst, inBoth, afterSecond, settling}
	for i, earlier := range tickets {
		for _, later := range tickets[i+1:] {
			if earlier.Generation() == later.Generation() {
				t.Errorf("%+v and %+v are of one generation", earlier, later)
			}
		}
	}
	// Its answer says nothing about a write that has ended since.
	for name, overtaken := range map[string]bool{
		"idle": p.Overtaken(idle), "in the first write": p.Overtaken(inFirst), "in both": p.Overtaken(inBoth), "after the second": p.Overtaken(afterSecond),
		"settling": !p.Overtaken(settling), "settled": !p.Overtaken(settled),
	} {
		if !overtaken {
			t.Errorf("%s: overtaken is wrong", name)
		}
	}
	for _, tt := range []struct {
		name   string
		ticket Ticket
		want   bool
	}{{"idle", idle, false}, {"settling", settling, true}, {"settled", settled, false}} {
		if tt.ticket.Settling() != tt.want {
			t.Errorf("%s: settling is %v", tt.name, !tt.want)
		}
	}
	if settling.Generation() != settled.Generation() {
		t.Error("the generation changed without a write")
	}
	if found := p.Lookup("@v:hs", target, &Rules{TTL: time.Hour}, testkit.At(time.Hour)); found.Ticket != p.Depart(target, testkit.At(time.Hour)) {
		t.Errorf("a lookup's ticket is %+v", found.Ticket)
	}
}

func TestTheLongestSettleTimeCounts(t *testing.T) {
	p := newPresence()
	long, short := p.BeginWrite("@a:hs"), p.BeginWrite("@a:hs")
	long.End(testkit.Epoch, time.Minute)
	short.End(testkit.At(time.Second), time.Second)
	if p.Depart("@a:hs", testkit.At(time.Minute-1)).Settled() {
		t.Error("a shorter settle time ended a longer one")
	}
	if !p.Depart("@a:hs", testkit.At(time.Minute)).Settled() {
		t.Error("not settled in time")
	}
}

// fenceMates returns two targets of one fence, and one of another.
func fenceMates(p *Presence) (a, b, other string) {
	a = "@a:hs"
	_, fence := p.shardOf(a)
	for i := 0; b == "" || other == ""; i++ {
		target := fmt.Sprintf("@%d:hs", i)
		if _, f := p.shardOf(target); f == fence {
			b = target
		} else {
			other = target
		}
	}
	return a, b, other
}

func TestAWriteDropsNoStateOfAnotherTarget(t *testing.T) {
	p, rules := newPresence(), &Rules{TTL: time.Hour}
	a, mate, other := fenceMates(p)
	for i, target := range []string{a, mate, other} {
		p.Allow("@v:hs", p.Depart(target, testkit.Epoch), version(i), rules, testkit.Epoch)
	}
	write := p.BeginWrite(a)
	for _, end := range []bool{false, true} {
		if end {
			write.End(testkit.At(time.Second), time.Minute)
		}
		for i, want := range []Outcome{Miss, Hit, Hit} {
			target := []string{a, mate, other}[i]
			if found := p.Lookup("@v:hs", target, rules, testkit.At(2*time.Second)); found.Outcome != want {
				t.Errorf("%s, write ended: %v: outcome %v, want %v", target, end, found.Outcome, want)
			}
		}
		// It does keep new answers of a neighbour out, which is harmless.
		if p.Allow("@v:hs", p.Depart(mate, testkit.At(2*time.Second)), version(3), rules, testkit.Epoch) {
			t.Error("an answer was stored on an unsettled fence")
		}
		if !p.Allow("@v:hs", p.Depart(other, testkit.At(2*time.Second)), version(2), rules, testkit.Epoch) {
			t.Error("an answer was not stored on a settled fence")
		}
	}
}

// interleavings calls visit with each order in which processes of so many steps may
// take them. An order names processes; each takes its own steps in turn.
func interleavings(steps []int, visit func(order []int)) {
	var order []int
	var extend func()
	extend = func() {
		done := true
		for process := range steps {
			if steps[process] > 0 {
				done = false
				steps[process]--
				order = append(order, process)
				extend()
				order = order[:len(order)-1]
				steps[process]++
			}
		}
		if done {
			visit(order)
		}
	}
	extend()
}

// versions are parsed once, the scenes are many.
var versions = []*Answer{version(0), version(1), version(2)}

// scene is a number of reads and writes of one target that overlap in all ways.
// A read departs, is read by the homeserver, and is stored; a write begins, is
// applied by the homeserver, and ends. Each step takes one second.
type scene struct {
	reads, writes int
	settle        int  // seconds
	late          bool // the homeserver applies a write up to settle after it acknowledged it
	acknowledges  bool // the writes end with what was written
	missing       bool // it answers 404 before the first write
	perViewer     bool // each read has a viewer of its own, otherwise all have one
}

const (
	depart = iota
	read
	store
)

// trace is one way in which a scene plays.
type trace struct {
	t     *testing.T
	scene scene
	p     *Presence
	rules *Rules
	now   int
	order []int // of the processes, as far as it was played

	register int      // of the homeserver
	tickets  []Ticket // of the reads
	values   []int    // that they read
	writing  []Write
	ended    []int // when the writes ended, 0: not yet

	// What the documentation says must be stored.
	inFlight  int
	settled   int
	changes   int   // beginnings and ends of writes
	begun     []int // how many there were when the write had begun
	began     []time.Time
	alone     []bool // the write began when all before it had settled
	shown     int    // the version by which answers show that the last write was applied, 0: none
	since     []int  // how many changes there were when the read departed
	clean     []bool // the read may still be stored
	departed  []int
	permitted map[string]bool
	kept      map[string]int // viewer → read that is stored
}

func (tr *trace) viewer(i int) string {
	if tr.scene.perViewer {
		return []string{"@v0:hs", "@v1:hs", "@v2:hs"}[i]
	}
	return "@v:hs"
}

// slot is whose state a viewer is shown.
func (tr *trace) slot(viewer string) string {
	if tr.scene.perViewer {
		return viewer
	}
	return ""
}

func (tr *trace) fail(format string, args ...any) {
	tr.t.Helper()
	var words []string
	taken := make([]int, tr.scene.reads+tr.scene.writes)
	for _, process := range tr.order {
		if i := process - tr.scene.reads; i < 0 {
			words = append(words, fmt.Sprintf("read %d %s", process+1, []string{"departs", "reads", "is stored"}[taken[process]]))
		} else if i < tr.scene.writes {
			words = append(words, fmt.Sprintf("write %d %s", i+1, []string{"begins", "ends"}[taken[process]]))
		} else {
			words = append(words, fmt.Sprintf("write %d is applied", i-tr.scene.writes+1))
			continue
		}
		taken[process]++
	}
	tr.t.Fatalf("%+v: %s: %s", tr.scene, strings.Join(words, ", "), fmt.Sprintf(format, args...))
}

// play plays one order, unless the homeserver would have to be slower than settle.
func (s scene) play(t *testing.T, order []int) (played bool) {
	tr := &trace{
		t: t, scene: s, p: NewPresence(10, 10, testkit.Epoch),
		rules:   &Rules{TTL: time.Hour, ForbiddenTTL: time.Hour, PerViewer: s.perViewer},
		tickets: make([]Ticket, s.reads), values: make([]int, s.reads), clean: make([]bool, s.reads), departed: make([]int, s.reads),
		writing: make([]Write, s.writes), ended: make([]int, s.writes),
		begun: make([]int, s.writes), began: make([]time.Time, s.writes), alone: make([]bool, s.writes), since: make([]int, s.reads),
		permitted: make(map[string]bool), kept: make(map[string]int),
	}
	taken := make([]int, s.reads+2*s.writes)
	for _, process := range order {
		tr.now++
		tr.order = order[:tr.now]
		step := taken[process]
		taken[process]++
		switch i := process - s.reads; {
		case process < s.reads:
			tr.read(process, step)
		case i < s.writes: // the write as the client sees it
			tr.write(i, step)
		default: // the homeserver applies it
			i -= s.writes
			begun := taken[s.reads+i] > 0
			inTime := tr.ended[i] == 0 || s.late && tr.now <= tr.ended[i]+s.settle
			if !begun || !inTime {
				return false
			}
			tr.register = i + 1
		}
		tr.check()
	}
	return true
}

func (tr *trace) read(i, step int) {
	viewer, now := tr.viewer(i), testkit.At(time.Duration(tr.now)*time.Second)
	switch step {
	case depart:
		tr.tickets[i] = tr.p.Depart("@a:hs", now)
		tr.departed[i], tr.since[i] = tr.now, tr.changes
		tr.clean[i] = tr.inFlight == 0 && tr.now >= tr.settled
		if tr.tickets[i].Settled() != tr.clean[i] {
			tr.fail("the ticket is settled: %v", tr.tickets[i].Settled())
		}
	case read:
		tr.values[i] = tr.register
	case store:
		if tr.scene.missing && tr.values[i] == 0 {
			tr.p.Deny(viewer, tr.tickets[i], &Denial{UntilWrite: true, Status: 404}, tr.rules)
			return
		}
		other, occupied := tr.kept[tr.slot(viewer)]
		shows := tr.since[i] == tr.changes && tr.shown != 0 && tr.values[i] == tr.shown
		want := (tr.clean[i] || shows) && (!occupied || tr.departed[other] < tr.departed[i])
		if got := tr.p.Allow(viewer, tr.tickets[i], versions[tr.values[i]], tr.rules, testkit.Epoch); got != want {
			tr.fail("stored: %v, want %v", got, want)
		}
		tr.permitted[viewer] = true
		if want {
			tr.kept[tr.slot(viewer)] = i
		}
	}
}

func (tr *trace) write(i, step int) {
	clear(tr.clean) // whatever has departed
	tr.changes++
	tr.shown = 0
	if step == 0 {
		tr.writing[i], tr.begun[i] = tr.p.BeginWrite("@a:hs"), tr.changes
		tr.began[i] = testkit.At(time.Duration(tr.now) * time.Second)
		tr.alone[i] = tr.inFlight == 0 && tr.now >= tr.settled
		tr.inFlight++
		clear(tr.kept)
		return
	}
	now, settle := testkit.At(time.Duration(tr.now)*time.Second), time.Duration(tr.scene.settle)*time.Second
	if tr.scene.acknowledges {
		tr.writing[i].Acknowledge([]byte(versions[i+1].Body), tr.began[i], now, settle)
		if tr.alone[i] && tr.changes == tr.begun[i]+1 {
			tr.shown = i + 1
		}
	} else {
		tr.writing[i].End(now, settle)
	}
	tr.inFlight--
	tr.ended[i] = tr.now
	tr.settled = max(tr.settled, tr.now+tr.scene.settle)
}

// check looks at the target with everybody's eyes.
func (tr *trace) check() {
	for i := range tr.scene.reads {
		viewer := tr.viewer(i)
		found := tr.p.Lookup(viewer, "@a:hs", tr.rules, testkit.At(time.Duration(tr.now)*time.Second))
		// What matters: nobody is shown what is no longer so.
		if found.Outcome == Hit && versionOf(found.Answer) != tr.register {
			tr.fail("%s is shown version %d, the homeserver has %d", viewer, versionOf(found.Answer), tr.register)
		}
		if found.Outcome == Denied && tr.register != 0 {
			tr.fail("%s is told that there is none, the homeserver has version %d", viewer, tr.register)
		}
		if tr.scene.missing {
			continue
		}
		// And what can be kept is.
		kept, ok := tr.kept[tr.slot(viewer)]
		ok = ok && tr.permitted[viewer]
		if (found.Outcome == Hit) != ok {
			tr.fail("outcome %v for %s, want a hit: %v", found.Outcome, viewer, ok)
		}
		if ok && (found.Age != time.Duration(tr.now-tr.departed[kept])*time.Second || versionOf(found.Answer) != tr.values[kept]) {
			tr.fail("%s is shown version %d of age %v, want that of read %d", viewer, versionOf(found.Answer), found.Age, kept+1)
		}
	}
}

// Nothing is stored that departed before the write's end and settle time, and no
// older answer replaces a younger one, in whatever order the steps come.
func TestEveryInterleavingOfReadsAndWrites(t *testing.T) {
	for _, size := range []struct{ reads, writes int }{{1, 1}, {2, 1}, {1, 2}, {3, 0}} {
		if size.reads+size.writes > 2 && testing.Short() {
			continue
		}
		t.Run(fmt.Sprintf("%d reads, %d writes", size.reads, size.writes), func(t *testing.T) {
			var steps []int
			for range size.reads {
				steps = append(steps, 3)
			}
			for range size.writes {
				steps = append(steps, 2)
			}
			for range size.writes {
				steps = append(steps, 1)
			}
			var played int
			variants := 20
			if size.writes == 0 {
				variants = 4 // there is nothing to settle
			}
			for variant := range variants {
				s := scene{
					reads: size.reads, writes: size.writes, missing: variant&1 != 0, perViewer: variant&2 != 0,
					settle: []int{0, 3, 3, 3, 0}[variant/4], late: variant/4 == 2 || variant/4 == 3, acknowledges: variant/4 >= 3,
				}
				interleavings(steps, func(order []int) {
					if s.play(t, order) {
						played++
					}
				})
			}
			t.Logf("%d were played", played)
			if played < variants*10 {
				t.Error("too few interleavings were played")
			}
		})
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, perViewer := range []bool{false, true} {
		for _, viewers := range []int{10, 1000, 10_000} { // it must not matter
			b.Run(fmt.Sprintf("%d viewers, per viewer %v", viewers, perViewer), func(b *testing.B) {
				p, rules := NewPresence(100_000, 100_000, testkit.Epoch), &Rules{TTL: time.Hour, PerViewer: perViewer}
				for i := range viewers {
					p.Allow(fmt.Sprintf("@v%d:hs", i), p.Depart("@a:hs", testkit.Epoch), version(1), rules, testkit.Epoch)
				}
				answer := version(2)
				b.ReportAllocs()
				for b.Loop() { // with the next answer, so that there is a state to drop
					p.BeginWrite("@a:hs").End(testkit.Epoch, 0)
					p.Allow("@v0:hs", p.Depart("@a:hs", testkit.Epoch), answer, rules, testkit.Epoch)
				}
			})
		}
	}
}
