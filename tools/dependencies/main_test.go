package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const plugin = `# Contributing

| not | a dependency |
|---|---|
| row | of another table |

## Dependencies of the plugin

| module | why |
|---|---|
| example.com/a | for a |

## Dependencies of tests and tools

| folder | module | why |
|---|---|---|
| ` + "`tools/`" + ` | example.com/linter | it lints |
`

func TestEveryDependencyIsListedWithItsReason(t *testing.T) {
	good := map[string]string{
		"CONTRIBUTING.md":  plugin,
		"go.mod":           "module example.com/m\n\nrequire example.com/a v1.0.0\n\nrequire example.com/b v1.0.0 // indirect\n",
		"tools/go.mod":     "module example.com/m/tools\n\ntool example.com/linter/cmd/lint\n\nrequire (\n\texample.com/linter v1.0.0 // indirect\n\texample.com/lint v1.0.0 // indirect\n)\n",
		"requirements.txt": "# comment\nalpha==1.0\nbeta==2.0\n",
	}
	for _, test := range []struct {
		name, file, old, new string
		want                 string // in the output; empty if nothing is wrong
	}{
		{"all in order", "go.mod", "", "", ""},
		{"a new dependency", "go.mod", "b v1.0.0 // indirect", "b v1.0.0", "doesn't say what example.com/b, in . is for"},
		{"a new tool", "tools/go.mod", "tool example.com/linter/cmd/lint", "tool (\n\texample.com/linter/cmd/lint\n\texample.com/lint\n)", "doesn't say what example.com/lint, in tools is for"},
		{"one that is gone", "go.mod", "require example.com/a v1.0.0", "", "lists example.com/a, in ., where nothing needs it"},
		{"one that another folder lists", "CONTRIBUTING.md", "`tools/` | example.com/linter", "`bench/` | example.com/linter", "doesn't say what example.com/linter, in tools is for"},
		{"no reason", "CONTRIBUTING.md", "for a", "", "doesn't say what example.com/a, in . is for"},
		{"a loose requirement", "requirements.txt", "alpha==1.0", "alpha>=1.0", "alpha>=1.0 names no exact version"},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			for name, text := range good {
				if name == test.file {
					text = strings.Replace(text, test.old, test.new, 1)
				}
				name = filepath.Join(root, name)
				if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var out strings.Builder
			err := run([]string{root}, &out)
			if (err != nil) != (test.want != "") || !strings.Contains(out.String(), test.want) {
				t.Errorf("said %q and %v, want %q in it", out.String(), err, test.want)
			}
		})
	}
}
