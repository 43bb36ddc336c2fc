package policy

import "time"

// ProbeKind is a kind of requests of ours of which each costs the homeserver about as much as another. How
// long it takes for them tells how busy it is.
type ProbeKind uint8

const (
	ProbeLookup ProbeKind = iota // whose a token is
	ProbeFetch                   // of a presence
	probeKinds
)

// Probe is a request of ours that tells how slow the homeserver is.
type Probe struct {
	brownOut *BrownOut
	kind     ProbeKind
	left     int64
	place    int
	number   uint64
	sender   uint64
	over     bool // guarded by the lock
}

// Departs notes a probe that leaves on behalf of a sender. [Probe.Arrives], or [Probe.Drop], must be called.
func (b *BrownOut) Departs(kind ProbeKind, sender string, now time.Time) (p *Probe) {
	b.locked(now, func(at int64) {
		p = &Probe{brownOut: b, kind: kind, left: at}
		b.window.leaves(p, sender)
		b.untold = false
	})
	return p
}

// Arrives notes that a probe has come back, or has failed: by a 5xx, or by no answer in time.
func (p *Probe) Arrives(failed bool, now time.Time) {
	p.brownOut.locked(now, func(at int64) {
		p.over = true
		p.brownOut.window.returns(p, failed, at)
	})
}

// Drop notes that a probe is over and tells nothing, because the homeserver hasn't seen it. After
// Arrives it does nothing.
func (p *Probe) Drop() {
	b := p.brownOut
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.over {
		return
	}
	p.over = true
	b.window.drops(p)
	b.untold = true
}
