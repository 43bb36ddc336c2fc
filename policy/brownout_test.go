package policy

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

const ms = time.Millisecond

// calmLoads are what a homeserver can do, by how busy it is: a Synapse on one core, and a quicker one with workers.
var calmLoads = map[string]load{
	"nearly idle": {workers: 1, messages: 5, message: 20 * ms, reads: 20, read: 3 * ms, senders: 50},
	"half busy":   {workers: 1, messages: 15, message: 20 * ms, reads: 60, read: 3 * ms, senders: 200},
	"quick":       {workers: 4, messages: 100, message: 5 * ms, reads: 300, read: 1 * ms, senders: 200},
	"one client":  {workers: 1, messages: 15, message: 20 * ms, reads: 60, read: 3 * ms, senders: 1},
	"slow line":   {workers: 8, messages: 10, message: 200 * ms, reads: 20, read: 150 * ms, senders: 100},
}

// overloads are what it can do without presence, and not with it.
var overloads = map[string]load{
	"a bit too much":                    {workers: 1, messages: 20, message: 20 * ms, reads: 220, read: 3 * ms, senders: 200},
	"twice too much":                    {workers: 1, messages: 20, message: 20 * ms, reads: 550, read: 3 * ms, senders: 500},
	"clients come again":                {workers: 1, messages: 20, message: 20 * ms, reads: 400, read: 3 * ms, senders: 500, impatient: true},
	"what is older is enough":           {workers: 1, messages: 20, message: 20 * ms, reads: 350, read: 3 * ms, repeated: 0.6, senders: 500},
	"what is older is not quite enough": {workers: 1, messages: 20, message: 20 * ms, reads: 350, read: 3 * ms, repeated: 0.35, senders: 500},
	"what is older is plenty":           {workers: 1, messages: 20, message: 20 * ms, reads: 400, read: 3 * ms, repeated: 0.95, senders: 500},
	"quick":                             {workers: 4, messages: 100, message: 20 * ms, reads: 600, read: 5 * ms, senders: 500},
}

var (
	size = flag.String("size", "small", "how many runs of a law are drawn anew of each load: small: none, medium: 20, or full: 200, in some minutes")
	draw = flag.Uint64("draw", 0, "the one run of each load to try, if it isn't 0")
)

// eachLoad runs f with each load, three times that are the same each time, and with some that are drawn anew if
// -size says so. To repeat one that failed, name it by -draw.
func eachLoad(t *testing.T, loads map[string]load, f func(t *testing.T, seed uint64, l load)) {
	run := func(name string, seed uint64) {
		t.Run(fmt.Sprint(name, "/", seed), func(t *testing.T) {
			t.Parallel()
			f(t, seed, loads[name])
		})
	}
	names := slices.Sorted(maps.Keys(loads))
	if *draw != 0 {
		for _, name := range names {
			run(name, *draw)
		}
		return
	}
	for _, name := range names {
		for seed := range uint64(3) {
			run(name, 1+seed)
		}
		for range map[string]int{"small": 0, "medium": 20, "full": 200}[*size] {
			run(name, rand.Uint64())
		}
	}
}

func TestNothingGivesWayToAHomeserverThatKeepsUp(t *testing.T) {
	eachLoad(t, calmLoads, func(t *testing.T, seed uint64, l load) {
		k := newKnee(seed, l)
		k.run(2 * time.Minute)
		if len(k.changes) > 0 || k.shed > 0 {
			t.Errorf("%d requests were shed, and the level changed: %v", k.shed, k.changes)
		}
	})
}

// The law of it all: once it has come to a rest, messages wait hardly longer than without presence, the
// level stays as it is, and when the load is over so is the brown-out.
func TestMessagesDontWaitForPresence(t *testing.T) {
	eachLoad(t, overloads, func(t *testing.T, seed uint64, l load) {
		without, with, neither := newKnee(seed, l), newKnee(seed, l), newKnee(seed, l)
		without.load.reads, neither.off = 0, true
		const rest, all = time.Minute, 3 * time.Minute
		without.run(all)
		with.run(all)
		neither.run(20 * time.Second)

		best := without.p99(rest)
		if got := with.p99(rest); got > 2*best+10*ms {
			t.Errorf("messages took %v (p99), and %v without presence: %v", got, best, with.changes)
		}
		if got := neither.p99(0); got < 2*best {
			t.Errorf("no overload: messages took %v (p99) with nothing that gives way", got)
		}
		if n, minutes := with.changesSince(rest), (all - rest).Minutes(); float64(n) > 2*minutes {
			t.Errorf("the level changed %d times in %.1f minutes: %v", n, minutes, with.changes)
		}
		if with.shed+with.spared == 0 || with.served == 0 {
			t.Errorf("%d were shed, %d spared, and %d served", with.shed, with.spared, with.served)
		}
		with.load.reads /= 20
		if took := with.recovers(); took > time.Minute {
			t.Errorf("presence is back after %v: %v", took, with.changes)
		}
	})
}

// A homeserver may be far too busy from the moment at which we begin, as after a restart, and even its first answer slow.
func TestOverloadFromTheBeginning(t *testing.T) {
	loads := map[string]load{"five times too much": {workers: 1, messages: 8, message: 20 * ms, reads: 800, read: 6 * ms, senders: 100}}
	eachLoad(t, loads, func(t *testing.T, seed uint64, l load) {
		k := newKnee(seed, l)
		k.load.read = 3 * time.Second // of those who come first
		k.run(time.Second / 2)
		k.load.read = l.read
		k.run(20 * time.Second)
		if k.level() < BrownOutHold {
			t.Errorf("after 20 s the level is %s", BrownOutNames[k.level()])
		}
	})
}

// While nothing is known of the homeserver, a crowd is too much for it: before the first answers were slow, hundreds
// would be under way. One that keeps up has presence back within a minute.
func TestCrowdBeforeAnythingIsKnown(t *testing.T) {
	for _, test := range []struct {
		name    string
		senders int
		isHeld  bool
	}{{"of many", 100, true}, {"of a few", crowdSenders - 1, false}} {
		eachLoad(t, map[string]load{test.name: calmLoads["half busy"]}, func(t *testing.T, seed uint64, l load) {
			k := newKnee(seed, l)
			for i := range 400 {
				k.read(1+i%test.senders, 1)
			}
			if held := k.level() == BrownOutHold; held != test.isHeld {
				t.Errorf("the level is %s", BrownOutNames[k.level()])
			}
			if test.isHeld && k.served > 2*coldCrowd {
				t.Errorf("%d were let through, want about %d", k.served, coldCrowd)
			}
			if took := k.recovers(); took > time.Minute {
				t.Errorf("presence is back after %v: %v", took, k.changes)
			}
		})
	}
}

// In hold more places are tried only as long as they take no time from others, and those that have too much aren't
// tried again soon, unless less is wanted: of a worker that is busy presence has about a quarter, and of many it has more.
func TestPlacesAreTriedCarefully(t *testing.T) {
	for name, test := range map[string]struct {
		workers     int
		least, most float64 // of a worker's time
	}{"one worker": {1, 0.04, 0.35}, "many workers": {32, 0.6, 2}} {
		eachLoad(t, map[string]load{name: {workers: test.workers, messages: 20, message: 20 * ms, reads: 600, read: 3 * ms, senders: 500}},
			func(t *testing.T, seed uint64, l load) {
				k := newKnee(seed, l)
				k.brown.force(BrownOutHold, k.clock())
				k.run(onceAgain / 2)
				if got := k.brown.entrants.limit; got != leastUnderWay {
					t.Errorf("%d places at first", got)
				}
				k.served = 0
				k.run(4 * time.Minute)
				if got := float64(k.served) / 240 * l.read.Seconds(); got < test.least || got > test.most {
					t.Errorf("presence has %.2f of a worker's time, want %.2f to %.2f: %v", got, test.least, test.most, k.changes)
				}
			})
	}
}

// recovers lets time pass until the level is none, or three minutes.
func (k *knee) recovers() time.Duration {
	began := k.now
	for k.level() != BrownOutNone && k.now-began < 3*time.Minute {
		k.run(time.Second / 2)
	}
	return k.now - began
}

// afterHang is how soon presence is back after a homeserver answered nobody. That takes three probes of
// different users, one each five seconds or so, two windows in hold at least, and twice calmTime: most often 40 s. Each window
// that is slow by chance, because messages came all at once, is one more, so a minute can't be promised.
const afterHang = 75 * time.Second

// A homeserver that answers nobody has presence off in seconds, and one that is back has it back soon, also when
// that comes again. What still hangs from before doesn't keep it.
func TestHomeserverThatHangs(t *testing.T) {
	loads := map[string]load{"half busy": calmLoads["half busy"], "quick": calmLoads["quick"]}
	eachLoad(t, loads, func(t *testing.T, seed uint64, l load) {
		k := newKnee(seed, l)
		k.run(time.Minute)
		for range 2 {
			k.load.hangs = true
			k.run(20 * time.Second)
			if k.level() != BrownOutOff {
				t.Fatalf("20 s after it began to hang the level is %s: %v", BrownOutNames[k.level()], k.changes)
			}
			before := k.served
			k.run(time.Minute)
			if n := k.served - before; n < 8 || n > 17 {
				t.Errorf("%d requests went to it in a minute, want one each 5 s or so", n)
			}
			k.load.hangs = false
			if took := k.recovers(); took > afterHang {
				t.Errorf("after %v the level is %s: %v", took, BrownOutNames[k.level()], k.changes)
			}
			k.run(20 * time.Second)
		}
	})
}

// After an upgrade all takes ten times as long at its best. That is the new best once the old one is too old.
func TestSlowerMinimumDoesntLockItIn(t *testing.T) {
	loads := map[string]load{"upgraded": {workers: 16, messages: 5, message: 40 * ms, reads: 20, read: 10 * ms, senders: 50}}
	eachLoad(t, loads, func(t *testing.T, seed uint64, l load) {
		k := newKnee(seed, l)
		k.run(2 * time.Minute)
		k.load.read *= 10
		k.run(30 * time.Second)
		if k.level() == BrownOutNone {
			t.Fatal("it isn't slow")
		}
		// Some minutes more, as a hold that takes chance for the load tries again after 45 s, 90 s, three and six minutes: one in
		// 200 needs more than the first six.
		k.run(baseAge + 12*time.Minute)
		if k.level() != BrownOutNone {
			t.Fatalf("after 22 minutes the level is %s: %v", BrownOutNames[k.level()], k.changes)
		}
		quiet := k.now
		k.run(5 * time.Minute)
		if n := k.changesSince(quiet); n > 0 {
			t.Errorf("the level changed %d times more: %v", n, k.changes)
		}
	})
}

// Clients that have their own requests take long, however many they make, decide nothing for others who are
// more: not that presence gives way, and not that it goes on when the homeserver is quick again.
func TestSlowSendersDecideNothingForOthers(t *testing.T) {
	for _, few := range []int{1, 3} {
		l := load{workers: 4, messages: 5, message: 20 * ms, reads: 60, read: 3 * ms, senders: 30, slowSenders: few}
		eachLoad(t, map[string]load{fmt.Sprint(few, " of 30"): l}, func(t *testing.T, seed uint64, l load) {
			k := newKnee(seed, l)
			k.each(k.random, func() float64 { return 60 }, func() { k.read(1+k.random.IntN(l.slowSenders), 1) })
			k.run(2 * time.Minute)
			if len(k.changes) > 0 {
				t.Errorf("the level changed: %v", k.changes)
			}
			k.load.hangs = true
			k.run(40 * time.Second)
			k.load.hangs = false
			if took := k.recovers(); took > 90*time.Second { // each place that they have is one less to see by
				t.Errorf("presence is back after %v: %v", took, k.changes)
			}
		})
	}
}

// Of senders who share a place one is looked at, whichever asks more often.
func TestWhoAsksMoreIsLookedAtNoMore(t *testing.T) {
	flooded := 0
	const draws = 20
	for draw := range uint64(draws) {
		k := newKnee(draw, load{})
		w := &k.brown.window
		probe := func(sender string) {
			p := &Probe{left: 1}
			w.leaves(p, sender)
			w.returns(p, false, 2)
		}
		for i := range 300 {
			probe(fmt.Sprint("@user", i))
		}
		own := make(map[uint64]bool)
		for i := range 15 * 400 { // so that each has all of its places
			sender := fmt.Sprint("@flood", i%15)
			own[w.hash(sender)] = true
			probe(sender)
		}
		for _, back := range w.back {
			if own[back.sender] {
				flooded++
			}
		}
	}
	if flooded > draws*places/3 {
		t.Errorf("15 of 315 senders have %d places of %d", flooded, draws*places)
	}
}

// Two clients aren't enough to say that the homeserver is slow, nor two with more places than three others.
func TestVerdictIsThatOfHalfOfTheSenders(t *testing.T) {
	for _, test := range []struct {
		often, once string // who have theirs take long, often, and who don't
		isSlow      bool
	}{
		{"ab", "", false}, {"abc", "", true}, {"ab", "cde", false}, {"abc", "defgh", false}, {"abcdefgh", "ijk", true},
	} {
		slow := 0
		const draws = 20
		for draw := range uint64(draws) {
			w := &newKnee(draw, load{}).brown.window
			w.bases[ProbeFetch].note(ms, 1)
			probe := func(sender string, took time.Duration) {
				p := &Probe{kind: ProbeFetch, left: 1}
				w.leaves(p, sender)
				w.returns(p, false, 1+int64(took))
			}
			for _, sender := range test.often {
				for range placesEach {
					probe(string(sender), time.Second)
				}
			}
			for _, sender := range test.once {
				probe(string(sender), ms)
			}
			if v := w.judge(int64(time.Second), false); v.isEnough() && v.slowness >= 1 {
				slow++
			}
		}
		if test.isSlow && slow < draws/2 || !test.isSlow && slow > 0 {
			t.Errorf("%d slow ones and %d quick ones: slow in %d of %d draws", len(test.often), len(test.once), slow, draws)
		}
	}
}

// What hangs since the homeserver answered nobody takes no place in hold, when it is quick again.
func TestWhatHangsTakesNoPlaceInHold(t *testing.T) {
	k := newKnee(1, load{})
	b := k.brown
	b.force(BrownOutOff, k.clock())
	var hung []Pass
	for i := range 300 {
		k.run(100 * ms)
		if pass, wait := b.Enter(fmt.Sprint("@user", i), true, k.clock()); wait == 0 {
			hung = append(hung, pass)
		}
	}
	if len(hung) <= leastUnderWay {
		t.Fatalf("%d hang", len(hung))
	}
	b.enterLevel(BrownOutOff, BrownOutHold, b.at(k.clock()))
	pass, wait := b.Enter("@alice", true, k.clock())
	if wait > 0 {
		t.Error("there is no place")
	}
	for _, p := range append(hung, pass) {
		p.Leave(k.clock())
	}
	if b.entrants.underWay != 0 {
		t.Errorf("%d are under way when all are over", b.entrants.underWay)
	}
}

// What left before a level began comes back late, because of what was under way then. It doesn't tell that the level is
// no help: presence was off for a backlog that was gone.
func TestBacklogSaysNothingOfTheLevel(t *testing.T) {
	k := newKnee(1, load{})
	quick := func() {
		for i := range 10 {
			k.tell(new(Pass), fmt.Sprint("@quick", i), false)
		}
	}
	quick()
	k.run(3 * time.Second)
	var backlog []*Probe
	for i := range 80 {
		backlog = append(backlog, k.brown.Departs(ProbeFetch, fmt.Sprint("@user", i), k.clock()))
	}
	k.run(time.Second)
	k.brown.force(BrownOutHold, k.clock())
	for range 8 { // more than two windows
		for _, p := range backlog[:10] {
			p.Arrives(false, k.clock())
		}
		backlog = backlog[10:]
		k.run(time.Second)
		quick()
	}
	if level := k.level(); level > BrownOutHold {
		t.Errorf("the level is %s: %v", BrownOutNames[level], k.changes)
	}
}

// newLeft is a quick homeserver that is known, just after spare was left.
func newLeft() *knee {
	k := newKnee(1, load{})
	for i := range 10 {
		k.tell(new(Pass), fmt.Sprint("@quick", i), false)
	}
	k.run(3 * time.Second)
	k.brown.MayEnter(k.clock()) // the window ends, and the best is known
	k.brown.force(BrownOutSpare, k.clock())
	k.brown.enterLevel(BrownOutSpare, BrownOutNone, k.brown.at(k.clock()))
	return k
}

// A level that was enough for a load is enough when it comes back: with hold in its place there was one change more, and
// presence was less than it needed to be.
func TestRelapseIsIntoTheLevelThatWasLeft(t *testing.T) {
	k := newLeft()
	for i := range 2 * crowdAgain { // all at once, and nobody is answered: that hurts
		sender := fmt.Sprint("@user", i)
		k.brown.Enter(sender, true, k.clock())
		k.brown.Departs(ProbeFetch, sender, k.clock())
		k.run(10 * ms)
	}
	if level := k.level(); level != BrownOutSpare {
		t.Errorf("the level is %s: %v", BrownOutNames[level], k.changes)
	}
}

// Early in a window hardly any of those who are quick have come back, so a few who have their own requests take long would
// decide for all that a level is needed again, each time that it is left.
func TestFewDontSayEarlyThatALevelIsNeeded(t *testing.T) {
	k := newLeft()
	var slow []*Probe
	for i := range 2 * crowdAgain {
		sender := fmt.Sprint("@slow", i%3)
		k.brown.Enter(sender, true, k.clock())
		slow = append(slow, k.brown.Departs(ProbeFetch, sender, k.clock()))
	}
	k.run(2 * soonest)
	for _, p := range slow[:crowdAgain] {
		p.Arrives(false, k.clock())
	}
	for _, sender := range []string{"@quick1", "@quick2"} {
		k.brown.Enter(sender, true, k.clock())
		k.tell(new(Pass), sender, false)
	}
	if level := k.level(); level != BrownOutNone {
		t.Errorf("the level is %s: %v", BrownOutNames[level], k.changes)
	}
}

// In hold whoever had a place of late leaves the next one to others who wait, and has it if nobody does.
func TestPlacesInHoldGoRound(t *testing.T) {
	k := newKnee(1, load{})
	k.brown.force(BrownOutHold, k.clock())
	had := make(map[string]int)
	enter := func(senders ...string) {
		for _, sender := range senders {
			if pass, wait := k.brown.Enter(sender, true, k.clock()); wait == 0 {
				had[sender]++
				k.after(5*ms, func() { pass.Leave(k.clock()) })
			}
		}
	}
	for range 200 {
		enter("@greedy1", "@greedy2", "@greedy1", "@greedy2", "@a", "@b", "@c", "@d", "@e", "@f", "@g", "@h")
		k.run(10 * ms)
	}
	if greedy := had["@greedy1"] + had["@greedy2"]; greedy == 0 || greedy > had["@a"]+had["@b"]+had["@c"] {
		t.Errorf("who asks first had %d places: %v", greedy, had)
	}
	clear(had)
	k.run(longWindow)
	for range 100 {
		enter("@greedy1")
		k.run(20 * ms)
	}
	if had["@greedy1"] < 50 {
		t.Errorf("who is alone had %d places", had["@greedy1"])
	}
}

// A client whose requests are quick by what they ask for doesn't make those of all others look slow.
func TestQuickSenderDecidesNothingForOthers(t *testing.T) {
	w := &newKnee(1, load{}).brown.window
	for _, senders := range []string{"bcdefghi", "abcdefghi"} { // the first time nothing is known
		w.restart(0)
		for round := range int64(10) {
			for _, sender := range senders {
				took := int64(150 * ms)
				if sender == 'a' {
					took = int64(ms)
				}
				p := &Probe{kind: ProbeFetch, left: 1 + round}
				w.leaves(p, string(sender))
				w.returns(p, false, p.left+took)
			}
		}
		w.judge(int64(time.Second), false)
	}
	if v := w.judge(int64(time.Second), false); v.best != 150*ms {
		t.Errorf("the best is %v", v.best)
	}
}

// Where very few ask, it can't be told whether the homeserver is slow, and it isn't their load: nothing gives way
// to them, and they keep no level, however slow one of them is.
func TestFewRequestsKeepNoLevel(t *testing.T) {
	for name, l := range map[string]load{
		"one each five seconds": {workers: 1, read: 3 * ms, reads: 0.2, senders: 50},
		"likewise, of one user": {workers: 1, read: 3 * ms, reads: 0.2, senders: 1},
		"slow ones":             {workers: 8, read: 3 * ms, reads: 0.5, senders: 2, slowSenders: 2},
		"none":                  {workers: 1},
	} {
		eachLoad(t, map[string]load{name: l}, func(t *testing.T, seed uint64, l load) {
			k := newKnee(seed, l)
			k.run(2 * time.Minute)
			if len(k.changes) > 0 {
				t.Errorf("the level changed: %v", k.changes)
			}
			for _, level := range []BrownOutLevel{BrownOutSpare, BrownOutHold, BrownOutOff} {
				k.brown.force(level, k.clock())
				if took := k.recovers(); took > time.Minute {
					t.Errorf("%s: presence is back after %v: %v", BrownOutNames[level], took, k.changes)
				}
			}
		})
	}
}

// In off one request goes up each few seconds, and never of the same sender twice in a row: whoever has
// theirs fail would keep presence off.
func TestProbesAreOfDifferentSenders(t *testing.T) {
	k := newKnee(1, load{})
	k.brown.force(BrownOutOff, k.clock())
	var probes []string
	for range 600 {
		k.run(100 * ms)
		for _, sender := range []string{"@greedy", "@greedy", "@greedy", "@honest"} {
			if pass, wait := k.brown.Enter(sender, true, k.clock()); wait == 0 {
				probes = append(probes, sender)
				k.tell(&pass, sender, true)
			} else if wait < probeEach || wait > 2*probeEach {
				t.Fatalf("to be tried again after %v", wait)
			}
		}
	}
	if len(probes) < 9 || len(probes) > 16 {
		t.Errorf("%d probes in a minute", len(probes))
	}
	for i, sender := range probes[1:] {
		if sender == probes[i] {
			t.Errorf("probe %d is of the same sender as the one before", i+1)
		}
	}
}

// Who is alone must not be shut out by that.
func TestOneSenderAloneProbesToo(t *testing.T) {
	k := newKnee(1, load{})
	k.brown.force(BrownOutOff, k.clock())
	n := 0
	for range 600 {
		k.run(100 * ms)
		if pass, wait := k.brown.Enter("@alone", true, k.clock()); wait == 0 {
			n++
			k.tell(&pass, "@alone", true)
		}
	}
	if n < 5 {
		t.Errorf("%d probes in a minute", n)
	}
}

// tell has a request that may go be a probe, which comes back at once.
func (k *knee) tell(pass *Pass, sender string, failed bool) {
	k.brown.Departs(ProbeFetch, sender, k.clock()).Arrives(failed, k.clock())
	pass.Leave(k.clock())
}

// What isn't measured, such as a write or a read that is passed on, and what turns out to need nothing of the
// homeserver, take nobody's turn in off: the homeserver was back, and nobody would find out.
func TestWhatTellsNothingDoesntKeepPresenceOff(t *testing.T) {
	for name, flood := range map[string]func(k *knee, sender string){
		"passed on": func(k *knee, sender string) {
			pass, _ := k.brown.Enter(sender, false, k.clock())
			pass.Leave(k.clock())
		},
		"passed on, and slow": func(k *knee, sender string) {
			if pass, wait := k.brown.Enter(sender, false, k.clock()); wait == 0 {
				k.after(4*time.Second, func() { pass.Leave(k.clock()) })
			}
		},
		"not sent": func(k *knee, sender string) { // the client has shown too many tokens that are unknown
			pass, _ := k.brown.Enter(sender, true, k.clock())
			pass.Leave(k.clock())
		},
		"answered by the site": func(k *knee, sender string) {
			if pass, wait := k.brown.Enter(sender, true, k.clock()); wait == 0 {
				k.brown.Departs(ProbeLookup, sender, k.clock()).Drop()
				pass.Leave(k.clock())
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKnee(1, load{})
			k.brown.force(BrownOutOff, k.clock())
			probes := 0
			for i := range 6000 {
				k.run(10 * ms)
				for n := range 3 { // of addresses that take turns, so that none had a probe of late
					flood(k, fmt.Sprint("2001:db8::", 3*i+n))
				}
				if i%10 > 0 {
					continue
				}
				sender := fmt.Sprint("@user", i/10%20)
				if pass, wait := k.brown.Enter(sender, true, k.clock()); wait == 0 {
					probes++
					k.tell(&pass, sender, false)
				}
				if k.brown.now() != BrownOutOff {
					break
				}
			}
			if probes == 0 || k.brown.now() == BrownOutOff {
				t.Errorf("after a minute, and %d probes of an idle homeserver, presence is still off", probes)
			}
		})
	}
}

// Where nothing is measured, a write or a read that is passed on goes now and then all the same.
func TestWhatTellsNothingGoesWhereNothingElseDoes(t *testing.T) {
	k := newKnee(1, load{})
	k.brown.force(BrownOutOff, k.clock())
	n := 0
	for i := range 600 {
		k.run(100 * ms)
		if pass, wait := k.brown.Enter(fmt.Sprint("@user", i%5), false, k.clock()); wait == 0 {
			n++
			pass.Leave(k.clock())
		}
	}
	if n < 5 || n > 13 {
		t.Errorf("%d in a minute", n)
	}
}

// Whoever asks all the time has no more than half of the places: the others have the rest.
func TestNobodyHasAllPlaces(t *testing.T) {
	k := newKnee(1, load{})
	k.brown.force(BrownOutHold, k.clock())
	got := make(map[string]int)
	for i := range 600 {
		k.run(100 * ms)
		for _, sender := range []string{"@greedy", "@greedy", "@greedy", "@greedy", fmt.Sprint("@user", i)} {
			if pass, wait := k.brown.Enter(sender, true, k.clock()); wait == 0 {
				got[sender[:5]]++
				k.after(200*ms, func() { pass.Leave(k.clock()) })
			}
		}
	}
	if got["@user"] < got["@gree"]*2/3 || got["@gree"] == 0 {
		t.Errorf("one had %d places, and all others %d", got["@gree"], got["@user"])
	}
}

// force has it be on a level.
func (b *BrownOut) force(level BrownOutLevel, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := b.at(now)
	b.enterLevel(level-1, level, at)
	b.restart(at)
	b.left, b.relapse = [BrownOutLevels]int64{}, relapse{}
}

// In hold few are under way, and none takes the place at once of one that is over.
func TestHoldBoundsWhatIsUnderWay(t *testing.T) {
	k := newKnee(1, load{})
	k.brown.force(BrownOutHold, k.clock())
	var passes []Pass
	n := 0
	enter := func() bool {
		n++
		pass, wait := k.brown.Enter(fmt.Sprint("@user", n), true, k.clock())
		if wait > 0 && (wait < holdWait || wait > 2*holdWait) {
			t.Fatalf("to be tried again after %v", wait)
		}
		if wait == 0 {
			passes = append(passes, pass)
		}
		return wait == 0
	}
	for range leastUnderWay {
		if !enter() {
			t.Fatalf("%d are under way, want %d", len(passes), leastUnderWay)
		}
	}
	if enter() {
		t.Fatalf("more than %d are under way", leastUnderWay)
	}
	if k.brown.MayEnter(k.clock()) == 0 {
		t.Error("what waits may go")
	}
	k.run(100 * ms)
	passes[0].Leave(k.clock())
	if enter() {
		t.Error("its place is taken at once")
	}
	k.run(restFactor*100*ms + 1)
	if k.brown.MayEnter(k.clock()) > 0 || !enter() || enter() {
		t.Error("there is no place after a while, or more than one")
	}
}

// Nobody who isn't there keeps a level: when nobody asks anything it ends by itself.
func TestLevelEndsWhenNobodyAsks(t *testing.T) {
	k := newKnee(1, load{})
	k.brown.force(BrownOutOff, k.clock())
	if took := k.recovers(); took > time.Minute {
		t.Errorf("after %v the level is %s", took, BrownOutNames[k.level()])
	}
}

// A machine that slept comes back with requests under way that look old.
func TestSleepIsNoSlowness(t *testing.T) {
	k := newKnee(1, calmLoads["half busy"])
	k.run(time.Minute)
	var probes []*Probe
	for i := range 60 {
		probes = append(probes, k.brown.Departs(ProbeFetch, fmt.Sprint("@user", i), k.clock()))
	}
	k.now += time.Hour
	for i := range k.events {
		k.events[i].at += time.Hour
	}
	k.brown.Departs(ProbeFetch, "@user", k.clock()).Arrives(false, k.clock())
	if len(k.changes) > 0 {
		t.Errorf("the level changed: %v", k.changes)
	}
	for _, p := range probes {
		p.Drop()
	}
}

func TestBaselineAges(t *testing.T) {
	var b baseline
	minute := int64(time.Minute)
	if b.best() != 0 || b.slowness(slowFactor*unknownBest) != 1 {
		t.Errorf("%v, %v before anything", b.best(), b.slowness(slowFactor*unknownBest))
	}
	b.note(100*ms, 0)
	b.note(90*ms, 5*minute)
	b.note(300*ms, 9*minute)
	for _, step := range []struct {
		at   int64
		want time.Duration
	}{{9 * minute, 90 * ms}, {14*minute + minute/2, 90 * ms}, {15 * minute, 300 * ms}, {19 * minute, 0}, {1000 * minute, 0}} {
		if b.age(step.at); b.best() != step.want {
			t.Errorf("after %d minutes: %v, want %v", step.at/minute, b.best(), step.want)
		}
	}
}

// The window of a homeserver that many ask has the same size as one that few ask.
func TestSenderHasAFewPlaces(t *testing.T) {
	k := newKnee(1, load{})
	for range 1000 {
		k.brown.window.leaves(&Probe{left: 1}, "@greedy")
	}
	n := 0
	for _, away := range k.brown.window.away {
		if away.number != 0 {
			n++
		}
	}
	if n == 0 || n > placesEach {
		t.Errorf("%d places, want at most %d", n, placesEach)
	}
}

// Whoever sends a probe drops it when all is over, in case that panicked: one that has come back has told, and a
// place is given back once.
func TestProbeIsDroppedOnce(t *testing.T) {
	b := NewBrownOut(testkit.Epoch, func() float64 { return 0 }, func(BrownOutChange) {})
	came, lost := b.Departs(ProbeFetch, "a", testkit.Epoch), b.Departs(ProbeFetch, "b", testkit.Epoch)
	came.Arrives(false, testkit.At(time.Second))
	came.Drop()
	if b.untold {
		t.Error("what came back has told nothing")
	}
	lost.Drop()
	b.untold = false
	lost.Drop()
	if b.untold {
		t.Error("what was dropped is dropped again")
	}
	for i := range b.window.away {
		if b.window.away[i].number != 0 {
			t.Error("a place is taken for ever")
		}
	}
}
