package mutation

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/checkout"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/progress"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

var (
	rounds = flag.Int("rounds", 20, "rounds of the history test within which a mutant must be caught")
	times  = flag.Int("times", 1, "how often the history test must catch each mutant")
)

// patience is how long a run of a test may take. A mutant of the history test is caught
// in its first rounds as a rule, of a few seconds each; a thousand worlds take some minutes.
const patience = 10 * time.Minute

// What the tests say when they have found something.
var (
	caught  = regexp.MustCompile(`round (\d+): the history of \S+ as the (clients know|homeserver knows) it is not linearizable`)
	judged  = regexp.MustCompile(`(?m)^\s*seed (\d+): ([^:\n]+)`)
	crashed = regexp.MustCompile(`(?m)^(panic: .*|fatal error: .*|\[rapid\] panic.*)$`)
)

// Every mutant applies to the source as it is, in any size, and the test that catches it is where it is
// said to be: whoever changes a guard, or moves a test, learns at once which mutant to change with it.
func TestMutantsApply(t *testing.T) {
	root := repository(t)
	for _, m := range learned {
		m.why = "the world's clients get no lists"
		checkMutant(t, &m, root)
	}
	for _, m := range slices.Concat(guards, betweenNodes, betweenRows, slices.Concat(slices.Collect(maps.Values(mended))...)) {
		checkMutant(t, &m, root)
	}
}

func checkMutant(t *testing.T, m *mutant, root string) {
	t.Helper()
	if _, err := overlay(m, root, t.TempDir()); err != nil {
		t.Errorf("%s: %v", m.name, err)
	}
	if m.scenario == "" && (m.unit == "" || (m.seeds == 0) != (m.why != "")) {
		t.Errorf("%s: nothing is said of what catches it, or why the world doesn't", m.name)
	}
	if m.unit != "" && !hasTest(t, root, m.unit) {
		t.Errorf("%s: there is no test %s any more", m.name, m.unit)
	}
}

func TestHistoryTestCatchesMutants(t *testing.T) {
	root := repository(t)
	tried := slices.DeleteFunc(slices.Concat(guards, betweenNodes, betweenRows), func(m mutant) bool { return !m.isTried(t) })
	var scenarios []string
	for _, m := range tried {
		scenarios = append(scenarios, m.scenario)
	}
	slices.Sort(scenarios)
	// What finds something wrong with the code as it is proves nothing about a mutant.
	output, verdict := run(t, t.TempDir(), buildHistory(t, root, new(mutant)),
		"-test.run", "^TestReadsAreLinearizable$/^("+strings.Join(slices.Compact(scenarios), "|")+")$")
	if verdict != nil {
		t.Fatalf("the history test fails without any mutant: %v\n%s", verdict, output)
	}
	for _, m := range tried {
		t.Run(m.name+" "+m.scenario, func(t *testing.T) {
			binary := buildHistory(t, root, &m)
			for range *times {
				start := time.Now()
				output, verdict := runHistory(t, binary, m.scenario)
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

// With the mending of a kind of fault taken out, a test of the mending's own package fails, and
// as far as the world can tell it is judged to be wrong, by a law.
func TestMendedFaultsAreFoundAgain(t *testing.T) {
	root := repository(t)
	for kind, mutants := range mended {
		for _, m := range mutants {
			if !m.isTried(t) {
				continue
			}
			t.Run(kind+"/"+m.name, func(t *testing.T) {
				failsUnit(t, root, &m)
				if m.seeds > 0 {
					failsWorld(t, root, &m)
				} else {
					t.Logf("the world doesn't show it: %s", m.why)
				}
			})
		}
	}
}

// isTried tells whether a mutant is one of those of the size.
func (m *mutant) isTried(t *testing.T) bool {
	t.Helper()
	return m.always || suite.Full()
}

// failsWorld has a mutant found within so many worlds, in each of which nothing is wrong without
// it, as `make world` shows.
func failsWorld(t *testing.T, root string, m *mutant) {
	t.Helper()
	binary := build(t, root, m, "integration", "./world")
	start := time.Now()
	output, verdict := run(t, t.TempDir(), binary, "-test.run", "^TestWorld$", "-worlds", fmt.Sprint(m.seeds), "-more", m.more, "-rapid.shrinktime", "1ms")
	if crashed.MatchString(output) {
		t.Fatalf("the world crashed: %v\n%s", verdict, output)
	}
	var others []string
	for _, found := range judged.FindAllStringSubmatch(output, -1) {
		if strings.HasPrefix(found[2], m.law) {
			t.Logf("%s: caught by seed %s, %q; %v; %s", m.name, found[1], found[2], time.Since(start).Round(100*time.Millisecond), m.effect)
			return
		}
		others = append(others, found[0])
	}
	t.Fatalf("not caught in %d worlds, though %s; found was %q", m.seeds, m.effect, others)
}

// failsUnit has a mutant found by a test that passes without it, in the tests of its package.
func failsUnit(t *testing.T, root string, m *mutant) {
	t.Helper()
	dir, name, _ := strings.Cut(m.unit, " ")
	module, pkg := ".", dir
	for _, of := range []string{"redis", "integration"} { // Go modules of their own
		if within, ok := strings.CutPrefix(dir+"/", of+"/"); ok {
			module, pkg = of, within
		}
	}
	binary := build(t, root, m, module, "./"+pkg)
	output, verdict := run(t, filepath.Join(root, dir), binary, "-test.run", "^"+name+"$")
	if verdict == nil {
		t.Fatalf("%s doesn't fail, though %s", m.unit, m.effect)
	}
	if !strings.Contains(output, "--- FAIL: "+name) && !crashed.MatchString(output) {
		t.Fatalf("%s ended, but didn't fail: %v\n%s", m.unit, verdict, output)
	}
	t.Logf("%s: caught by %s; %s", m.name, m.unit, m.effect)
}

// hasTest tells that there is a test in the folder that stands before its name.
func hasTest(t *testing.T, root, unit string) bool {
	t.Helper()
	dir, name, _ := strings.Cut(unit, " ")
	files, err := filepath.Glob(filepath.Join(root, dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(file string) bool {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(text), "\nfunc "+name+"(t *testing.T)")
	})
}

func repository(t *testing.T) string {
	t.Helper()
	root, err := checkout.Root()
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// build returns a binary of the tests of a package with the mutant in it. Without the race
// detector, which only the code as it is needs, and with the flags with which
// the sidecar is built, so that most of Caddy is compiled already.
func build(t *testing.T, root string, m *mutant, module, pkg string) string {
	t.Helper()
	dir := t.TempDir()
	path, err := overlay(m, root, dir)
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "mutant.test")
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", binary, "-overlay", path,
		"-trimpath", "-ldflags", "-s -w", "-tags", "nobadger,nomysql,nopgx", pkg)
	cmd.Dir = filepath.Join(root, module)
	cmd.Env = append(checkout.GoEnv(), "CGO_ENABLED=0")
	err = progress.While(os.Stderr, "building the tests of "+pkg+"; the first time this takes a minute or two", func() error {
		_, err := checkout.Output(cmd)
		return err
	})
	if err != nil {
		t.Fatalf("the mutant doesn't compile: %v", err)
	}
	return binary
}

func buildHistory(t *testing.T, root string, m *mutant) string {
	t.Helper()
	return build(t, root, m, "integration", "./history")
}

// runHistory runs a scenario of the history test, and returns how it ended and what it said.
func runHistory(t *testing.T, binary, scenario string) (output string, verdict error) {
	t.Helper()
	output, verdict = run(t, t.TempDir(), binary, "-test.run", "^TestReadsAreLinearizable$/^"+scenario+"$", "-rounds", fmt.Sprint(*rounds))
	if verdict == nil && !strings.Contains(output, "--- PASS: TestReadsAreLinearizable/") {
		t.Fatalf("there is no scenario %q: %s", scenario, output)
	}
	return output, verdict
}

// run runs a test in a folder, and returns how it ended and what it said.
func run(t *testing.T, dir, binary string, args ...string) (output string, verdict error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	scratch := t.TempDir()
	cmd := exec.CommandContext(ctx, binary, append([]string{"-test.v"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+scratch, "XDG_DATA_HOME="+scratch, "TMPDIR="+scratch)
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("the test didn't end in %v: %s", patience, out)
	}
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), err
}
