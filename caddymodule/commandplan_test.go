package caddymodule

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	forecast "github.com/caddy-matrix/caddy-matrix-presence/internal/plan"
)

// The profiles that presence-plan knows are those that admins are shown.
func TestThePlansProfilesAreThePages(t *testing.T) {
	page, err := os.ReadFile("../docs/busy-servers.md")
	if err != nil {
		t.Fatal(err)
	}
	_, busy, ok := strings.Cut(string(page), "## The busy profile\n\n```\n")
	if !ok {
		t.Fatal("the page has no profile")
	}
	busy, _, _ = strings.Cut(busy, "```\n")
	for profile, text := range map[string]string{"default": "matrix_presence", "busy": busy} {
		var h Handler
		if err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(text)); err != nil {
			t.Fatalf("%s: %v\n%s", profile, err, text)
		}
		want, err := h.settings()
		if err != nil {
			t.Fatal(err)
		}
		got, err := forecast.Profile(profile)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range got.Classes {
			s.Match = want.Classes[0].Match // the names of bridges are the page's
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: presence-plan has\n%+v\nand the page\n%+v", profile, got, want)
		}
	}
	if _, err := forecast.Profile("large"); err == nil {
		t.Error("there is a profile that nobody has described")
	}
}
