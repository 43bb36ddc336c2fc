// Package sbom_test compares the bill of materials that `make sbom` wrote with
// the binary that it is about.
package sbom_test

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	binary = "../../caddy-presence"
	file   = "../../caddy-presence.cdx.json"
	ours   = "github.com/caddy-matrix/caddy-matrix-presence/cmd/caddy-presence"
)

// isOfThisCheckout reports whether a module is one of ours, whose version depends on how it was found.
func isOfThisCheckout(module string) bool { return strings.HasPrefix(module, path.Dir(path.Dir(ours))) }

// bill is the part of a CycloneDX document that is looked at here.
type bill struct {
	BOMFormat    string
	SerialNumber string
	Metadata     struct {
		Timestamp  string
		Component  component
		Properties []struct{ Name, Value string }
	}
	Components []component
}

type component struct{ Name, Version, PURL string }

func read(t *testing.T) bill {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("reading what `make sbom` wrote: %v", err)
	}
	var b bill
	if err := json.Unmarshal(text, &b); err != nil {
		t.Fatal(err)
	}
	if b.BOMFormat != "CycloneDX" {
		t.Fatalf("the format is %q", b.BOMFormat)
	}
	return b
}

func TestTheBillIsAboutTheBinary(t *testing.T) {
	b := read(t)
	if b.Metadata.Component.Name != ours {
		t.Errorf("it is about %q", b.Metadata.Component.Name)
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	for _, p := range b.Metadata.Properties {
		if p.Name == "cdx:gomod:binary:hash:SHA-256" {
			if p.Value != hex.EncodeToString(sum[:]) {
				t.Error("it is about another binary than the one beside it")
			}
			return
		}
	}
	t.Error("it doesn't name the binary's hash")
}

func TestTheBillListsEveryModuleInTheBinary(t *testing.T) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	want := []component{{Name: "std", Version: info.GoVersion}}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		if m.Version == "" || isOfThisCheckout(m.Path) {
			continue
		}
		want = append(want, component{Name: m.Path, Version: m.Version})
	}
	var got []component
	for _, c := range read(t).Components {
		if c.Version == "" || isOfThisCheckout(c.Name) {
			continue
		}
		if !strings.HasPrefix(c.PURL, "pkg:golang/"+c.Name+"@"+c.Version) {
			t.Errorf("%s %s has the package URL %q", c.Name, c.Version, c.PURL)
		}
		got = append(got, component{Name: c.Name, Version: c.Version})
	}
	for _, c := range want {
		if !slices.Contains(got, c) {
			t.Errorf("%s %s is in the binary and not in the bill", c.Name, c.Version)
		}
	}
	if len(got) != len(want) {
		t.Errorf("it lists %d modules, the binary has %d", len(got), len(want))
	}
	// What the two could agree on wrongly, if either were empty.
	for _, name := range []string{"github.com/caddyserver/caddy/v2", "github.com/hashicorp/golang-lru/v2"} {
		if !slices.ContainsFunc(got, func(c component) bool { return c.Name == name }) {
			t.Errorf("%s isn't listed", name)
		}
	}
	t.Logf("%d modules", len(got))
}

// The same binary gives the same file, so the file can be compared and signed.
func TestNothingInTheBillDependsOnWhenItWasMade(t *testing.T) {
	b := read(t)
	if b.Metadata.Timestamp != "" || b.SerialNumber != "" {
		t.Errorf("it has the time %q and the serial number %q", b.Metadata.Timestamp, b.SerialNumber)
	}
}
