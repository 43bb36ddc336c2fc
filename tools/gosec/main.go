package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/securego/gosec/v2"
	"github.com/securego/gosec/v2/analyzers"
	"github.com/securego/gosec/v2/issue"
	"github.com/securego/gosec/v2/rules"
)

func main() {
	if err := run(os.Args[1:], exceptions, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "gosec:", err)
		os.Exit(1)
	}
}

// run checks the modules in these folders. The first is the root, which the
// paths of the exceptions start from.
func run(modules []string, exceptions []exception, out io.Writer) error {
	if len(modules) == 0 {
		return errors.New("name the modules' folders, the root first")
	}
	root, err := filepath.Abs(modules[0])
	if err != nil {
		return fmt.Errorf("finding the root: %w", err)
	}
	var dirs []string
	for _, module := range modules {
		found, err := packages(module)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s: gosec, %d packages\n", module, len(found))
		dirs = append(dirs, found...)
	}
	found, broken, err := analyze(dirs)
	if err != nil {
		return err
	}

	failures := 0
	for _, text := range broken {
		fmt.Fprintln(out, text)
		failures++
	}
	used := make([]bool, len(exceptions))
	for _, f := range found {
		i := slices.IndexFunc(exceptions, func(e exception) bool { return e.covers(root, f) })
		if i >= 0 {
			used[i] = true
			continue
		}
		fmt.Fprintf(out, "%s:%s: %s: %s\n", f.File, f.Line, f.RuleID, f.What)
		failures++
	}
	for i, e := range exceptions {
		if !used[i] {
			fmt.Fprintf(out, "exceptions.go: nothing needs the exception of %s under %s any more\n", e.rule, e.path)
			failures++
		}
	}
	if failures > 0 {
		return fmt.Errorf("%d findings; mend them, or explain each at its line: // #nosec Gxxx -- why", failures)
	}
	return nil
}

// packages returns the folders of a module's packages, except those that have
// nothing but tests.
func packages(module string) ([]string, error) {
	cmd := exec.Command("go", "list", "-f", "{{if .GoFiles}}{{.Dir}}{{end}}", "./...")
	cmd.Dir = module
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("listing the packages of %s: %w", module, err)
	}
	return strings.Fields(string(text)), nil
}

// analyze returns what gosec finds, by file and line, and what it can't judge:
// code that doesn't compile and exceptions without a rule or a reason.
func analyze(dirs []string) (found []*issue.Issue, broken []string, err error) {
	config := gosec.NewConfig()
	config.SetGlobal(gosec.NoSecRequireRules, "true")
	config.SetGlobal(gosec.NoSecRequireJustification, "true")
	analyzer := gosec.NewAnalyzer(config, false, false, false, runtime.GOMAXPROCS(0), log.New(io.Discard, "", 0))
	analyzer.LoadRules(rules.Generate(false).RulesInfo())
	analyzer.LoadAnalyzers(analyzers.Generate(false).AnalyzersInfo())
	if err := analyzer.Process(nil, dirs...); err != nil {
		return nil, nil, fmt.Errorf("analyzing: %w", err)
	}
	found, _, errs := analyzer.Report()
	slices.SortFunc(found, func(a, b *issue.Issue) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(len(a.Line), len(b.Line)), cmp.Compare(a.Line, b.Line))
	})
	for _, file := range slices.Sorted(maps.Keys(errs)) {
		for _, e := range errs[file] {
			broken = append(broken, fmt.Sprintf("%s:%d: %s", file, e.Line, e.Err))
		}
	}
	return found, broken, nil
}
