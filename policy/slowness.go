package policy

import (
	"cmp"
	"slices"
	"time"
)

// ProbeKind is a kind of requests of ours of which each costs the homeserver about as much as another. How
// long it takes for them tells how busy it is.
type ProbeKind uint8

const (
	ProbeLookup ProbeKind = iota // whose a token is
	ProbeFetch                   // of a presence
	probeKinds
)

const (
	// slowFactor is how many times as long as at its best the homeserver takes when it is slow.
	slowFactor = 4

	// neverSlow is what is not slow, however quick the homeserver is at its best: nobody waits for a
	// presence who would notice.
	neverSlow = 20 * time.Millisecond

	// Slowness, in parts of what is slow: at most easySlowness is as at its best, calmSlowness is calm, and
	// hurtSlowness at least is for those who wait for messages too. A failure is worse.
	easySlowness, calmSlowness, hurtSlowness = 0.35, 0.5, 4

	// baseAge is for how long a time counts that was the shortest: what an upgrade has made slower is
	// slow until then.
	baseAge    = 10 * time.Minute
	baseShares = 10
)

// baseline is the shortest time of a kind of probes within baseAge, by parts of that: of half of those in a
// window, or twice that of one. A single one may be quick by chance, and a homeserver that is slow from
// the beginning has no window in which half of them are quick.
type baseline struct {
	least [baseShares]time.Duration // 0: none
	share int64                     // the number of the newest part, since the epoch
}

// note notes how long probes took that came back by a time since the epoch.
func (b *baseline) note(took time.Duration, at int64) {
	b.age(at)
	if least := &b.least[b.share%baseShares]; *least == 0 || took < *least {
		*least = max(took, 1)
	}
}

// age drops what is too old by then.
func (b *baseline) age(at int64) {
	share := max(b.share, at/int64(baseAge/baseShares))
	for old := max(b.share+1, share-baseShares+1); old <= share; old++ {
		b.least[old%baseShares] = 0
	}
	b.share = share
}

// best returns the shortest time, or 0 if none is known.
func (b *baseline) best() (best time.Duration) {
	for _, least := range b.least {
		if least > 0 && (best == 0 || least < best) {
			best = least
		}
	}
	return best
}

// slowness returns how slow it is to take so long, in parts of what is slow.
func (b *baseline) slowness(took time.Duration) float64 {
	return float64(took) / float64(max(slowFactor*b.best(), neverSlow))
}

const (
	// places is how many probes a window looks at, and placesEach how many of one sender: a client
	// that has its own requests answered slowly, or not at all, decides nothing for others.
	places, placesEach = 64, 4

	// enoughProbes are needed to say that the homeserver is slow: more than two senders have, and so many
	// that what half of them took is no chance.
	enoughProbes = 8
)

// window is what is known of the homeserver's slowness since it began. It has a place for each probe, by
// its sender.
type window struct {
	hash  func(sender string) uint64
	bases [probeKinds]baseline
	began int64

	turn uint64
	back [places]cameBack
	away [places]underWay
	// quick is when the last probe left that came back and wasn't slow. What left before says nothing of
	// the homeserver as it is now.
	quick int64

	entered, refused int // presence requests that were let through, and that weren't
}

// cameBack is a probe that has come back. The zero one is none.
type cameBack struct {
	sender uint64
	kind   ProbeKind
	failed bool
	took   time.Duration
}

// underWay is a probe that hasn't come back. The zero one is none.
type underWay struct {
	number uint64
	kind   ProbeKind
	left   int64
}

// leaves notes a probe, in one of its sender's places. An older one there stays: if that doesn't come
// back, its age tells.
func (w *window) leaves(p *Probe, sender string) {
	w.turn++
	p.number, p.sender = w.turn, w.hash(sender)
	p.place = int((p.sender + w.turn%placesEach*0x9e3779b97f4a7c15) >> (64 - 6))
	if away := &w.away[p.place]; away.number == 0 {
		*away = underWay{p.number, p.kind, p.left}
	}
}

// drops forgets a probe.
func (w *window) drops(p *Probe) {
	if away := &w.away[p.place]; away.number == p.number {
		*away = underWay{}
	}
}

// returns notes that a probe has come back. Of several of a sender in one place the quickest counts.
func (w *window) returns(p *Probe, failed bool, at int64) {
	w.drops(p)
	took := time.Duration(max(1, at-p.left))
	if failed && p.left < w.quick {
		return
	}
	if !failed && w.bases[p.kind].slowness(took) < 1 {
		w.quick = max(w.quick, p.left)
	}
	if known := &w.back[p.place]; known.took == 0 || known.sender != p.sender || known.failed || !failed && took < known.took {
		*known = cameBack{p.sender, p.kind, failed, took}
	}
}

// verdict is what a window says of the homeserver.
type verdict struct {
	probes   int
	failed   int           // of these
	slowness float64       // of half of them at least, or 0 if there are none
	best     time.Duration // of fetches, or of lookups
}

// judge returns what is known by now. A probe that is under way counts if it is slow already.
func (w *window) judge(at int64) (v verdict) {
	w.learn(at)
	all := make([]float64, 0, places)
	for i, back := range w.back {
		slowness := 0.0
		switch {
		case back.failed:
			v.failed++
			slowness = 2 * hurtSlowness
		case back.took > 0:
			slowness = w.bases[back.kind].slowness(back.took)
		}
		if away := w.away[i]; away.number != 0 && away.left > w.quick {
			if late := w.bases[away.kind].slowness(time.Duration(at - away.left)); late >= 1 {
				slowness = max(slowness, late)
			}
		}
		if slowness > 0 {
			all = append(all, slowness)
		}
	}
	if v.probes = len(all); v.probes > 0 {
		v.slowness = middle(all)
	}
	v.best = cmp.Or(w.bases[ProbeFetch].best(), w.bases[ProbeLookup].best())
	return v
}

// learn notes in the baselines how long the probes of the window took.
func (w *window) learn(at int64) {
	var took [probeKinds][]time.Duration
	for _, back := range w.back {
		if back.took > 0 && !back.failed {
			took[back.kind] = append(took[back.kind], back.took)
		}
	}
	for kind := range w.bases {
		w.bases[kind].age(at)
		if len(took[kind]) > 0 {
			best := 2 * slices.Min(took[kind])
			if len(took[kind]) >= enoughProbes {
				best = min(best, middle(took[kind]))
			}
			w.bases[kind].note(best, at)
		}
	}
}

// middle returns a value that half of some are above at most. It sorts them.
func middle[T cmp.Ordered](some []T) T {
	slices.Sort(some)
	return some[(len(some)-1)/2]
}

// isShort tells that more than one in so many presence requests weren't let through: those who are on their
// own don't count.
func (w *window) isShort() bool {
	const share = 5
	return share*w.refused > w.entered+w.refused
}

// restart begins another window, with what is under way.
func (w *window) restart(at int64) {
	w.began, w.back, w.entered, w.refused = at, [places]cameBack{}, 0, 0
}

// forget begins another window with nothing.
func (w *window) forget(at int64) {
	w.restart(at)
	w.away = [places]underWay{}
}
