package report

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Table is a table with a line of text above.
type Table struct {
	// Name is that of its markers in the documentation.
	Name string
	// Title says what it shows.
	Title string
	// Columns are headings. One that begins with "<" is aligned to the left, all
	// others hold figures.
	Columns []string
	Rows    [][]string
}

// left tells whether a column is aligned to the left, and its heading.
func left(column string) (heading string, ok bool) {
	heading, ok = strings.CutPrefix(column, "<")
	return heading, ok
}

// Text writes the table for a terminal.
func (t Table) Text(out io.Writer) {
	headings := make([]string, len(t.Columns))
	width := make([]int, len(t.Columns))
	for i, c := range t.Columns {
		headings[i], _ = left(c)
	}
	for _, row := range append([][]string{headings}, t.Rows...) {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	fmt.Fprintf(out, "\n%s\n\n", t.Title)
	for _, row := range append([][]string{headings}, t.Rows...) {
		var line strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if _, ok := left(t.Columns[i]); ok {
				line.WriteString(cell + pad + "  ")
			} else {
				line.WriteString(pad + cell + "  ")
			}
		}
		fmt.Fprintln(out, strings.TrimRight(line.String(), " "))
	}
}

// Markdown returns the table for the documentation.
func (t Table) Markdown() string {
	var text strings.Builder
	line := func(cells []string) {
		fmt.Fprintf(&text, "| %s |\n", strings.Join(cells, " | "))
	}
	headings, rule := make([]string, len(t.Columns)), make([]string, len(t.Columns))
	for i, c := range t.Columns {
		var isLeft bool
		headings[i], isLeft = left(c)
		rule[i] = "--:"
		if isLeft {
			rule[i] = "---"
		}
	}
	line(headings)
	line(rule)
	for _, row := range t.Rows {
		line(row)
	}
	return text.String()
}
