package report

import (
	"fmt"
	"strings"
)

const (
	markerBegin = "<!-- bench:begin "
	markerClose = " -->"
	markerEnd   = "<!-- bench:end -->"
)

// Fill replaces what stands between the markers of a document. Each name in it has
// to be known: a table that nobody fills would go on showing an old run.
func Fill(document string, texts map[string]string) (string, error) {
	var filled strings.Builder
	for {
		before, rest, found := strings.Cut(document, markerBegin)
		filled.WriteString(before)
		if !found {
			return filled.String(), nil
		}
		name, rest, closed := strings.Cut(rest, markerClose)
		_, after, ended := strings.Cut(rest, markerEnd)
		text, known := texts[name]
		switch {
		case !closed || !ended:
			return "", fmt.Errorf("filling in the figures: the marker %q is not closed", firstLine(name))
		case !known:
			return "", fmt.Errorf("filling in the figures: there are none called %q", name)
		}
		fmt.Fprintf(&filled, "%s%s%s\n\n%s\n\n%s", markerBegin, name, markerClose, strings.TrimSpace(text), markerEnd)
		document = after
	}
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
