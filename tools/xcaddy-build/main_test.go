package main

import (
	"debug/buildinfo"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/caddyserver/xcaddy"
	"golang.org/x/mod/modfile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const repository = "../../xcaddy.json"

// A build that ignores a part of its file builds something else than what is written.
func TestAFileThatWouldBuildSomethingElseIsRefused(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"an unknown field": {
			`{"plugins": [{"module_path": "example.com/p"}], "replacement": []}`, `unknown field "replacement"`,
		},
		"no plugins": {`{"caddy_version": "v2.11.9"}`, "no plugins"},
		"no JSON":    {`{"plugins": [`, "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "x.json")
			if err := os.WriteFile(file, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := load(file); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q in it", err, test.want)
			}
		})
	}
}

func TestRelativePathsAreRelativeToTheFile(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]string{
		".":       dir,
		"../fork": filepath.Join(filepath.Dir(dir), "fork"),
		"/fork":   "/fork",
		// By the go command's rule this is a module, not a path.
		"example.com/fork": "example.com/fork",
	} {
		file := filepath.Join(dir, "x.json")
		text := `{"plugins": [{"module_path": "example.com/m"}], "embed_dir": [{"dir": "site"}],
			"replacements": [{"old": "example.com/m", "new": "` + path + `"}]}`
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := load(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := b.Replacements[0].New.String(); got != want {
			t.Errorf("replacement %s became %s, want %s", path, got, want)
		}
		if got, want := b.EmbedDirs[0].Dir, filepath.Join(dir, "site"); got != want {
			t.Errorf("the embedded folder became %s, want %s", got, want)
		}
	}
}

// The repository's own file says what the go.mod files say too: the version of Caddy, the modules, and
// where they are. The plugin comes first.
func TestTheRepositorysFileAgreesWithGoMod(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	b, err := load(repository)
	if err != nil {
		t.Fatal(err)
	}
	for i, dir := range []string{root, filepath.Join(root, "redis")} {
		mod := parseMod(t, dir)
		if caddy := required(mod)["github.com/caddyserver/caddy/v2"]; b.CaddyVersion != caddy {
			t.Errorf("xcaddy.json builds Caddy %q, the go.mod in %s requires %q", b.CaddyVersion, dir, caddy)
		}
		if i >= len(b.Plugins) || i >= len(b.Replacements) {
			t.Fatalf("plugins %v, replacements %v: none for %s", b.Plugins, b.Replacements, dir)
		}
		if got := b.Plugins[i].PackagePath; got != mod.Module.Mod.Path {
			t.Errorf("xcaddy.json compiles in %s, the module in %s is %s", got, dir, mod.Module.Mod.Path)
		}
		if want := xcaddy.NewReplace(b.Plugins[i].String(), dir); b.Replacements[i] != want {
			t.Errorf("replacement %v, want %v", b.Replacements[i], want)
		}
	}
	if len(b.Plugins) != 2 || len(b.Replacements) != 2 {
		t.Errorf("plugins %v, replacements %v, want two of each", b.Plugins, b.Replacements)
	}
}

// parseMod returns the go.mod of a folder.
func parseMod(t *testing.T, dir string) *modfile.File {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	mod, err := modfile.Parse("go.mod", text, nil)
	if err != nil {
		t.Fatal(err)
	}
	return mod
}

// required returns the versions that a go.mod requires directly.
func required(mod *modfile.File) map[string]string {
	versions := make(map[string]string)
	for _, r := range mod.Require {
		if !r.Indirect {
			versions[r.Mod.Path] = r.Mod.Version
		}
	}
	return versions
}

// Everybody who builds Caddy with the plugin inherits its go.mod. A module that isn't in Caddy's own
// graph, such as a client of Redis, goes into a module of its own.
func TestThePluginsGoModIsLean(t *testing.T) {
	mod := parseMod(t, "../..")
	want := []string{
		"github.com/caddyserver/caddy/v2", "github.com/dustin/go-humanize", "github.com/hashicorp/golang-lru/v2",
		"github.com/prometheus/client_golang", "github.com/spf13/cobra", "go.uber.org/goleak", "go.uber.org/zap",
	}
	if got := slices.Sorted(maps.Keys(required(mod))); !slices.Equal(got, want) {
		t.Errorf("the plugin requires %v, want %v", got, want)
	}
	for _, r := range mod.Require {
		if strings.Contains(r.Mod.Path, "redis") {
			t.Errorf("the plugin's go.mod has %s", r.Mod.Path)
		}
	}
	if len(mod.Replace) > 0 {
		t.Errorf("the plugin's go.mod has replacements: %v", mod.Replace)
	}
}

// The real thing: xcaddy builds this checkout from the repository's file, and the plugin alone, and the
// binaries have in them what they should. It takes two minutes on two cores.
func TestTheBuiltBinariesHaveTheirModules(t *testing.T) {
	if testing.Short() {
		t.Skip("builds all of Caddy")
	}
	whole, err := load(repository)
	if err != nil {
		t.Fatal(err)
	}
	alone := whole
	alone.Plugins, alone.Replacements = alone.Plugins[:1], alone.Replacements[:1]
	const handler = "http.handlers.matrix_presence"
	const feed, cluster = handler + ".feeds.redis", handler + ".cluster.redis"
	for name, tt := range map[string]struct {
		builder xcaddy.Builder
		redis   bool
	}{"all of it": {whole, true}, "the plugin alone": {alone, false}} {
		output := filepath.Join(t.TempDir(), "caddy-presence")
		if err := tt.builder.Build(t.Context(), output); err != nil {
			t.Fatal(err)
		}
		listed, err := exec.CommandContext(t.Context(), output, "list-modules", "--skip-standard").Output()
		if err != nil {
			t.Fatal(err)
		}
		modules := strings.Fields(string(listed))
		if !slices.Contains(modules, handler) || slices.Contains(modules, feed) != tt.redis || slices.Contains(modules, cluster) != tt.redis {
			t.Errorf("%s: the binary has these modules beyond Caddy's own:\n%s", name, listed)
		}
		built, err := buildinfo.ReadFile(output)
		if err != nil {
			t.Fatal(err)
		}
		client := slices.ContainsFunc(built.Deps, func(m *debug.Module) bool { return strings.Contains(m.Path, "go-redis") })
		if client != tt.redis {
			t.Errorf("%s: a client of Redis is in it: %v", name, client)
		}
	}
}
