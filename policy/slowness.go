package policy

import (
	"cmp"
	"slices"
	"time"
)

const (
	// slowFactor is how many times as long as at its best the homeserver takes when it is slow.
	slowFactor = 4

	// neverSlow is what is not slow, however quick the homeserver is at its best: nobody waits for a
	// presence who would notice.
	neverSlow = 20 * time.Millisecond

	// unknownBest is what is taken for the shortest time where too few have asked to know it.
	unknownBest = 25 * time.Millisecond

	// mostBest is what no homeserver is slower than at its best, however slow it has been since we began: what
	// takes a second is slow.
	mostBest = 250 * time.Millisecond

	// Slowness, in parts of what is slow: at most calmSlowness is calm, and hurtSlowness at least is for those who
	// wait for messages too. A failure is worse.
	calmSlowness, hurtSlowness = 0.5, 4

	// baseAge is for how long a time counts that was the shortest: what an upgrade has made slower is
	// slow until then.
	baseAge    = 10 * time.Minute
	baseShares = 10
)

// baseline is the shortest time of a kind of probes within baseAge, by parts of that: what half of the senders
// in a window had theirs within, or twice what a quarter had, or at first the quickest one. Otherwise a single one may be
// quick by chance, or have asked for something that is quick, and a homeserver that is slow from the beginning has
// no window in which half of them are quick.
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
	return float64(took) / float64(max(slowFactor*min(b.known(), mostBest), neverSlow))
}

// stretch returns how many times as long as at its best that is.
func (b *baseline) stretch(took time.Duration) float64 { return float64(took) / float64(b.known()) }

// known is best, or what is taken for it.
func (b *baseline) known() time.Duration { return cmp.Or(b.best(), unknownBest) }

const (
	// places is how many probes a window looks at, and placesEach how many of one sender.
	places, placesEach = 64, 4

	// enoughProbes of enoughSenders are needed to say that the homeserver is slow, or what it is at its best:
	// so many that it is no chance, and that no one or two decide it.
	enoughProbes, enoughSenders = 8, 3
)

// window is what is known of the homeserver's slowness since it began. It has a place for each probe, by
// its sender. Of senders who share a place one is looked at, drawn anew for each window: how often somebody
// asks is no more of a voice, so a client that has its own requests take long, or fail, decides nothing for
// others who are more.
type window struct {
	hash  func(sender string) uint64
	bases [probeKinds]baseline
	least [probeKinds]time.Duration // of all that came back, also of those without a place; 0: none
	began int64
	// cold tells that nothing was known of the homeserver when it began.
	cold bool
	// crowded tells that so many requests are under way that they may be why it is slow.
	crowded bool
	draw    uint64 // by which senders come before others

	turn uint64
	back [places]cameBack
	away [places]underWay
	// quick is when the last probe left that came back and wasn't slow. What left before says nothing of
	// the homeserver as it is now.
	quick int64
	// since is when less began to go to it. What left before, and comes back now, says how slow it was with more.
	since int64

	entered, refused, spared int // presence requests that were let through, that weren't, and that needn't have been

	// refusedOf is how many of a sender's weren't, up to placesEach, by parts of the senders.
	refusedOf [places]uint8
}

// cameBack is a probe that has come back. The zero one is none.
type cameBack struct {
	sender uint64
	kind   ProbeKind
	failed bool
	left   int64
	took   time.Duration
}

// underWay is a probe that hasn't come back. The zero one is none.
type underWay struct {
	number, sender uint64
	kind           ProbeKind
	left           int64
}

// leaves notes a probe, in one of its sender's places. An older one there stays: if that doesn't come
// back, its age tells.
func (w *window) leaves(p *Probe, sender string) {
	w.turn++
	p.number, p.sender = w.turn, w.hash(sender)
	p.place = int((p.sender + w.turn%placesEach*golden) >> (64 - 6))
	if away := &w.away[p.place]; away.number == 0 {
		*away = underWay{p.number, p.sender, p.kind, p.left}
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
	if failed && p.left < w.quick || p.left < w.since {
		return
	}
	if least := &w.least[p.kind]; !failed && (*least == 0 || took < *least) {
		*least = took
	}
	if !failed && w.bases[p.kind].slowness(took) < 1 {
		w.quick = max(w.quick, p.left)
	}
	known := &w.back[p.place]
	if known.took == 0 || w.isBefore(p.sender, known.sender) ||
		known.sender == p.sender && (known.failed || !failed && took < known.took) {
		*known = cameBack{p.sender, p.kind, failed, p.left, took}
	}
}

// golden spreads hashes.
const golden = 0x9e3779b97f4a7c15

// isBefore tells which of two senders is looked at in this window.
func (w *window) isBefore(sender, other uint64) bool {
	return (sender^w.draw)*golden>>32 < (other^w.draw)*golden>>32
}

// verdict is what a window says of the homeserver.
type verdict struct {
	probes   int
	senders  int
	failed   int           // of these senders, all that they sent
	slowness float64       // for half of the senders at least, or 0 if there are none
	stretch  float64       // likewise, how many times as long as at its best
	share    float64       // of a worker's time that presence took, at the homeserver's best
	best     time.Duration // of fetches, or of lookups
}

// isEnough tells that a homeserver which seems slow is.
func (v *verdict) isEnough() bool { return v.probes >= enoughProbes && v.senders >= enoughSenders }

// heard is what a window has heard by a probe of a sender.
type heard struct {
	sender   uint64
	slowness float64
	stretch  float64
	failed   bool
	rank     int // which of a sender's counts: the lowest, and of these the quickest
}

// judge returns what is known by now. With newer, what left before the last quick one doesn't count.
func (w *window) judge(at int64, newer bool) (v verdict) {
	w.learn(at)
	all := make([]heard, 0, 2*places)
	for i := range w.back {
		before := len(all)
		if all = w.hears(all, i, at, newer); len(all) > before {
			v.probes++
		}
	}
	slices.SortFunc(all, func(a, b heard) int {
		return cmp.Or(cmp.Compare(a.sender, b.sender), cmp.Compare(a.rank, b.rank), cmp.Compare(a.slowness, b.slowness))
	})
	all = slices.CompactFunc(all, func(a, b heard) bool { return a.sender == b.sender })
	for _, h := range all {
		if h.failed {
			v.failed++
		}
	}
	v.senders = len(all)
	v.slowness = median(all, func(h heard) float64 { return h.slowness })
	v.stretch = median(all, func(h heard) float64 { return h.stretch })
	v.best = cmp.Or(w.bases[ProbeFetch].best(), w.bases[ProbeLookup].best())
	v.share = float64(w.entered) * v.best.Seconds() / w.lasted(at).Seconds()
	return v
}

// median returns what half of them have at most, or 0 if there are none.
func median(all []heard, what func(heard) float64) float64 {
	if len(all) == 0 {
		return 0
	}
	of := make([]float64, len(all))
	for i, h := range all {
		of[i] = what(h)
	}
	slices.Sort(of)
	return of[(len(of)-1)/2]
}

// hears adds what a place has heard. A probe that is under way counts if it is slow already, and then it is newer
// than what its sender has heard before.
func (w *window) hears(all []heard, place int, at int64, newer bool) []heard {
	if back := &w.back[place]; back.took > 0 {
		h := heard{back.sender, w.bases[back.kind].slowness(back.took), w.bases[back.kind].stretch(back.took), back.failed, 1}
		if back.failed {
			h.slowness = 2 * hurtSlowness
		}
		if !newer || h.slowness < 1 || back.left >= w.quick {
			all = append(all, h)
		}
	}
	if away := &w.away[place]; away.number != 0 && away.left > w.quick {
		since := time.Duration(at - away.left)
		if late := w.bases[away.kind].slowness(since); late >= 1 {
			all = append(all, heard{away.sender, late, w.bases[away.kind].stretch(since), false, 0})
		}
	}
	return all
}

// learn notes in the baselines how long the probes of the window took.
func (w *window) learn(at int64) {
	for kind := range w.bases {
		w.bases[kind].age(at)
		all := make([]cameBack, 0, places)
		for _, back := range w.back {
			if back.took > 0 && !back.failed && back.kind == ProbeKind(kind) {
				all = append(all, back)
			}
		}
		probes := len(all)
		slices.SortFunc(all, func(a, b cameBack) int { return cmp.Or(cmp.Compare(a.sender, b.sender), cmp.Compare(a.took, b.took)) })
		all = slices.CompactFunc(all, func(a, b cameBack) bool { return a.sender == b.sender })
		if len(all) < enoughSenders {
			continue
		}
		slices.SortFunc(all, func(a, b cameBack) int { return cmp.Compare(a.took, b.took) })
		best := 2 * all[(len(all)-1)/4].took
		if w.bases[kind].best() == 0 {
			best = 2 * w.least[kind] // it may be slow from the beginning, but for who asked first
			if w.crowded {
				best = min(best, unknownBest) // and for these too
			}
		}
		if probes >= enoughProbes {
			best = min(best, all[(len(all)-1)/2].took)
		}
		w.bases[kind].note(best, at)
	}
}

// wanted returns how many presence requests a second the homeserver would have got if nothing gave way.
func (w *window) wanted(at int64) float64 {
	return float64(w.entered+w.refused+w.spared) / w.lasted(at).Seconds()
}

// needed is wanted without those that what is known was good enough for.
func (w *window) needed(at int64) float64 {
	return float64(w.entered+w.refused) / w.lasted(at).Seconds()
}

// lasted is for how long the window has lasted, or a second.
func (w *window) lasted(at int64) time.Duration { return max(time.Second, time.Duration(at-w.began)) }

// refuses notes that a presence request wasn't let through.
func (w *window) refuses(sender uint64) {
	w.refused++
	if of := &w.refusedOf[sender>>(64-6)]; *of < placesEach {
		*of++
	}
}

// refusedShare returns which part of the presence requests weren't let through, of which a few count of
// each sender: one who wants very much doesn't keep a level alone.
func (w *window) refusedShare() float64 {
	refused := 0
	for _, of := range w.refusedOf {
		refused += int(of)
	}
	return float64(refused) / max(1, float64(w.entered+refused))
}

// sendersAway returns of how many senders probes are under way that have a place.
func (w *window) sendersAway() int {
	var of [places]uint64
	n := 0
	for _, away := range w.away {
		if away.number != 0 && !slices.Contains(of[:n], away.sender) {
			of[n] = away.sender
			n++
		}
	}
	return n
}

// restart begins another window, with what is under way.
func (w *window) restart(at int64) {
	w.began, w.back, w.entered, w.refused, w.spared, w.refusedOf = at, [places]cameBack{}, 0, 0, 0, [places]uint8{}
	w.least = [probeKinds]time.Duration{}
	w.draw = (w.draw + 1) * golden
	w.cold = w.bases[ProbeFetch].best() == 0 && w.bases[ProbeLookup].best() == 0
}

// forget begins another window with nothing. What is under way says nothing when it comes back.
func (w *window) forget(at int64) {
	w.restart(at)
	w.away, w.since = [places]underWay{}, at
}
