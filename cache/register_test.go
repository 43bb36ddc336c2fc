package cache

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// register is a user's presence on the homeserver: the number of the last write.
type register struct {
	value atomic.Int64

	// known is the highest number that a write has acknowledged or a read has
	// returned. A read that begins later must not return a lower one.
	known atomic.Int64
}

func raise(n *atomic.Int64, to int64) {
	for old := n.Load(); old < to && !n.CompareAndSwap(old, to); old = n.Load() {
	}
}

// readThrough is the life of a GET: from memory, or from the homeserver, with
// what its answer says remembered.
func readThrough(r *rand.Rand, p *Presence, now func() time.Time, viewer, target string, rules *Rules, hs *register) (value int64, hit bool) {
	found := p.Lookup(viewer, target, rules, now())
	switch found.Outcome {
	case Hit:
		return int64(versionOf(found.Answer)), true
	case Denied:
		return 0, true
	}
	ticket := p.Depart(target, now())
	pause(r)
	value = hs.value.Load()
	pause(r)
	switch {
	case value == 0: // no presence yet
		p.Deny(viewer, ticket, &Denial{UntilWrite: true, Status: 404}, rules)
	case r.IntN(50) == 0:
		p.MarkUncached(ticket)
	default:
		p.Allow(viewer, ticket, version(int(value)), rules, testkit.Epoch)
	}
	return value, false
}

// pause lets others run, at times.
func pause(r *rand.Rand) {
	for range r.IntN(3) {
		runtime.Gosched()
	}
}

// Each user's presence is a linearizable register: a read never returns a value
// older than one that was acknowledged to a writer or returned to a reader before it
// began. At times a write is given up, and may have been applied all the same.
func TestReadsAreLinearizable(t *testing.T) {
	for _, tt := range []struct {
		name   string
		states int
		rules  Rules
	}{
		{"shared", 100, Rules{TTL: 500, ForbiddenTTL: 300, StaleIfError: 1000}},
		{"per viewer", 100, Rules{TTL: 500, ForbiddenTTL: 300, PerViewer: true}},
		{"with evictions", 2, Rules{TTL: 500, ForbiddenTTL: 300}},
		{"without expiry", 100, Rules{TTL: time.Hour, ForbiddenTTL: time.Hour}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const users = 3
			p := NewPresence(tt.states, 100, testkit.Epoch)
			var homeserver [users]register
			var ticks, hits atomic.Int64
			now := func() time.Time { return testkit.At(time.Duration(ticks.Add(1))) }
			shared := testkit.Rand(t)
			var workers sync.WaitGroup
			for worker := range 8 {
				r := rand.New(rand.NewPCG(shared.Uint64(), uint64(worker)))
				workers.Go(func() {
					for range 3000 {
						user := r.IntN(users)
						hs, target := &homeserver[user], fmt.Sprintf("@%d:hs", user)
						if r.IntN(20) == 0 {
							write := p.BeginWrite(target)
							pause(r)
							cancelled := r.IntN(4) == 0
							var value int64
							if !cancelled || r.IntN(2) == 0 {
								value = hs.value.Add(1)
							}
							pause(r)
							write.End(now(), 0)
							if !cancelled {
								raise(&hs.known, value)
							}
							continue
						}
						known := hs.known.Load()
						value, hit := readThrough(r, p, now, fmt.Sprintf("@v%d:hs", r.IntN(3)), target, &tt.rules, hs)
						if value < known {
							t.Errorf("a read of %s returned %d after %d was known", target, value, known)
							return
						}
						raise(&hs.known, value)
						if hit {
							hits.Add(1)
						}
					}
				})
			}
			workers.Wait()
			if hits.Load() < 100 {
				t.Errorf("only %d hits, so this test shows nothing", hits.Load())
			}
		})
	}
}

// A homeserver like Dendrite acknowledges a write and applies it within the settle
// time. Whatever memory shows is then at least as new as every write before the hit: the
// answer departed that long after the writes ended, or it shows the last one.
func TestSettledReadsOfALateHomeserver(t *testing.T) {
	r := testkit.Rand(t)
	var hits int
	for range 300 {
		const settle = 20
		rules := &Rules{TTL: time.Duration(testkit.Pick(r, 30, 1000)), ForbiddenTTL: 10, PerViewer: r.IntN(2) == 0}
		p := newPresence()
		var now time.Duration
		var register, written int
		type flight struct {
			ticket Ticket
			viewer string
			value  int // -1: not read yet
		}
		type applied struct {
			version int
			at      time.Duration
		}
		var flights []*flight
		var queue []applied // in the order of the writes
		for range 300 {
			now += time.Duration(r.IntN(5))
			for len(queue) > 0 && queue[0].at <= now {
				register, queue = queue[0].version, queue[1:]
			}
			viewer := testkit.Pick(r, bob, carol)
			switch r.IntN(8) {
			case 0:
				if r.IntN(4) > 0 {
					continue
				}
				written++
				write := p.BeginWrite(alice)
				write.Acknowledge([]byte(version(written).Body), testkit.At(now), testkit.At(now), settle)
				// The queue keeps the order.
				when := now + time.Duration(r.IntN(settle+1))
				if n := len(queue); n > 0 {
					when = max(when, queue[n-1].at)
				}
				queue = append(queue, applied{written, when})
			case 1, 2:
				flights = append(flights, &flight{p.Depart(alice, testkit.At(now)), viewer, -1})
			case 3, 4, 5:
				if len(flights) == 0 {
					continue
				}
				i := r.IntN(len(flights))
				if f := flights[i]; f.value < 0 {
					f.value = register
				} else {
					p.Allow(f.viewer, f.ticket, version(f.value), rules, testkit.Epoch)
					flights = append(flights[:i], flights[i+1:]...)
				}
			default:
				if found := p.Lookup(viewer, alice, rules, testkit.At(now)); found.Outcome == Hit {
					hits++
					if got := versionOf(found.Answer); got != written {
						t.Fatalf("at %v a hit shows version %d after write %d", now, got, written)
					}
				}
			}
		}
	}
	if hits < 1000 {
		t.Errorf("only %d hits", hits)
	}
}
