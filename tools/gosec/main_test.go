package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// write lays out a module with one file and returns its folder.
func write(t *testing.T, body string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":       "module example.com/m\n\ngo 1.26.0\n",
		"p/program.go": "package p\n\nimport \"os\"\n\nfunc Open(name string) (*os.File, error) {\n" + body + "\n}\n",
	} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestAFindingNeedsAMendOrAReason(t *testing.T) {
	open := "\treturn os.Open(name)"
	for _, test := range []struct {
		name, body string
		exceptions []exception
		want       string // in the output; empty if nothing is wrong
	}{
		{"a finding", open, nil, "program.go:6: G304"},
		{"explained at its line", open + " // #nosec G304 -- the caller names the file", nil, ""},
		{"without a reason", open + " // #nosec G304", nil, "missing justification"},
		{"without a rule", open + " // #nosec -- trust me", nil, "missing rule ID"},
		{"explained for the file", open, []exception{{"G304", "p/program.go", "why"}}, ""},
		{"explained for the folder", open, []exception{{"G304", "p", "why"}}, ""},
		{"explained for a folder whose name begins alike", open, []exception{{"G304", "p/prog", "why"}}, "program.go:6: G304"},
		{"another rule explained", open, []exception{{"G204", "p", "why"}}, "program.go:6: G304"},
		{"an explanation that outlived its finding", "\treturn os.Stdin, nil", []exception{{"G304", "p", "why"}}, "nothing needs the exception of G304"},
		{"code that doesn't compile", "\treturn os.Nothing(name)", nil, "undefined: os.Nothing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out strings.Builder
			err := run([]string{write(t, test.body)}, test.exceptions, &out)
			if (err != nil) != (test.want != "") || !strings.Contains(out.String(), test.want) {
				t.Errorf("said %q and %v, want %q in it", out.String(), err, test.want)
			}
		})
	}
}

func TestEveryExceptionSaysWhy(t *testing.T) {
	for _, e := range exceptions {
		if e.why == "" {
			t.Errorf("the exception of %s under %s has no reason", e.rule, e.path)
		}
	}
}
