package faults

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// TestFaults lets each fault meet each role, and prints what came of it.
func TestFaults(t *testing.T) {
	s := newSite(t)
	rounds := 1
	if suite.Full() {
		rounds = 10
	}
	var table strings.Builder
	out := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprint(out, "fault\tCaddy alone")
	for _, r := range roles {
		fmt.Fprintf(out, "\t%s", r.name)
	}
	fmt.Fprintln(out, "\tkept")

	rows := make([]string, len(faults))
	trials, heap := 0, heapInUse()
	for round := range rounds {
		for _, i := range rand.Perm(len(faults)) {
			f := &faults[i]
			t.Run(f.name, func(t *testing.T) {
				alone := s.alone(t, f)
				row := []string{f.name, alone[read].String()}
				for _, r := range roles {
					t.Run(r.name, func(t *testing.T) {
						trials++
						done := s.watch(t)
						got := r.play(&trial{t, s, f, alone})
						done(t, f.panics && r.passes)
						row = append(row, got.String())
					})
				}
				rows[i] = strings.Join(append(row, f.kept.String()), "\t")
			})
		}
		if suite.Full() {
			t.Logf("round %d of %d done", round+1, rounds)
		}
	}
	fmt.Fprintln(out, strings.Join(rows, "\n"))
	out.Flush()
	t.Logf("what clients see:\n%s", table.String())
	grown := int64(heapInUse()) - int64(heap)
	t.Logf("%d faults × %d roles, %d trials in all; no goroutine, no panic of ours, no token in the log; the heap has grown by %d KB",
		len(faults), len(roles), trials, grown>>10)
	if grown > 32<<20 {
		t.Errorf("the heap has grown by %d MB", grown>>20)
	}
}

// alone notes what clients of Caddy without the module see of a fault.
func (s *site) alone(t *testing.T, f *fault) map[kind]seen {
	done := s.watch(t)
	alone := make(map[kind]seen)
	for _, what := range []kind{read, write, logout, other} {
		tr := &trial{t, s, f, nil}
		user := newUser("user")
		alone[what] = tr.under(func() seen { return s.ask(t, without, what, user, user) }, s.main)
	}
	done(t, f.panics)
	if got := alone[read]; got.status != f.status || got.broken != f.broken {
		t.Errorf("a read through Caddy alone got %v, and the table says %v", got, seen{status: f.status, broken: f.broken})
	}
	return alone
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC() // what the first one's finalizers have let go
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
