package plan

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

const docsPage = "../../docs/plan.md"

var update = flag.Bool("update", false, "write the costs in docs/plan.md anew")

// The page shows the costs that are used, and where they are from.
func TestThePageShowsTheCosts(t *testing.T) {
	costs := make(map[string]*Costs)
	for name := range homeservers {
		c, err := DefaultCosts(name)
		if err != nil {
			t.Fatal(err)
		}
		costs[name] = c
	}
	var b strings.Builder
	b.WriteString("\n\n| cost | Synapse | Dendrite | from |\n|---|--:|--:|---|\n")
	for w, c := range costs["synapse"].Homeserver {
		fmt.Fprintf(&b, "| `%s`, ms of the homeserver | %s | %s | %s |\n", c.Name, c.Is.exact(), costs["dendrite"].Homeserver[w].Is.exact(), c.Source)
	}
	b.WriteString("\n| cost | | from |\n|---|--:|---|\n")
	line := func(c Cost, unit string) {
		fmt.Fprintf(&b, "| `%s`, %s | %s | %s |\n", c.Name, unit, c.Is.exact(), c.Source)
	}
	of := costs["synapse"]
	for _, c := range of.Own {
		line(c, "µs of the module")
	}
	line(of.Lookup, "µs of the module for a request of its own")
	for _, c := range of.Entry {
		line(c, "bytes an entry")
	}
	line(of.Process, "MB without entries")
	b.WriteString("\n")

	text, err := os.ReadFile(docsPage)
	if err != nil {
		t.Fatal(err)
	}
	between := regexp.MustCompile(`(?s)(<!-- costs -->).*(<!-- end of costs -->)`)
	want := between.ReplaceAllString(string(text), "${1}"+strings.ReplaceAll(b.String(), "$", "$$")+"${2}")
	if *update {
		if err := os.WriteFile(docsPage, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want != string(text) || !between.Match(text) {
		t.Errorf("%s shows other costs: run this test with -update", docsPage)
	}
}

// exact writes a range as it is.
func (r Range) exact() string {
	if r.Low == r.High {
		return fmt.Sprint(r.Low)
	}
	return fmt.Sprintf("%v–%v", r.Low, r.High)
}

// The page names each flag's default as the description has it.
func TestThePageShowsTheDefaults(t *testing.T) {
	text, err := os.ReadFile(docsPage)
	if err != nil {
		t.Fatal(err)
	}
	l := DefaultLoad()
	for name, value := range map[string]any{
		"online": l.Online, "devices": l.Devices, "opens_per_hour": l.Opens, "looks": l.Looks, "lists": l.Lists, "browsers": l.Browsers, "idles_per_hour": l.Idles,
	} {
		if !strings.Contains(string(text), fmt.Sprintf("| `%s` | %v |", name, value)) {
			t.Errorf("%s: the default is %v", name, value)
		}
	}
}
