package caddymodule

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

func TestExampleAdaptsWithoutWarnings(t *testing.T) {
	example, err := os.ReadFile("../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	_, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt(example, map[string]any{"filename": "Caddyfile.example"})
	if err != nil || len(warnings) > 0 {
		t.Errorf("error %v, warnings %v", err, warnings)
	}
}

// The profile for a busy server is one line away, and turns on what is off by default.
func TestExamplesBusyProfile(t *testing.T) {
	example, err := os.ReadFile("../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	busy := strings.Replace(string(example), "# import busy", "import busy", 1)
	adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(busy), map[string]any{"filename": "Caddyfile.example"})
	if err != nil || len(warnings) > 0 {
		t.Fatalf("error %v, warnings %v", err, warnings)
	}
	for _, member := range []string{
		`"repeat_writes":"absorb"`, `"over_limit":"coalesce"`, `"sync_presence":"limit"`, `"preflight":"local"`, `"learn":{}`, `"name":"bridges"`,
	} {
		if !strings.Contains(string(adapted), member) {
			t.Errorf("no %s in\n%s", member, adapted)
		}
	}
}

// Each option stands in the example with its default in a comment, but for those
// whose default is to be absent.
func TestExampleShowsEveryOptionWithItsDefault(t *testing.T) {
	example, err := os.ReadFile("../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(example), "\tmatrix_presence {\n")
	block, _, ok := strings.Cut(block, "\n\t}\n")
	if !ok {
		t.Fatal("no matrix_presence block")
	}
	absent := []string{"exempt", "feed", "cluster", "name", "stale_if_error", "per_viewer", "snapshot", "presence_values"}

	options := []string{
		"write_limit", "read_limit", "exempt", "homeserver", "brown_out", "feed", "cluster", "name", "states", "permissions", "ttl", "forbidden_ttl",
		"stale_if_error", "settle", "per_viewer", "tokens", "rejected_ttl", "rejected_limit", "timeout", "snapshot", "max_body", "presence_values",
	}
	shown := make(map[string]bool)
	directive := "matrix_presence {\n"
	for line := range strings.Lines(block) {
		line = strings.TrimSpace(line)
		uncommented := strings.TrimPrefix(line, "# ")
		name, _, _ := strings.Cut(uncommented, " ")
		switch {
		case line == "" || line == uncommented: // a brace, or the name of a block
			directive += line + "\n"
		case !slices.Contains(options, name):
			continue // prose
		case !slices.Contains(absent, name):
			directive += uncommented + "\n"
		}
		shown[name] = true
	}
	directive += "}"

	var fromExample Handler
	if err := fromExample.UnmarshalCaddyfile(caddyfile.NewTestDispenser(directive)); err != nil {
		t.Fatalf("%v in\n%s", err, directive)
	}
	got, err := fromExample.settings()
	if err != nil {
		t.Fatal(err)
	}
	want, err := new(Handler).settings()
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the example's defaults are\n%+v, but the defaults are\n%+v", got, want)
	}
	for _, name := range options {
		if !shown[name] {
			t.Errorf("%s isn't shown", name)
		}
	}
}

// The page about options has each of them.
func TestAllOptionsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/options.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, options := range []any{Handler{}, Cache{}, Learn{}, Identity{}, Coalesce{}, Class{}} {
		for _, field := range reflect.VisibleFields(reflect.TypeOf(options)) {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if name == "classes" { // which stand one by one in a Caddyfile
				name = "class"
			}
			if name != "" && name != "sync" && !regexp.MustCompile("`(|[a-z]+ \\{ )"+name+"[ `]").Match(page) {
				t.Errorf("%s is not in docs/options.md", name)
			}
		}
	}
}

// The page about options has an example in the Caddyfile, and then the same in JSON.
func TestOptionsInJSONAreThoseOfTheCaddyfile(t *testing.T) {
	page, err := os.ReadFile("../docs/options.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.SplitN(string(page), "```", 5)
	if len(blocks) < 5 || !strings.HasPrefix(blocks[3], "json\n") {
		t.Fatal("the page doesn't begin with a Caddyfile and then JSON")
	}
	var want, got Handler
	if err := want.UnmarshalCaddyfile(caddyfile.NewTestDispenser(strings.TrimSpace(blocks[1]))); err != nil {
		t.Fatal(err)
	}
	example := strings.Replace(strings.TrimPrefix(blocks[3], "json"), `"handler": "matrix_presence",`, "", 1)
	if err := caddy.StrictUnmarshalJSON([]byte(example), &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("in JSON it is\n%+v, but in the Caddyfile\n%+v", got, want)
	}
}
