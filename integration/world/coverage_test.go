package world_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// coverage is which pairs of values have been drawn together.
type coverage struct {
	mu    sync.Mutex // guards pairs
	pairs map[[2]string]int
}

// isNew reports whether a value has not been seen beside one of others.
func (c *coverage) isNew(value string, others []string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(others, func(other string) bool { return c.pairs[pair(value, other)] == 0 })
}

// add notes the pairs of a plan. While one plan is drawn, and reduced, nothing must be
// added: the same draws have to mean the same.
func (c *coverage) add(p *plan) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range calls(p.steps) {
		for i, value := range one.values {
			for _, other := range one.values[:i] {
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

// table shows for each pair of axes how many pairs of values have been seen, in Markdown.
func (c *coverage) table(sizes map[string]int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := make(map[[2]string]int)
	for p := range c.pairs {
		a, _, _ := strings.Cut(p[0], "=")
		b, _, _ := strings.Cut(p[1], "=")
		seen[pair(a, b)]++
	}
	names := slices.Sorted(maps.Keys(sizes))
	var b strings.Builder
	fmt.Fprintf(&b, "| | %s |\n|---|%s\n", strings.Join(names, " | "), strings.Repeat("--:|", len(names)))
	for _, row := range names {
		fmt.Fprintf(&b, "| **%s** (%d)", row, sizes[row])
		for _, column := range names {
			if n := seen[pair(row, column)]; n > 0 && row != column {
				fmt.Fprintf(&b, " | %d of %d", n, sizes[row]*sizes[column])
			} else {
				b.WriteString(" | ")
			}
		}
		b.WriteString(" |\n")
	}
	return b.String()
}
