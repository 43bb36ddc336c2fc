// Package suite is what the tests of this module have in common: how much they try, how they
// begin and end, how they wait, and the servers that they share.
//
//   - suite.go: the flag -size, TestMain, polling;
//   - sidecar.go: a sidecar that ends with its test;
//   - homeservers.go: real homeservers, started once for a package.
package suite

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

var size = flag.String("size", "small", "how much is tried: small, in seconds or a few minutes, or full")

// Size is the word for how much is tried.
func Size() string { return *size }

// Full reports whether the size is full.
func Full() bool { return *size == "full" }

// BySize returns what is for the small size, or for the full one.
func BySize[T any](small, full T) T {
	if Full() {
		return full
	}
	return small
}

// Main is a package's TestMain: it reads the flags, and after the tests ends what they share and
// looks for goroutines that were left. With done, that is called after the tests.
func Main(m *testing.M, done ...func()) {
	SameDraws()
	flag.Parse()
	if *size != "small" && *size != "full" {
		fmt.Fprintf(os.Stderr, "there is no size %q: small or full\n", *size)
		os.Exit(2)
	}
	goleak.VerifyTestMain(tests{m, done})
}

// SameDraws has rapid, if the package's tests use it, draw the same each time, so that a change is judged by itself and not
// by luck. The flag -rapid.seed gives others, and 0 new ones in each run. Call it before flags are parsed.
func SameDraws() {
	if seed := flag.Lookup("rapid.seed"); seed != nil {
		if err := seed.Value.Set("1"); err != nil {
			panic(err) // it is a number
		}
	}
}

// MainWithSidecar is Main for a package whose tests run the sidecar: it is built before the first
// of them, so that no test pays for it.
func MainWithSidecar(m *testing.M, done ...func()) {
	if _, err := sidecar.Build(os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	Main(m, done...)
}

type tests struct {
	*testing.M
	done []func()
}

// Run runs the tests.
func (t tests) Run() int {
	code := t.M.Run()
	for _, done := range t.done {
		done()
	}
	stopHomeservers()
	// The probe of a server that starts keeps its connection.
	http.DefaultClient.CloseIdleConnections()
	// What is about to end may take longer on a busy machine than goleak waits for it, half a second.
	for end := time.Now().Add(Patience); code == 0 && goleak.Find() != nil && time.Now().Before(end); {
	}
	return code
}

// Patience is how long anything may take in a test: many times what it does take.
const Patience = time.Minute

// Eventually polls until check says true. What is the sentence that it proves.
func Eventually(t testing.TB, what string, check func() bool) {
	t.Helper()
	EventuallyNil(t, what, func() error {
		if check() {
			return nil
		}
		return errNotYet
	})
}

var errNotYet = fmt.Errorf("not in %v", Patience)

// EventuallyNil polls until check has no objection.
func EventuallyNil(t testing.TB, what string, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for err := check(); err != nil; err = check() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never happened: %s: %v", what, err)
		}
	}
}
