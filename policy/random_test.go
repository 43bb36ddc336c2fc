package policy

import (
	"flag"
	"math/rand/v2"
	"testing"
	"time"
)

// seed repeats a random test that failed: go test ./policy -run NAME -seed N.
var seed = flag.Uint64("seed", 0, "seed of the random tests; 0 takes a new one each time")

// newRand returns a source of randomness whose seed a failing test prints.
func newRand(t testing.TB) *rand.Rand {
	t.Helper()
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("repeat with -seed %d", s)
	return rand.New(rand.NewPCG(s, s))
}

// pick returns one of the choices.
func pick[T any](r *rand.Rand, choices ...T) T { return choices[r.IntN(len(choices))] }

// epoch is when all tests begin. No test looks at a real clock.
var epoch = time.Date(2026, time.July, 1, 12, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return epoch.Add(d) }
