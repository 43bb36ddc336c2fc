package main

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// What is measured is what admins are shown.
func TestBusyProfileIsTheExamples(t *testing.T) {
	example, err := os.ReadFile("../../../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	_, snippet, ok := strings.Cut(string(example), "\n(busy) {\n")
	if !ok {
		t.Fatal("the example has no snippet (busy)")
	}
	snippet, _, _ = strings.Cut(snippet, "\n}\n")
	measured, shown := optionsOf(busy), optionsOf(snippet)
	for _, option := range shown {
		if !slices.Contains(measured, option) {
			t.Errorf("%q is in the example but not measured", option)
		}
	}
	for _, option := range measured {
		// The example has these where its defaults are.
		if !slices.Contains(shown, option) && option != "matrix_presence {" && option != "cache {" && option != "stale_if_error 5m" {
			t.Errorf("%q is measured but not in the example", option)
		}
	}
}

// What is measured is what the page about busy servers shows.
func TestBusyProfileIsThePages(t *testing.T) {
	page, err := os.ReadFile("../../../docs/busy-servers.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, ok := strings.Cut(string(page), "## The busy profile")
	_, block, fenced := strings.Cut(block, "```\n")
	block, _, closed := strings.Cut(block, "\n```")
	if !ok || !fenced || !closed {
		t.Fatal("the page has no profile")
	}
	measured, shown := optionsOf(busy), optionsOf(block)
	slices.Sort(measured)
	slices.Sort(shown)
	if !slices.Equal(measured, shown) {
		t.Errorf("the page shows\n%q\nand measured is\n%q", shown, measured)
	}
}

// optionsOf returns the lines of a Caddyfile that say something, but for whose names the
// users have.
func optionsOf(caddyfile string) (options []string) {
	for line := range strings.Lines(caddyfile) {
		line = strings.TrimSpace(line)
		if line != "" && line != "}" && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "match ") {
			options = append(options, line)
		}
	}
	return options
}
