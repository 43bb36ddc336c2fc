package main

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// folder writes files into a new folder and returns it.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
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

// program is a module that calls strings.ToUpper.
func program(t *testing.T) string {
	return folder(t, map[string]string{
		"go.mod":  "module example.com/m\n\ngo 1.26.0\n",
		"main.go": "package main\n\nimport \"strings\"\n\nfunc main() { println(strings.ToUpper(\"a\")) }\n",
	})
}

// listing is a database that knows of one vulnerability, in a function of the
// standard library.
func listing(t *testing.T, function string) string {
	t.Helper()
	text := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	type object = map[string]any
	return folder(t, map[string]string{
		"index/db.json": text(object{"modified": time.Now()}),
		"index/modules.json": text([]object{{
			"path":  "stdlib",
			"vulns": []object{{"id": "GO-0000-0001", "modified": time.Now()}},
		}}),
		"ID/GO-0000-0001.json": text(object{
			"schema_version":    "1.3.1",
			"id":                "GO-0000-0001",
			"modified":          time.Now(),
			"summary":           "made up for a test",
			"database_specific": object{"url": "https://example.com/GO-0000-0001"},
			"affected": []object{{
				"package":            object{"ecosystem": "Go", "name": "stdlib"},
				"ranges":             []object{{"type": "SEMVER", "events": []object{{"introduced": "0"}}}},
				"ecosystem_specific": object{"imports": []object{{"path": "strings", "symbols": []string{function}}}},
			}},
		}),
	})
}

func TestOnlyAVulnerabilityThatIsReachedFails(t *testing.T) {
	for _, test := range []struct {
		name, function string
		want           error
	}{
		{"reached", "ToUpper", errVulnerable},
		{"not reached", "ToLower", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out strings.Builder
			db := database{"file://" + filepath.ToSlash(listing(t, test.function)), true}
			if err := run(t.Context(), db, []string{program(t)}, &out); !errors.Is(err, test.want) {
				t.Errorf("gave %v, want %v; it said:\n%s", err, test.want, out.String())
			}
			if found := strings.Contains(out.String(), "#1: GO-0000-0001"); found != (test.want != nil) {
				t.Errorf("it said:\n%s", out.String())
			}
		})
	}
}

func TestOnlyTheDefaultDatabaseMayBeOutOfReach(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	missing := httptest.NewServer(http.NotFoundHandler())
	defer missing.Close()
	portal := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte("<html>please log in</html>"))
	}))
	defer portal.Close()
	for name, url := range map[string]string{
		"refused":           closed.URL,
		"not found":         missing.URL,
		"a login page":      portal.URL,
		"an empty folder":   "file://" + filepath.ToSlash(t.TempDir()),
		"an unknown scheme": "gopher://example.com",
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			if err := run(t.Context(), database{url, false}, []string{program(t)}, &out); err != nil {
				t.Errorf("the default failed: %v", err)
			}
			if !strings.HasPrefix(out.String(), "SKIPPED: govulncheck: ") {
				t.Errorf("said %q", out.String())
			}
			err := run(t.Context(), database{url, true}, []string{program(t)}, &out)
			if err == nil || errors.Is(err, errVulnerable) {
				t.Errorf("the one that was named gave %v", err)
			}
		})
	}
}

// A network that fails after the first answer is neither a pass nor a finding.
func TestADatabaseThatFailsHalfwayIsAFailure(t *testing.T) {
	dir := listing(t, "ToUpper")
	broken := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, err := os.ReadFile(filepath.Join(dir, strings.TrimSuffix(r.URL.Path, ".gz")))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		if broken && strings.HasPrefix(r.URL.Path, "/ID/") {
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		compressed := gzip.NewWriter(w)
		compressed.Write(text)
		compressed.Close()
	}))
	defer server.Close()
	var out strings.Builder
	if err := run(t.Context(), database{server.URL, false}, []string{program(t)}, &out); !errors.Is(err, errVulnerable) {
		t.Errorf("the whole database gave %v; it said:\n%s", err, out.String())
	}
	broken = true
	err := run(t.Context(), database{server.URL, false}, []string{program(t)}, &out)
	if err == nil || errors.Is(err, errVulnerable) {
		t.Errorf("half of it gave %v; it said:\n%s", err, out.String())
	}
}

func TestCodeThatDoesNotCompileIsAFailure(t *testing.T) {
	module := folder(t, map[string]string{
		"go.mod":  "module example.com/m\n\ngo 1.26.0\n",
		"main.go": "package main\n\nfunc main() { nothing() }\n",
	})
	var out strings.Builder
	db := database{"file://" + filepath.ToSlash(listing(t, "ToUpper")), true}
	if err := run(t.Context(), db, []string{module}, &out); err == nil || errors.Is(err, errVulnerable) {
		t.Errorf("gave %v; it said:\n%s", err, out.String())
	}
}
