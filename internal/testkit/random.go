package testkit

import (
	"flag"
	"math/rand/v2"
	"testing"
)

// seed is the same each time, so that a change is judged by itself and not by luck. It repeats a
// random test that failed: go test ./policy -run NAME -seed N. With 0 tests look further.
var seed = flag.Uint64("seed", 1, "seed of the random tests; 0 takes a new one each time")

// Rand returns a source of randomness whose seed a failing test prints.
func Rand(t testing.TB) *rand.Rand {
	t.Helper()
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("repeat with -seed %d", s)
	return rand.New(rand.NewPCG(s, s))
}

// Pick returns one of the choices.
func Pick[T any](r *rand.Rand, choices ...T) T { return choices[r.IntN(len(choices))] }
