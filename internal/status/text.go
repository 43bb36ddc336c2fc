package status

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Text returns a view for a terminal, without the rows in which nothing has happened yet.
func (v *View) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, up %s, %s\n", v.Version, v.Uptime.Text, v.Time.UTC().Format("2006-01-02 15:04:05 UTC"))
	if len(v.Caches) == 0 {
		b.WriteString("\nNo site has the directive matrix_presence.\n")
	}
	for _, c := range v.Caches {
		fmt.Fprintf(&b, "\n%s\n", clean(c.Name))
		for _, f := range c.Facts {
			fmt.Fprintf(&b, "  %s: %s\n", f.Label, clean(f.Cell.Text))
		}
		for _, t := range c.Tables {
			t.text(&b)
		}
	}
	return b.String()
}

// text writes a table. Its first column begins at the left, others end at the right.
func (t *Table) text(b *strings.Builder) {
	columns := len(t.Columns)
	for i := range t.Rows {
		for n, c := range t.Rows[i].Cells {
			if c.IsCurve && !c.IsBar { // nothing to see here
				columns = min(columns, n+1)
			}
		}
	}
	lines := [][]string{append([]string{t.Caption}, t.Columns[1:columns]...)}
	for _, r := range t.Rows {
		if r.Quiet {
			continue
		}
		line := []string{r.Head}
		for _, c := range r.Cells[:columns-1] {
			line = append(line, strings.TrimSpace(c.Text+"  "+c.Sub))
		}
		lines = append(lines, append(line, r.Metric))
	}
	if len(lines) == 1 {
		return
	}
	widths := make([]int, columns)
	for _, line := range lines {
		for i := range widths {
			widths[i] = max(widths[i], utf8.RuneCountInString(clean(line[i])))
		}
	}
	b.WriteByte('\n')
	for _, line := range lines {
		b.WriteString(strings.TrimRight(row(line, widths), " ") + "\n")
	}
}

// row is a line whose columns have these widths. What is more than these follows.
func row(line []string, widths []int) string {
	var b strings.Builder
	for i, text := range line {
		text = clean(text)
		pad := ""
		if i < len(widths) {
			pad = strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text))
		}
		switch {
		case i == 0:
			b.WriteString("  " + text + pad)
		default:
			b.WriteString("  " + pad + text)
		}
	}
	return b.String()
}

// clean takes out of a text what a terminal would act upon: a user ID is somebody else's word.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, text)
}
