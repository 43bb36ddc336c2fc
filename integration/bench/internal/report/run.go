package report

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Run is all that there is to say of one run of a command.
type Run struct {
	Environment Environment
	// Tables are all that the documentation shows. Those of what was not measured have no rows.
	Tables []Table
	// Texts are what else it shows, by the names of the markers.
	Texts map[string]string
	// Skipped says what was left out, and why, Problems which figures not to trust, and Missed
	// which targets were missed.
	Skipped, Problems, Missed []string
}

// Print shows the run on a terminal.
func (r *Run) Print(out io.Writer) {
	for _, t := range r.Tables {
		if len(t.Rows) > 0 {
			t.Text(out)
		}
	}
	fmt.Fprintf(out, "\n%s\n", r.Environment.Text())
	for _, s := range r.Skipped {
		fmt.Fprintf(out, "skipped: %s\n", s)
	}
	for _, p := range r.Problems {
		fmt.Fprintf(out, "problem: %s\n", p)
	}
	for _, m := range r.Missed {
		fmt.Fprintf(out, "target missed: %s\n", m)
	}
}

// Document writes the run into a page of the folder of the documentation: its tables, what
// ran where ("environment"), what was left out ("skipped"), and what was not as it should be,
// or missed its target ("problems").
func (r *Run) Document(dir, page string) error {
	name := filepath.Join(dir, page)
	text, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("reading the documentation: %w", err)
	}
	texts := map[string]string{
		"environment": r.Environment.Text(),
		"skipped":     list("Left out", r.Skipped, "Nothing was left out."),
		"problems":    list("Not as it should be", slices.Concat(r.Problems, r.Missed), "All figures are as they should be, and all targets were met."),
	}
	for name, text := range r.Texts {
		texts[name] = text
	}
	for _, t := range r.Tables {
		texts[t.Name] = "Not measured in this run."
		if len(t.Rows) > 0 {
			texts[t.Name] = t.Markdown()
		}
	}
	filled, err := Fill(string(text), texts)
	if err != nil {
		return err
	}
	if err := os.WriteFile(name, []byte(filled), 0o644); err != nil {
		return fmt.Errorf("writing the documentation: %w", err)
	}
	return nil
}

// list writes lines below a heading, or what to say if there are none.
func list(heading string, lines []string, none string) string {
	if len(lines) == 0 {
		return none
	}
	return heading + ":\n\n- " + strings.Join(lines, "\n- ")
}
