package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/checkout"
)

// tests is a package with tests, as the go command describes it.
type tests struct {
	Dir          string
	ImportPath   string
	TestGoFiles  []string
	XTestGoFiles []string

	clause string // the package clause of its test files
}

// tested returns the packages of a module that have tests.
func tested(module string) ([]*tests, error) {
	list := exec.Command("go", "list", "-json=Dir,ImportPath,TestGoFiles,XTestGoFiles", "./...")
	list.Dir, list.Env = module, checkout.GoEnv()
	text, err := checkout.Output(list)
	if err != nil {
		return nil, fmt.Errorf("listing the packages of %s: %w", module, err)
	}
	var packages []*tests
	for decoder := json.NewDecoder(strings.NewReader(text)); ; {
		p := new(tests)
		if err := decoder.Decode(p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("reading the list of packages: %w", err)
		}
		if len(p.TestGoFiles)+len(p.XTestGoFiles) == 0 {
			continue
		}
		if err := p.parse(); err != nil {
			return nil, err
		}
		packages = append(packages, p)
	}
	if len(packages) == 0 {
		return nil, fmt.Errorf("no package of %s has tests", module)
	}
	return packages, nil
}

// parse learns the package clause, and that there is no TestMain.
func (p *tests) parse() error {
	for _, name := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		p.clause = file.Name.Name
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "TestMain" {
				return fmt.Errorf("%s has a TestMain of its own, in %s, so its goroutines can't be watched from here", p.ImportPath, name)
			}
		}
	}
	return nil
}

// writeOverlay writes a TestMain for each package into the folder, and the file
// that tells the go command where they belong.
func writeOverlay(folder string, packages []*tests) (string, error) {
	var overlay struct{ Replace map[string]string }
	overlay.Replace = make(map[string]string)
	for i, p := range packages {
		name := filepath.Join(folder, fmt.Sprintf("leakcheck%d_test.go", i))
		if err := os.WriteFile(name, []byte(testMain(p)), 0o600); err != nil {
			return "", err
		}
		overlay.Replace[filepath.Join(p.Dir, "leakcheck_test.go")] = name
	}
	text, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	name := filepath.Join(folder, "overlay.json")
	return name, os.WriteFile(name, text, 0o600)
}

func testMain(p *tests) string {
	var options strings.Builder
	for _, e := range expected {
		if p.ImportPath == e.in {
			fmt.Fprintf(&options, ", goleak.IgnoreAnyFunction(%q)", e.function)
		}
	}
	return `package ` + p.clause + `

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m` + options.String() + `) }
`
}
