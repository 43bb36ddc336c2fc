package differential_test

import (
	"flag"
	"math/rand/v2"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

var seed = flag.Uint64("seed", 1, "the same seed makes the same cases")

// count is how many cases there are of each kind and homeserver.
type count struct{ writes, reads, credentials, sequences int }

func counts() count {
	return suite.BySize(
		count{writes: 400, reads: 600, credentials: 400, sequences: 5},
		count{writes: 5000, reads: 6000, credentials: 5000, sequences: 50})
}

func TestMain(m *testing.M) { suite.Main(m) }

// source returns the random source of a test.
func source() *rand.Rand { return rand.New(rand.NewPCG(*seed, 0)) }
