package survival_test

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

var (
	duration  = flag.Duration("duration", 0, "how long the soak lasts, if not as long as the size says")
	rate      = flag.Int("rate", 0, "how many requests a second the soak makes, if not 1000, or 500 in less than two minutes")
	crowdSize = flag.Int("crowd", 10_000, "how many users come back after a restart, at the full size")

	docs = flag.String("docs", "", "a `folder` to write the soak's chart to, soak.svg")
)

// size is how much is done.
type size struct {
	reloads int // that nothing must leak from
	busy    int // reloads under load
	rounds  int // of ending and of killing under load
	soak    time.Duration
}

// scale is the size that was asked for.
var scale size

// figures are lines for the end of the output.
var figures []string

// figure notes what a test has done and found.
func figure(t *testing.T, format string, args ...any) {
	t.Helper()
	line := t.Name() + ": " + fmt.Sprintf(format, args...)
	t.Log(line)
	figures = append(figures, line)
}

func TestMain(m *testing.M) {
	flag.Parse()
	scale = suite.BySize(
		size{reloads: 100, busy: 10, rounds: 2, soak: 15 * time.Second},
		size{reloads: 1000, busy: 200, rounds: 25, soak: 10 * time.Minute})
	suite.MainWithSidecar(m, func() {
		if len(figures) > 0 {
			fmt.Println("\nsurvival, size " + suite.Size() + ":\n  " + strings.Join(figures, "\n  "))
		}
	})
}
