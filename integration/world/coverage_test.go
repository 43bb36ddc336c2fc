package world_test

import (
	"slices"
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
