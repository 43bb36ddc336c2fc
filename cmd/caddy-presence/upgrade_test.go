package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// previous is the interface of the version before. After a release it is a copy of
// docs/interface.txt.
const previous = "testdata/interface-0.1.0.txt"

// note is a row of the table of upgrade notes: lines of the interface, before and after.
type note struct{ was, is string }

// upgradeNotes are those of the version that is being made: the first in the changelog.
func upgradeNotes(t *testing.T) []note {
	t.Helper()
	text := readFile(t, "../../CHANGELOG.md")
	sections := regexp.MustCompile(`(?m)^## `).Split(text, -1)
	if len(sections) < 3 || !regexp.MustCompile(`^\d+\.\d+\.\d+ \((unreleased|\d{4}-\d\d-\d\d)\)\n`).MatchString(sections[1]) {
		t.Fatal("the changelog's first two headings aren't versions: ## 1.2.3 (unreleased)")
	}
	var notes []note
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`|]+)` \\| `([^`|]+)` \\|").FindAllStringSubmatch(sections[1], -1) {
		notes = append(notes, note{row[1], row[2]})
	}
	return notes
}

// Who upgrades finds each word that they may have written down, and what to write instead.
func TestTheUpgradeNotesTellOfEachWordThatIsGone(t *testing.T) {
	before, now := readFile(t, previous), readFile(t, golden)
	gone := missing(before, now)
	notes := upgradeNotes(t)
	for _, line := range gone {
		if !slices.ContainsFunc(notes, func(n note) bool { return n.was == line }) {
			t.Errorf("the upgrade notes don't say what became of: %s", line)
		}
	}
	all := strings.Split(now, "\n")
	for _, n := range notes {
		if !slices.Contains(gone, n.was) {
			t.Errorf("the upgrade notes tell of a line that isn't gone: %s", n.was)
		}
		if !slices.Contains(all, n.is) {
			t.Errorf("the upgrade notes name a line that doesn't exist: %s", n.is)
		}
	}
}

// An option of the version before that was renamed is refused, by the name that it has now.
func TestARenamedOptionIsRefusedByItsNewName(t *testing.T) {
	tried := 0
	for _, n := range upgradeNotes(t) {
		if !regexp.MustCompile(`^[a-z_]+$`).MatchString(n.was) { // an option of the main block
			continue
		}
		tried++
		text := "http://localhost {\nmatrix_presence {\n" + n.was + " off\n}\n}"
		_, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
		if err == nil || !strings.Contains(err.Error(), "'"+n.is+"'") || !strings.Contains(err.Error(), "Caddyfile:3") {
			t.Errorf("%s: %v, want its new name %s and where it stands", n.was, err, n.is)
		}
	}
	t.Logf("%d options were renamed", tried)
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
