package survival_test

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

var (
	sizeName = flag.String("size", "small", "how much is done: small or full")
	duration = flag.Duration("duration", 0, "how long the soak lasts, if not as long as the size says")
	rate     = flag.Int("rate", 0, "how many requests a second the soak makes, if not 1000, or 500 in less than two minutes")
	docs     = flag.String("docs", "", "a `folder` to write the soak's chart to, soak.svg")
)

// size is how much is done.
type size struct {
	reloads int // that nothing must leak from
	busy    int // reloads under load
	rounds  int // of ending and of killing under load
	soak    time.Duration
}

var sizes = map[string]size{
	"small": {reloads: 100, busy: 10, rounds: 2, soak: 15 * time.Second},
	"full":  {reloads: 1000, busy: 200, rounds: 25, soak: 10 * time.Minute},
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
	var ok bool
	if scale, ok = sizes[*sizeName]; !ok {
		fmt.Fprintf(os.Stderr, "there is no size %q: small or full\n", *sizeName)
		os.Exit(2)
	}
	if _, err := sidecar.Build(os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if len(figures) > 0 {
		fmt.Println("\nsurvival, size " + *sizeName + ":\n  " + strings.Join(figures, "\n  "))
	}
	// The probe of a server that starts keeps its connection.
	http.DefaultClient.CloseIdleConnections()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
