package presence_test

import (
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rooms are the packages of the plugin, by their folders.
func rooms(t *testing.T) (folders []string) {
	t.Helper()
	folders = []string{"cache", "policy", "caddymodule"}
	internal, err := filepath.Glob("internal/*")
	if err != nil || len(internal) == 0 {
		t.Fatal("no rooms: ", err)
	}
	return append(folders, internal...)
}

// read returns a text file, or "" if it isn't there.
func read(name string) string {
	text, _ := os.ReadFile(name)
	return string(text)
}

var fileName = regexp.MustCompile(`\b[a-z_]+\.go\b`)

// The doc.go of each package lists its files, and no others, so that a stranger finds what they
// look for.
func TestDocListsTheFilesThereAre(t *testing.T) {
	for _, room := range append(rooms(t), "redis", "redis/internal/replication") {
		var files []string
		all, _ := filepath.Glob(room + "/*.go")
		for _, file := range all {
			if name := filepath.Base(file); name != "doc.go" && !strings.HasSuffix(name, "_test.go") {
				files = append(files, name)
			}
		}
		listed := fileName.FindAllString(read(room+"/doc.go"), -1)
		for _, file := range files {
			if len(files) > 1 && !slices.Contains(listed, file) {
				t.Errorf("%s/doc.go doesn't list %s", room, file)
			}
		}
		for _, file := range listed {
			if !slices.Contains(files, file) {
				t.Errorf("%s/doc.go lists %s, which isn't there", room, file)
			}
		}
	}
}

// The floor plans name each room.
func TestFloorPlansNameEachRoom(t *testing.T) {
	for _, page := range []string{"docs/design.md", "CONTRIBUTING.md"} {
		text := read(page)
		for _, room := range rooms(t) {
			if !strings.Contains(text, fmt.Sprintf("`%s/`", room)) {
				t.Errorf("%s doesn't name %s", page, room)
			}
		}
	}
}

var (
	named      = regexp.MustCompile("`([^`]+)`")
	namedFile  = regexp.MustCompile(`^[\w./-]+\.go$`)
	namedTest  = regexp.MustCompile(`^(?:Test|Fuzz|Benchmark)\w+$`)
	namedPath  = regexp.MustCompile(`^(?:cache|policy|internal|caddymodule|redis|cmd|docs|contrib)/[\w/.-]+$|^integration/[\w/-]+$`)
	testInCode = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
)

// The files, folders and tests that the pages name are there. What a page promises is held by a test
// of that name.
func TestPagesNameWhatIsThere(t *testing.T) {
	var files []string
	tests := make(map[string]bool)
	err := filepath.WalkDir(".", func(path string, entry os.DirEntry, err error) error {
		if err == nil && entry.IsDir() && path != "." && strings.HasPrefix(entry.Name(), ".") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".go") {
			files = append(files, path)
			for _, match := range testInCode.FindAllStringSubmatch(read(path), -1) {
				tests[match[1]] = true
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages() {
		for _, match := range named.FindAllStringSubmatch(read(page), -1) {
			name := match[1]
			isThere := true
			switch {
			case namedTest.MatchString(name):
				isThere = tests[name]
			case namedFile.MatchString(name):
				isThere = slices.ContainsFunc(files, func(file string) bool { return file == name || strings.HasSuffix(file, "/"+name) })
			case namedPath.MatchString(name):
				_, err := os.Stat(name)
				isThere = err == nil
			}
			if !isThere {
				t.Errorf("%s names %s, which isn't there", page, name)
			}
		}
	}
}

// Arrows go down only: each room imports rooms of lower floors, and what is said of its floor.
var floors = []struct {
	rooms  []string
	others []string // modules besides the standard library
	http   bool     // it knows HTTP servers
}{
	{rooms: []string{"internal/status", "internal/wallclock", "internal/members", "internal/sampled", "internal/flight", "internal/fairqueue"}},
	{rooms: []string{"internal/clock", "internal/matrix", "internal/passing", "internal/cluster", "internal/snapshot"}},
	{rooms: []string{"internal/identity", "internal/devices", "internal/pending"}, others: []string{"github.com/hashicorp/golang-lru/v2"}},
	{rooms: []string{"cache", "policy"}, others: []string{"github.com/hashicorp/golang-lru/v2"}},
	{rooms: []string{"internal/gateway"}, others: []string{"github.com/hashicorp/golang-lru/v2"}, http: true},
	{rooms: []string{"internal/plan"}},
	{rooms: []string{"caddymodule"}, http: true, others: []string{
		"github.com/caddyserver/", "github.com/dustin/go-humanize", "github.com/prometheus/", "github.com/spf13/cobra", "go.uber.org/zap",
	}},
}

// forTests are the rooms that only tests import.
var forTests = []string{"internal/scripted", "internal/testkit"}

func TestArrowsGoDownOnly(t *testing.T) {
	const module = "github.com/caddy-matrix/caddy-matrix-presence/"
	below := make(map[string]bool)
	seen := len(forTests)
	for _, floor := range floors {
		for _, room := range floor.rooms {
			seen++
			for _, path := range importsOf(t, room) {
				inner, ours := strings.CutPrefix(path, module)
				host, _, _ := strings.Cut(path, "/")
				switch {
				case ours && !below[inner]:
					t.Errorf("%s imports %s, which isn't below it", room, inner)
				case ours, path == "net/http" && floor.http, path != "net/http" && !strings.Contains(host, "."):
				case !slices.ContainsFunc(floor.others, func(other string) bool { return strings.HasPrefix(path, other) }):
					t.Errorf("%s imports %s", room, path)
				}
			}
		}
		for _, room := range floor.rooms {
			below[room] = true
		}
	}
	if n := len(rooms(t)); n != seen {
		t.Errorf("%d rooms stand on a floor, and there are %d", seen, n)
	}
}

// importsOf returns what the files of a room import, but for its tests.
func importsOf(t *testing.T, room string) (paths []string) {
	t.Helper()
	files, _ := filepath.Glob(room + "/*.go")
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range parsed.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			paths = append(paths, path)
		}
	}
	return paths
}
