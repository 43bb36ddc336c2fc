package main

import (
	"os"
	"os/exec"
	"path/filepath"
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

// The repository's own file says three things that go.mod says too: the version of Caddy,
// the module, and where it is.
func TestTheRepositorysFileAgreesWithGoMod(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	mod, err := modfile.Parse("go.mod", text, nil)
	if err != nil {
		t.Fatal(err)
	}
	var caddy string
	for _, r := range mod.Require {
		if r.Mod.Path == "github.com/caddyserver/caddy/v2" {
			caddy = r.Mod.Version
		}
	}
	b, err := load(repository)
	if err != nil {
		t.Fatal(err)
	}
	if b.CaddyVersion != caddy {
		t.Errorf("xcaddy.json builds Caddy %q, go.mod requires %q", b.CaddyVersion, caddy)
	}
	if got := b.Plugins[0].PackagePath; got != mod.Module.Mod.Path {
		t.Errorf("xcaddy.json compiles in %s, go.mod's module is %s", got, mod.Module.Mod.Path)
	}
	want := xcaddy.NewReplace(b.Plugins[0].String(), root)
	if len(b.Replacements) != 1 || b.Replacements[0] != want {
		t.Errorf("replacements %v, want one, %v", b.Replacements, want)
	}
}

// The real thing: xcaddy builds this checkout from the repository's file, and the binary
// has the handler in it. It takes a minute on two cores.
func TestTheBuiltBinaryHasTheHandler(t *testing.T) {
	if testing.Short() {
		t.Skip("builds all of Caddy")
	}
	output := filepath.Join(t.TempDir(), "caddy-presence")
	if err := build(t.Context(), repository, output); err != nil {
		t.Fatal(err)
	}
	modules, err := exec.CommandContext(t.Context(), output, "list-modules", "--skip-standard").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(strings.Fields(string(modules)), "http.handlers.matrix_presence") {
		t.Errorf("the binary has these modules beyond Caddy's own:\n%s", modules)
	}
}
