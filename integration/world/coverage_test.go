package world_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// coverage is which pairs of values have been drawn together. A value is named axis=value.
type coverage struct {
	// blind is for comparison: what has been drawn doesn't matter.
	blind bool

	mu     sync.Mutex // guards all below
	pairs  map[[2]string]int
	values map[string]map[string]bool // that each axis has
}

func newCoverage() *coverage {
	return &coverage{pairs: make(map[[2]string]int), values: make(map[string]map[string]bool)}
}

// news returns how many of others a value has not been seen beside.
func (c *coverage) news(axis, value string, others []string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.values[axis] == nil {
		c.values[axis] = make(map[string]bool)
	}
	c.values[axis][axis+"="+value] = true
	for _, other := range others {
		if !c.blind && c.pairs[pair(axis+"="+value, other)] == 0 {
			n++
		}
	}
	return n
}

// add notes the pairs of a plan. While one plan is drawn, and reduced, nothing must be
// added: the same draws have to mean the same.
func (c *coverage) add(p *plan) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range p.steps {
		values := s.values
		if s.call != nil {
			values = s.call.values
		}
		for i, value := range values {
			for _, other := range values[:i] {
				c.pairs[pair(value, other)]++
			}
		}
	}
}

func pair(a, b string) [2]string {
	if a > b {
		a, b = b, a
	}
	return [2]string{a, b}
}

func axisOf(value string) string {
	axis, _, _ := strings.Cut(value, "=")
	return axis
}

// drawn returns how many pairs of values have been drawn, by the pair of their axes, and how many
// there are. Axes that never come together, such as what a sync and what a write says, aren't
// there.
func (c *coverage) drawn() (drawn, all map[[2]string]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	drawn, all = make(map[[2]string]int), make(map[[2]string]int)
	for values := range c.pairs {
		axes := pair(axisOf(values[0]), axisOf(values[1]))
		drawn[axes]++
		all[axes] = len(c.values[axes[0]]) * len(c.values[axes[1]])
	}
	return drawn, all
}

func (c *coverage) String() string {
	drawn, all := c.drawn()
	n, of := 0, 0
	for axes := range all {
		n, of = n+drawn[axes], of+all[axes]
	}
	return fmt.Sprintf("%d of %d pairs of values", n, of)
}

// markdown returns a table of which part of their pairs of values has been drawn of each two axes.
func (c *coverage) markdown() string {
	drawn, all := c.drawn()
	axes := slices.Sorted(maps.Keys(c.values))
	var b strings.Builder
	b.WriteString("| axis | values |")
	for _, axis := range axes {
		b.WriteString(" " + axis + " |")
	}
	b.WriteString("\n|---|--:|" + strings.Repeat("--:|", len(axes)) + "\n")
	for i, axis := range axes {
		fmt.Fprintf(&b, "| %s | %d |", axis, len(c.values[axis]))
		for j, other := range axes {
			of := all[pair(axis, other)]
			switch {
			case j > i:
				b.WriteString(" |")
			case of == 0:
				b.WriteString(" – |")
			default:
				fmt.Fprintf(&b, " %d |", 100*drawn[pair(axis, other)]/of)
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}
