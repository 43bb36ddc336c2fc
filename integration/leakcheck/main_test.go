package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOnlyAPackageThatLeavesNothingBehindPasses(t *testing.T) {
	const (
		waits  = "\nimport \"testing\"\n\nfunc TestWait(t *testing.T) {\n\tdone := make(chan int)\n\tgo func() { <-done }()\n\tclose(done)\n}\n"
		leaves = "\nimport \"testing\"\n\nfunc TestLeave(t *testing.T) {\n\tgo func() { select {} }()\n}\n"
		fails  = "\nimport \"testing\"\n\nfunc TestFail(t *testing.T) { t.Error(\"no\") }\n"
		main   = "\nimport \"testing\"\n\nfunc TestMain(m *testing.M) { m.Run() }\n"
	)
	for _, test := range []struct {
		name  string
		files map[string]string
		want  string // in the output and the error; empty if the module passes
	}{
		{"a goroutine that ends", map[string]string{"p/p.go": "package p\n", "p/p_test.go": "package p\n" + waits}, ""},
		{"a goroutine that stays", map[string]string{"p/p.go": "package p\n", "p/p_test.go": "package p\n" + leaves}, "found unexpected goroutines"},
		{"tests outside of their package", map[string]string{"p/p.go": "package p\n", "p/p_test.go": "package p_test\n" + leaves}, "found unexpected goroutines"},
		{"tests without a package", map[string]string{"p/p_test.go": "package p_test\n" + leaves}, "found unexpected goroutines"},
		{"a program", map[string]string{"p/p.go": "package main\n\nfunc main() {}\n", "p/p_test.go": "package main\n" + leaves}, "found unexpected goroutines"},
		{"one package of two", map[string]string{
			"p/p.go": "package p\n", "p/p_test.go": "package p\n" + waits,
			"q/q.go": "package q\n", "q/q_test.go": "package q\n" + leaves,
		}, "FAIL\texample.com/m/q"},
		{"a test that fails", map[string]string{"p/p.go": "package p\n", "p/p_test.go": "package p\n" + fails}, "--- FAIL: TestFail"},
		{"a TestMain of its own", map[string]string{"p/p.go": "package p\n", "p/p_test.go": "package p\n" + main}, "example.com/m/p has a TestMain of its own"},
		{"no tests at all", map[string]string{"p/p.go": "package p\n"}, "has tests"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			test.files["go.mod"] = "module example.com/m\n\ngo 1.26.0\n"
			for name, text := range test.files {
				name = filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var out strings.Builder
			err := run(t.Context(), []string{dir, "-count=1"}, &out)
			if err != nil {
				out.WriteString(err.Error())
			}
			if (err != nil) != (test.want != "") || !strings.Contains(out.String(), test.want) {
				t.Errorf("want %q, it said:\n%s", test.want, out.String())
			}
			if text, err := os.ReadFile(filepath.Join(dir, "go.mod")); err != nil || strings.Contains(string(text), "goleak") {
				t.Errorf("go.mod was changed: %v\n%s", err, text)
			}
		})
	}
}

func TestEveryExpectedGoroutineSaysWhy(t *testing.T) {
	for _, e := range expected {
		if e.why == "" {
			t.Errorf("%s may stay in %s for no reason", e.function, e.in)
		}
	}
}
