// Package equations holds what the module's counters promise of each other, of the access
// log and of the homeserver, whatever the traffic was. An equation that fails is a request
// that was counted twice or not at all, or one that nobody asked for.
//
// The counters are read from the metrics of a running Caddy ([Read]). Each function adds its
// equations to a [List], so a test may use those whose other side it knows.
package equations

import (
	"fmt"
	"strings"
)

// Equation is a count that must lie between two others. Mostly these are equal; they differ
// where nobody can know what became of a request, such as one whose client went away.
type Equation struct {
	What      string
	Low, High int
	Value     int
}

// Holds tells that the count is within its bounds.
func (e Equation) Holds() bool { return e.Low <= e.Value && e.Value <= e.High }

// Bounds tells what the count must be.
func (e Equation) Bounds() string {
	if e.Low == e.High {
		return fmt.Sprintf("= %d", e.Low)
	}
	return fmt.Sprintf("%d to %d", e.Low, e.High)
}

func (e Equation) String() string {
	return fmt.Sprintf("%s: %d, want %s", e.What, e.Value, e.Bounds())
}

// List is a number of equations.
type List []Equation

// Between adds an equation with bounds. The format names both of its sides.
func (l *List) Between(value, low, high int, format string, args ...any) {
	*l = append(*l, Equation{fmt.Sprintf(format, args...), low, high, value})
}

// Equal adds an equation of two counts.
func (l *List) Equal(value, want int, format string, args ...any) {
	l.Between(value, want, want, format, args...)
}

// Failing are those that don't hold.
func (l List) Failing() (failing List) {
	for _, e := range l {
		if !e.Holds() {
			failing = append(failing, e)
		}
	}
	return failing
}

func (l List) String() string {
	lines := make([]string, len(l))
	for i, e := range l {
		lines[i] = e.String()
	}
	return strings.Join(lines, "\n")
}
