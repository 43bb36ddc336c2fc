package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/xcaddy"
	"golang.org/x/mod/modfile"
)

func TestDecodeConfigRefuses(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{
			"an unknown field", `{"plugins": [{"module_path": "example.com/p"}], "replacement": []}`,
			`decoding x.json: unknown field "replacement" (the fields are those of xcaddy.Builder's JSON form)`,
		},
		{
			"an unknown field of a plugin", `{"plugins": [{"package_path": "example.com/p"}]}`,
			`decoding x.json: unknown field "package_path" (the fields are those of xcaddy.Builder's JSON form)`,
		},
		{
			"a plugin as xcaddy's flags have it", "{\n\t\"plugins\": [\"example.com/p\"]\n}",
			`decoding x.json:2: plugins can't be a JSON string, it is a Go xcaddy.Dependency`,
		},
		{
			"a duration as text", "{\n\n\t\"timeout_get\": \"5m\"\n}",
			`decoding x.json:3: timeout_get can't be a JSON string, it is a Go time.Duration`,
		},
		{
			"a comma too many", "{\n\t\"caddy_version\": \"v2.11.9\",\n}",
			`decoding x.json:3: invalid character '}' looking for beginning of object key string`,
		},
		{
			"a second value", `{"plugins": [{"module_path": "example.com/p"}]} {}`,
			`decoding x.json: nothing may follow the closing brace`,
		},
		{"an unfinished object", `{"plugins": [`, `decoding x.json: the file ends inside the object`},
		{"an empty file", "\n", `decoding x.json: the file is empty`},
		{"no plugins", `{"caddy_version": "v2.11.9"}`, `decoding x.json: no plugins: the binary would be plain Caddy`},
		{
			"a plugin without a path", `{"plugins": [{"module_path": "example.com/p"}, {"version": "v1.0.0"}]}`,
			`decoding x.json: plugins[1] has no module_path`,
		},
		{
			"half a replacement", `{"plugins": [{"module_path": "example.com/p"}], "replacements": [{"new": "."}]}`,
			`decoding x.json: replacements[0] needs both old and new`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := decodeConfig("x.json", []byte(test.text))
			if err == nil {
				t.Fatal("accepted")
			}
			if got := err.Error(); got != test.want {
				t.Errorf("error:\n got %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestLoadConfigSaysWhatToDoAboutAMissingFile(t *testing.T) {
	_, err := loadConfig(filepath.Join(t.TempDir(), "xcaddy.json"))
	if err == nil || !strings.Contains(err.Error(), "name the file with --config") {
		t.Errorf("error %v, want one that names --config", err)
	}
}

func TestAbsolutePaths(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct{ path, want string }{
		{".", dir},
		{"..", filepath.Dir(dir)},
		{"./fork", filepath.Join(dir, "fork")},
		{"../fork", filepath.Join(filepath.Dir(dir), "fork")},
		{filepath.Join(dir, "fork"), filepath.Join(dir, "fork")},
		// By the go command's rule these two are modules, not paths.
		{"example.com/fork", "example.com/fork"},
		{"example.com/fork@v1.2.3", "example.com/fork@v1.2.3"},
	} {
		b := xcaddy.Builder{Replacements: []xcaddy.Replace{xcaddy.NewReplace("example.com/m", test.path)}}
		absolutePaths(&b, dir)
		if got := b.Replacements[0].New.String(); got != test.want {
			t.Errorf("replacement %s became %s, want %s", test.path, got, test.want)
		}
	}
}

func TestEmbeddedFoldersAreRelativeToTheFile(t *testing.T) {
	dir := t.TempDir()
	b, err := decodeConfig("x.json", []byte(`{"plugins": [{"module_path": "example.com/p"}], "embed_dir": [{"dir": "site"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	absolutePaths(&b, dir)
	if got, want := b.EmbedDirs[0].Dir, filepath.Join(dir, "site"); got != want {
		t.Errorf("embedded folder %s, want %s", got, want)
	}
}

// The repository's own file says three things that go.mod says too: the
// version of Caddy, the module, and where it is.
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

	b, err := loadConfig(filepath.Join(root, "xcaddy.json"))
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
