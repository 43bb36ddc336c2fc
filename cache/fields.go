package cache

import (
	"slices"
	"strings"
	"sync"
)

// internedFields is how many different sets of header fields are shared. A
// homeserver sends one or two.
const internedFields = 16

// fieldTable makes states that came with the same header fields share one copy
// of them: a set of their own each would be larger than all else in a state.
type fieldTable struct {
	mu   sync.Mutex // guards sets
	sets [][]Field  // most recently added last
}

// intern returns a set equal to fields, the same one for equal arguments as long
// as no more than internedFields are in use.
func (t *fieldTable) intern(fields []Field) []Field {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, set := range t.sets {
		if slices.EqualFunc(set, fields, equalField) {
			return set
		}
	}
	if len(t.sets) == internedFields {
		t.sets = slices.Delete(t.sets, 0, 1)
	}
	own := make([]Field, len(fields))
	for i, field := range fields {
		// The strings of a request may be parts of a larger buffer.
		own[i].Name = strings.Clone(field.Name)
		for _, value := range field.Values {
			own[i].Values = append(own[i].Values, strings.Clone(value))
		}
	}
	t.sets = append(t.sets, own)
	return own
}

func equalField(a, b Field) bool {
	return a.Name == b.Name && slices.Equal(a.Values, b.Values)
}
