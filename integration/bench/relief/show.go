package main

import (
	"fmt"
	"image/color"
	"slices"
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/report"
)

// measured is all that was measured at once.
type measured struct {
	environment report.Environment
	results     []Result
	// problems begin with a space if they are examples of the one before.
	problems, skipped []string
}

// page is the documentation's.
const page = "relief.md"

// table is that of one homeserver.
func (r *measured) table(homeserver string) report.Table {
	t := report.Table{
		Name:  "relief-" + strings.ToLower(homeserver),
		Title: "What reaches " + homeserver + ", and what it costs",
		Columns: []string{"<shape", "<way", "requests", "upstream", "of these whoami", "homeserver CPU s", "for presence s", "saved",
			"sidecar CPU s", "p50 ms", "p99 ms", "messages p99 ms", "<errors", "<wrong", "late", "final ms", "seen p50, p99 ms", "<targets"},
	}
	for _, m := range r.results {
		if m.Homeserver != homeserver {
			continue
		}
		saved, final, presence := "", "", fmt.Sprintf("%.2f", m.PresenceCPU())
		if m.Saved != nil {
			saved = fmt.Sprintf("%.0f %%", 100**m.Saved)
		}
		if m.FinalMillis != nil {
			final = fmt.Sprintf("%.0f", *m.FinalMillis)
		}
		if m.Way == quiet.name {
			presence = ""
		}
		words, _ := m.met()
		messages := ""
		if m.MessageP99 != nil {
			messages = fmt.Sprintf("%.0f", *m.MessageP99)
		}
		t.Rows = append(t.Rows, []string{
			m.title(), m.Way, fmt.Sprint(m.Requests), fmt.Sprint(m.Upstream.All()), fmt.Sprint(m.Upstream.Whoami),
			fmt.Sprintf("%.2f", m.HomeserverCPU), presence, saved, fmt.Sprintf("%.2f", m.SidecarCPU),
			fmt.Sprintf("%.1f", m.P50), fmt.Sprintf("%.1f", m.P99), messages, listed(m.Errors), listed(m.Wrong), fmt.Sprint(m.Late), final, m.Seen.String(),
			strings.Join(words, "; "),
		})
	}
	return t
}

// shapesTable says what each shape was.
func (r *measured) shapesTable() report.Table {
	t := report.Table{Name: "relief-shapes", Title: "Shapes", Columns: []string{"<shape", "<in this run"}}
	var seen []string
	for _, m := range r.results {
		if !slices.Contains(seen, m.Shape) {
			seen = append(seen, m.Shape)
			t.Rows = append(t.Rows, []string{m.Shape, m.What})
		}
	}
	return t
}

// tables are all tables; one of what was not measured has no rows.
func (r *measured) tables() []report.Table {
	tables := []report.Table{r.shapesTable()}
	for _, k := range homeservers {
		tables = append(tables, r.table(k.name))
	}
	if predictions := r.predictions(); len(predictions.Rows) > 0 {
		tables = append(tables, predictions)
	}
	return tables
}

// environmentText is where and with what the run was made.
func (r *measured) environmentText() string {
	text := r.environment.Text()
	if r.environment.Size != "full" {
		text += " These figures are of a small size: they show that it works; for what it saves, run the full one."
	}
	return text
}

// missed are the problems without their examples.
func (r *measured) missed() []string {
	return slices.DeleteFunc(slices.Clone(r.problems), func(p string) bool { return strings.HasPrefix(p, " ") })
}

// run is what there is to show.
func (r *measured) run() *report.Run {
	return &report.Run{
		Environment: r.environment, Tables: r.tables(), Skipped: r.skipped, Problems: r.problems,
		Texts: map[string]string{"environment": r.environmentText(), "busy": "```\n" + strings.TrimSpace(busy) + "\n```"},
	}
}

func chartFile(homeserver string) string { return "relief-" + strings.ToLower(homeserver) + ".svg" }

// The kinds of bars. Their colours differ in lightness too.
var kinds = map[string]report.Kind{
	direct.name:    {Name: direct.name, Colour: color.RGBA{0xb4, 0xbc, 0xc4, 0xff}},
	byDefault.name: {Name: byDefault.name, Colour: color.RGBA{0xe8, 0x99, 0x3c, 0xff}},
	busyWay.name:   {Name: busyWay.name, Colour: color.RGBA{0x1f, 0x6f, 0xb4, 0xff}},
}

// chart shows what presence costs a homeserver by each way, by shape, as a share of what it
// costs directly.
func (r *measured) chart(homeserver, path string) error {
	var bars []report.Bar
	heading, whole := "", 0.0
	for _, m := range r.results {
		kind, ok := kinds[m.Way]
		if m.Homeserver != homeserver || !ok {
			continue
		}
		if m.Way == direct.name {
			if cost, ok := m.telling(); ok {
				whole = cost
			} else {
				whole = 0
			}
		}
		if whole == 0 {
			continue // too little to tell
		}
		if m.title() != heading {
			heading = m.title()
			bars = append(bars, report.Bar{Label: heading})
		}
		cost := max(0, m.PresenceCPU())
		bars = append(bars, report.Bar{
			Label: kind.Name, Kind: kind, Value: 100 * cost / whole,
			Figure: fmt.Sprintf("%.0f %%: %.2f s, %d requests for %d", 100*cost/whole, cost, m.Upstream.All(), m.Requests),
		})
	}
	if len(bars) == 0 {
		return nil
	}
	return report.SaveBars(bars, "CPU time of "+homeserver+" for presence, by shape of load", "percent of what it is without the sidecar", path)
}
