package policy

import (
	"fmt"
	"testing"
	"time"
)

const ms = time.Millisecond

// calmLoads are what a homeserver can do, by how busy it is: a Synapse on one core, and a quicker one with workers.
var calmLoads = map[string]load{
	"nearly idle": {workers: 1, messages: 5, message: 20 * ms, reads: 20, read: 3 * ms, senders: 50},
	"half busy":   {workers: 1, messages: 15, message: 20 * ms, reads: 60, read: 3 * ms, senders: 200},
	"quick":       {workers: 4, messages: 200, message: 5 * ms, reads: 1000, read: 1 * ms, senders: 500},
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
	"quick":                             {workers: 4, messages: 100, message: 20 * ms, reads: 600, read: 5 * ms, senders: 500},
}

// eachLoad runs f with some seeds of each load.
func eachLoad(t *testing.T, loads map[string]load, f func(t *testing.T, seed uint64, l load)) {
	for name, l := range loads {
		for seed := range uint64(2) {
			t.Run(fmt.Sprint(name, "/", seed), func(t *testing.T) { f(t, seed, l) })
		}
	}
}

func TestNothingGivesWayToAHomeserverThatKeepsUp(t *testing.T) {
	eachLoad(t, calmLoads, func(t *testing.T, seed uint64, l load) {
		k := newKnee(seed, l)
		k.run(3 * time.Minute)
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
		without.run(3 * time.Minute)
		with.run(3 * time.Minute)
		neither.run(20 * time.Second)

		const rest = 40 * time.Second
		best := without.p99(rest)
		if got := with.p99(rest); got > best*3/2+10*ms {
			t.Errorf("messages took %v (p99), and %v without presence: %v", got, best, with.changes)
		}
		if got := neither.p99(0); got < 4*best {
			t.Errorf("no overload: messages took %v (p99) with nothing that gives way", got)
		}
		if n, minutes := with.changesSince(rest), (3*time.Minute - rest).Minutes(); float64(n) > 2*minutes {
			t.Errorf("the level changed %d times in %.1f minutes: %v", n, minutes, with.changes)
		}
		if with.shed+with.spared == 0 || with.served == 0 {
			t.Errorf("%d were shed, %d spared, and %d served", with.shed, with.spared, with.served)
		}
		with.load.reads /= 20
		most := time.Minute
		if with.brown.again != [BrownOutLevels]int64{} {
			most += calmAgain // a level that came back stays for longer
		}
		if took := with.recovers(); took > most {
			t.Errorf("presence is back after %v: %v", took, with.changes)
		}
	})
}

// recovers lets time pass until the level is none, or two minutes.
func (k *knee) recovers() time.Duration {
	began := k.now
	for k.level() != BrownOutNone && k.now-began < 2*time.Minute {
		k.run(time.Second / 2)
	}
	return k.now - began
}

// A homeserver that answers nobody has presence off in seconds, and one that is back has it back within a
// minute, or a few seconds more: each of three levels ends some 20 s after the one before.
func TestHomeserverThatHangs(t *testing.T) {
	eachLoad(t, map[string]load{"half busy": calmLoads["half busy"]}, func(t *testing.T, seed uint64, l load) {
		k := newKnee(seed, l)
		k.run(time.Minute)
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
		if took := k.recovers(); took > time.Minute+10*time.Second {
			t.Errorf("after %v the level is %s: %v", took, BrownOutNames[k.level()], k.changes)
		}
	})
}

// After an upgrade all takes ten times as long at its best. That is the new best once the old one is too old.
func TestSlowerMinimumDoesntLockItIn(t *testing.T) {
	k := newKnee(1, load{workers: 16, messages: 5, message: 40 * ms, reads: 20, read: 10 * ms, senders: 50})
	k.run(2 * time.Minute)
	k.load.read *= 10
	k.run(30 * time.Second)
	if k.level() == BrownOutNone {
		t.Fatal("it isn't slow")
	}
	k.run(baseAge + 2*time.Minute)
	if k.level() != BrownOutNone {
		t.Fatalf("after 12 minutes the level is %s: %v", BrownOutNames[k.level()], k.changes)
	}
	quiet := k.now
	k.run(5 * time.Minute)
	if n := k.changesSince(quiet); n > 0 {
		t.Errorf("the level changed %d times more: %v", n, k.changes)
	}
}

// A client that has its own requests take long, however many it makes, decides nothing for the others.
func TestOneSlowSenderDecidesNothing(t *testing.T) {
	k := newKnee(1, load{workers: 4, messages: 5, message: 20 * ms, reads: 60, read: 3 * ms, senders: 30})
	k.load.slowSender = 1
	k.each(k.random, func() float64 { return 200 }, func() { k.read(1, 1) })
	k.run(3 * time.Minute)
	if len(k.changes) > 0 {
		t.Errorf("the level changed: %v", k.changes)
	}
}

// In off one request goes up each few seconds, and never of the same sender twice in a row: whoever has
// theirs fail would keep presence off.
func TestProbesAreOfDifferentSenders(t *testing.T) {
	k := newKnee(1, load{})
	k.brown.force(BrownOutOff)
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
	k.brown.force(BrownOutOff)
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
			k.brown.force(BrownOutOff)
			probes := 0
			for i := range 6000 {
				k.run(10 * ms)
				for n := range 3 {
					flood(k, fmt.Sprint("192.0.2.", n))
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
	k.brown.force(BrownOutOff)
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
	k.brown.force(BrownOutHold)
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
func (b *BrownOut) force(level BrownOutLevel) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.enterLevel(level-1, level, b.at(dawn))
}

// In hold few are under way, and none takes the place at once of one that is over.
func TestHoldBoundsWhatIsUnderWay(t *testing.T) {
	k := newKnee(1, load{})
	k.brown.force(BrownOutHold)
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
	k.brown.force(BrownOutOff)
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
	if b.best() != 0 || b.slowness(neverSlow) != 1 {
		t.Errorf("%v, %v before anything", b.best(), b.slowness(neverSlow))
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
