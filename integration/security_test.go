package integration_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/checkout"
)

var (
	function    = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	namedTest   = regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w+)`")
	namedFolder = regexp.MustCompile("`(integration/[a-z]+)`")
)

// Each promise of SECURITY.md names a test, or a folder of tests, and each that is named is there:
// whoever deletes or renames one learns which promise it holds.
func TestEachPromiseHasItsTest(t *testing.T) {
	root, err := checkout.Root()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "SECURITY.md"))
	if err != nil {
		t.Fatal(err)
	}
	tests := testsBelow(t, root)
	_, table, _ := strings.Cut(string(page), "| promise | held by |\n|---|---|\n")
	table, _, ok := strings.Cut(table, "\n\n")
	if !ok {
		t.Fatal("the page has no table of promises")
	}
	for row := range strings.Lines(table) {
		promise, held, _ := strings.Cut(strings.TrimPrefix(row, "| "), " | ")
		named := namedTest.FindAllStringSubmatch(held, -1)
		folders := namedFolder.FindAllStringSubmatch(held, -1)
		if len(named)+len(folders) == 0 {
			t.Errorf("no test is named for: %s", promise)
		}
		for _, match := range named {
			if !tests[match[1]] {
				t.Errorf("there is no %s any more, for: %s", match[1], promise)
			}
		}
		for _, match := range folders {
			if files, _ := filepath.Glob(filepath.Join(root, match[1], "*_test.go")); len(files) == 0 {
				t.Errorf("there is no test in %s, for: %s", match[1], promise)
			}
		}
	}
}

// testsBelow are the names of all tests in a folder.
func testsBelow(t *testing.T, folder string) map[string]bool {
	t.Helper()
	tests := make(map[string]bool)
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && path != folder:
			return filepath.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		for _, match := range function.FindAllSubmatch(text, -1) {
			tests[string(match[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tests
}
