package mutation

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/checkout"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/progress"
)

var (
	sizeName = flag.String("size", "ci", "which mutants are tried: ci or full")
	rounds   = flag.Int("rounds", 20, "rounds of the history test within which a mutant must be caught")
	times    = flag.Int("times", 1, "how often each mutant must be caught")
)

// patience is how long a run of the history test may take. A mutant is caught
// in its first rounds as a rule, of a few seconds each.
const patience = 5 * time.Minute

// caught is what the history test says when its checker has found something.
var caught = regexp.MustCompile(`round (\d+): the history of \S+ as the (clients know|homeserver knows) it is not linearizable`)

// Every mutant applies to the source as it is, in any size: whoever changes a guard
// learns at once which mutant to change with it.
func TestMutantsApply(t *testing.T) {
	root := repository(t)
	for _, m := range mutants {
		if _, err := overlay(&m, root, t.TempDir()); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
	}
}

func TestHistoryTestCatchesMutants(t *testing.T) {
	if *sizeName != "ci" && *sizeName != "full" {
		t.Fatalf("there is no size %q", *sizeName)
	}
	root := repository(t)
	// What finds something wrong with the code as it is proves nothing about a mutant.
	if output, verdict := run(t, build(t, root, new(mutant)), ""); verdict != nil {
		t.Fatalf("the history test fails without any mutant: %v\n%s", verdict, output)
	}
	for _, m := range mutants {
		if !m.always && *sizeName != "full" {
			continue
		}
		t.Run(m.name+" "+m.scenario, func(t *testing.T) {
			binary := build(t, root, &m)
			for range *times {
				start := time.Now()
				output, verdict := run(t, binary, m.scenario)
				found := caught.FindStringSubmatch(output)
				switch {
				case verdict == nil:
					t.Fatalf("not caught in %d rounds of %s, though %s", *rounds, m.scenario, m.effect)
				case found == nil:
					t.Fatalf("%s failed, but not by a history: %v\n%s", m.scenario, verdict, output)
				default:
					t.Logf("%s: caught in round %s of %s, by what the %s; %v; %s",
						m.name, found[1], m.scenario, found[2], time.Since(start).Round(100*time.Millisecond), m.effect)
				}
			}
		})
	}
}

func repository(t *testing.T) string {
	t.Helper()
	root, err := checkout.Root()
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// build returns a binary of the history test with the mutant in it. Without the race
// detector, which only the code as it is needs, and with the flags with which
// the sidecar is built, so that most of Caddy is compiled already.
func build(t *testing.T, root string, m *mutant) string {
	t.Helper()
	dir := t.TempDir()
	path, err := overlay(m, root, dir)
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "history.test")
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", binary, "-overlay", path,
		"-trimpath", "-ldflags", "-s -w", "-tags", "nobadger,nomysql,nopgx", "./history")
	cmd.Dir = filepath.Join(root, "integration")
	cmd.Env = append(checkout.GoEnv(), "CGO_ENABLED=0")
	err = progress.While(os.Stderr, "building the history test; the first time this takes a minute or two", func() error {
		_, err := checkout.Output(cmd)
		return err
	})
	if err != nil {
		t.Fatalf("the mutant doesn't compile: %v", err)
	}
	return binary
}

// run runs a scenario of the history test, or the whole of it in its usual size, and
// returns how it ended and what it said.
func run(t *testing.T, binary, scenario string) (output string, verdict error) {
	t.Helper()
	args := []string{"-test.v"}
	if scenario != "" {
		args = append(args, "-test.run", "^TestReadsAreLinearizable$/^"+scenario+"$", "-rounds", fmt.Sprint(*rounds))
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	scratch := t.TempDir()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = scratch
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+scratch, "XDG_DATA_HOME="+scratch, "TMPDIR="+scratch)
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("the history test didn't end in %v: %s", patience, out)
	}
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if err == nil && !strings.Contains(string(out), "--- PASS: TestReadsAreLinearizable/") {
		t.Fatalf("there is no scenario %q: %s", scenario, out)
	}
	return string(out), err
}
