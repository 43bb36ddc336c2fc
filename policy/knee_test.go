package policy

import (
	"container/heap"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"time"
)

// knee is a homeserver in virtual time with a few workers and one queue (M/G/k): up to some load it is
// quick, and beyond that the queue grows without end. It has messages to send, and presence requests, which
// go through a [BrownOut].
type knee struct {
	random *rand.Rand // for presence
	other  *rand.Rand // for messages, so that these are the same whatever becomes of presence
	load   load

	brown  *BrownOut
	off    bool // nothing gives way
	events events
	now    time.Duration
	queue  []*job
	busy   int

	changes []changed
	waits   []waited // of messages
	shed    int
	served  int // presence requests that reached the homeserver
	spared  int
}

// load is what happens each second, and how long that takes a worker.
type load struct {
	workers         int
	messages, reads float64
	message, read   time.Duration
	repeated        float64 // the part of the reads that is answered by what is a bit older
	senders         int
	hangs           bool // it answers nobody
	slowSenders     int  // the first so many, whose requests take a second more on the way
	impatient       bool // clients come again when they are told to
}

type changed struct {
	at       time.Duration
	from, to BrownOutLevel
}

type waited struct{ at, took time.Duration }

// job is a request at the homeserver.
type job struct {
	came, takes time.Duration
	done        func(took time.Duration, failed bool)
}

type happening struct {
	at   time.Duration
	does func()
}

type events []happening

func (e events) Len() int           { return len(e) }
func (e events) Less(i, j int) bool { return e[i].at < e[j].at }
func (e events) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)        { *e = append(*e, x.(happening)) }
func (e *events) Pop() any {
	old := *e
	last := old[len(old)-1]
	*e = old[:len(old)-1]
	return last
}

var dawn = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newKnee(seed uint64, l load) *knee {
	k := &knee{random: rand.New(rand.NewPCG(seed, 1)), other: rand.New(rand.NewPCG(seed, 2)), load: l}
	k.brown = NewBrownOut(dawn, k.random.Float64, func(c BrownOutChange) {
		k.changes = append(k.changes, changed{k.now, c.From, c.To})
	})
	draw := k.random.Uint64()
	k.brown.window.draw = draw
	k.brown.window.hash = func(sender string) uint64 { // a seed gives the same run each time
		hash := fnv.New64a()
		_, _ = fmt.Fprint(hash, draw, sender)
		return hash.Sum64() * golden
	}
	k.each(k.other, func() float64 { return k.load.messages }, k.send)
	k.each(k.random, func() float64 { return k.load.reads }, func() { k.read(1+k.random.IntN(max(1, k.load.senders)), 3) })
	return k
}

func (k *knee) after(d time.Duration, does func()) { heap.Push(&k.events, happening{k.now + d, does}) }

// each has something happen so often each second, at random.
func (k *knee) each(random *rand.Rand, rate func() float64, does func()) {
	var again func()
	again = func() {
		if rate() <= 0 {
			k.after(time.Second, again)
			return
		}
		k.after(time.Duration(random.ExpFloat64()/rate()*float64(time.Second)), func() { does(); again() })
	}
	again()
}

// run lets time pass.
func (k *knee) run(d time.Duration) {
	for end := k.now + d; ; {
		if len(k.events) == 0 || k.events[0].at > end {
			k.now = end
			return
		}
		e := heap.Pop(&k.events).(happening)
		k.now = e.at
		e.does()
	}
}

// timeout is how long anybody waits for the homeserver.
const timeout = 30 * time.Second

func (k *knee) ask(random *rand.Rand, takes time.Duration, done func(took time.Duration, failed bool)) {
	j := &job{came: k.now, takes: time.Duration(float64(takes) * (0.5 + random.ExpFloat64()/2)), done: done}
	if k.load.hangs {
		k.after(timeout, func() { done(timeout, true) })
		return
	}
	k.queue = append(k.queue, j)
	k.work()
}

func (k *knee) work() {
	for k.busy < k.load.workers && len(k.queue) > 0 {
		j := k.queue[0]
		k.queue = k.queue[1:]
		if k.now-j.came > timeout {
			j.done(timeout, true)
			continue
		}
		k.busy++
		k.after(j.takes, func() {
			k.busy--
			j.done(k.now-j.came, false)
			k.work()
		})
	}
}

func (k *knee) clock() time.Time { return dawn.Add(k.now) }

func (k *knee) send() {
	at := k.now
	k.ask(k.other, k.load.message, func(took time.Duration, _ bool) { k.waits = append(k.waits, waited{at, took}) })
}

func (k *knee) read(who, tries int) {
	sender := fmt.Sprint("@user", who)
	if !k.off && k.brown.Level(k.clock()) >= BrownOutSpare && k.random.Float64() < k.load.repeated {
		k.spared++
		k.brown.Spare()
		return
	}
	var pass Pass
	if !k.off {
		var wait time.Duration
		if pass, wait = k.brown.Enter(sender, true, k.clock()); wait > 0 {
			k.shed++
			if k.load.impatient && tries > 1 {
				k.after(wait, func() { k.read(who, tries-1) })
			}
			return
		}
	}
	k.served++
	probe := k.brown.Departs(ProbeFetch, sender, k.clock())
	k.ask(k.random, k.load.read, func(_ time.Duration, failed bool) {
		back := func() {
			if k.off {
				probe.Drop()
				return
			}
			probe.Arrives(failed, k.clock())
			pass.Leave(k.clock())
		}
		if who <= k.load.slowSenders {
			k.after(time.Second, back)
			return
		}
		back()
	})
}

// p99 is that of messages which were sent since then.
func (k *knee) p99(since time.Duration) time.Duration {
	var all []time.Duration
	for _, w := range k.waits {
		if w.at >= since {
			all = append(all, w.took)
		}
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[len(all)*99/100]
}

func (k *knee) changesSince(since time.Duration) (n int) {
	for _, c := range k.changes {
		if c.at >= since {
			n++
		}
	}
	return n
}

func (k *knee) level() BrownOutLevel { return k.brown.Level(k.clock()) }
