package deploy

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/checkout"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

func TestMain(m *testing.M) { suite.MainWithSidecar(m) }

// file returns a file of the checkout.
func file(t *testing.T, name string) string {
	t.Helper()
	root, err := checkout.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// blocks returns what a page has in fences of a language, or of none, without the
// indentation of the fence.
func blocks(t *testing.T, page, language string) []string {
	t.Helper()
	var found []string
	var block strings.Builder
	inside, indentation := "", ""
	for line := range strings.Lines(file(t, "docs/deploy/"+page)) {
		before, word, isFence := strings.Cut(strings.TrimRight(line, "\n"), "```")
		switch {
		case isFence && inside == "":
			inside, indentation = "```"+word, before
			block.Reset()
		case isFence:
			if inside == "```"+language {
				found = append(found, block.String())
			}
			inside = ""
		case inside != "":
			block.WriteString(strings.TrimPrefix(line, indentation))
		}
	}
	if len(found) == 0 {
		t.Fatalf("%s has no block of %q", page, language)
	}
	return found
}

// replace replaces what must be there.
func replace(t *testing.T, text, from, to string) string {
	t.Helper()
	if !strings.Contains(text, from) {
		t.Fatalf("there is no %q in\n%s", from, text)
	}
	return strings.ReplaceAll(text, from, to)
}

// Each page is in the index, and says how to put it in, how to see that it works, and how to
// take it out again.
func TestEachPageIsComplete(t *testing.T) {
	root, err := checkout.Root()
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob(filepath.Join(root, "docs/deploy/*.md"))
	if err != nil || len(pages) < 9 {
		t.Fatalf("there are %d pages, %v", len(pages), err)
	}
	index := file(t, "docs/deploy.md")
	for _, page := range pages {
		name := filepath.Base(page)
		if !strings.Contains(index, "(deploy/"+name+")") {
			t.Errorf("docs/deploy.md doesn't lead to %s", name)
		}
		text := file(t, "docs/deploy/"+name)
		for _, heading := range []string{"## Put it in", "## See that it works", "## Take it out again"} {
			if strings.Count(text, "\n"+heading+"\n") != 1 {
				t.Errorf("%s has no heading %q", name, heading)
			}
		}
		if !strings.Contains(text, "routed") {
			t.Errorf("%s doesn't say what is routed", name)
		}
	}
}

// Presence routes and those by which tokens end, as a client sends them, and others.
var (
	routed = []string{
		"/_matrix/client/v3/presence/@alice:example.com/status", "/_matrix/client/r0/presence/@alice:example.com/status",
		"/_matrix/client/v3/login", "/_matrix/client/r0/login", "/_matrix/client/v3/refresh", "/_matrix/client/v3/logout",
		"/_matrix/client/v3/logout/all", "/_matrix/client/v3/devices/ABC", "/_matrix/client/v3/delete_devices",
		"/_matrix/client/v3/account/password", "/_matrix/client/v3/account/deactivate",
	}
	notRouted = []string{
		"/_matrix/client/versions", "/_matrix/client/v3/sync", "/_matrix/client/v3/rooms/!a:b/send/m.room.message/1",
		"/_matrix/client/v3/account/whoami", "/_matrix/client/v3/login/sso/redirect", "/_matrix/federation/v1/version",
		"/_matrix/media/v3/upload", "/_matrix/client/v3/user/@a:b/account_data/presence",
	}
)

// pattern returns the one regular expression of routes in a page.
func pattern(t *testing.T, page string) string {
	t.Helper()
	found := regexp.MustCompile("\\^/_matrix/client/[^` \n\"]+").FindAllString(file(t, "docs/deploy/"+page), -1)
	if len(found) != 1 {
		t.Fatalf("%s has the patterns %q", page, found)
	}
	return strings.ReplaceAll(found[0], "$$", "$") // as Compose reads it
}

func TestThePagesRouteTheSame(t *testing.T) {
	want := pattern(t, "nginx.md")
	routes := regexp.MustCompile(want)
	for _, path := range routed {
		if !routes.MatchString(path) {
			t.Errorf("%s isn't routed", path)
		}
	}
	for _, path := range notRouted {
		if routes.MatchString(path) {
			t.Errorf("%s is routed", path)
		}
	}
	for _, page := range []string{"haproxy.md", "traefik.md", "matrix-docker-ansible-deploy.md"} {
		if got := pattern(t, page); got != want {
			t.Errorf("%s routes %s, nginx.md routes %s", page, got, want)
		}
	}
}

// covered says whether prefixes of paths, as an Ingress has them, take a path: whole
// elements only.
func covered(prefixes []string, path string) bool {
	return slices.ContainsFunc(prefixes, func(prefix string) bool {
		return path == prefix || strings.HasPrefix(path, strings.TrimSuffix(prefix, "/")+"/")
	})
}
