// Package sampled has a map with a bound, for tables of many small entries.
//
// A list of what was used last, as golang-lru keeps it, costs some 90 bytes an
// entry on top of key and value, and gives the garbage collector pointers to
// follow. Where an entry has an age anyway, and an old one is worth little, it is
// enough to look at a few entries and drop the oldest of them (Redis evicts
// in that way): what is dropped is then among the oldest third nearly always.
package sampled

import (
	"iter"
	"maps"
)

// samples is how many entries are looked at to drop one.
const samples = 8

// Map is a map of at most so many entries. It is not safe for use by several
// goroutines.
type Map[K comparable, V any] struct {
	entries  map[K]V
	capacity int
	older    func(a, b V) bool
	evicted  uint64
}

// New returns an empty map of at most capacity entries, at least 1. By older it
// tells which of two is to be dropped first.
func New[K comparable, V any](capacity int, older func(a, b V) bool) *Map[K, V] {
	return &Map[K, V]{entries: make(map[K]V), capacity: max(1, capacity), older: older}
}

// Get returns the value of a key.
func (m *Map[K, V]) Get(key K) (value V, ok bool) {
	value, ok = m.entries[key]
	return value, ok
}

// Put sets the value of a key. If that makes one entry too many, another one is
// dropped.
func (m *Map[K, V]) Put(key K, value V) {
	if len(m.entries) >= m.capacity {
		if _, ok := m.entries[key]; !ok {
			m.dropOne()
		}
	}
	m.entries[key] = value
}

// Like returns an empty map of the same capacity and order.
func (m *Map[K, V]) Like() *Map[K, V] { return New[K](m.capacity, m.older) }

// PutUnder puts the entries of another map in that have no value yet. The other is of no more use.
func (m *Map[K, V]) PutUnder(other *Map[K, V]) {
	for key, value := range m.entries {
		other.Put(key, value)
	}
	m.entries, m.evicted = other.entries, m.evicted+other.evicted
	m.Resize(m.capacity)
}

// Delete drops an entry, if there is one.
func (m *Map[K, V]) Delete(key K) { delete(m.entries, key) }

// Clear drops all entries.
func (m *Map[K, V]) Clear() { clear(m.entries) }

// All returns an iterator over the entries. Those that are there may be put anew meanwhile.
func (m *Map[K, V]) All() iter.Seq2[K, V] { return maps.All(m.entries) }

// Len returns the number of entries.
func (m *Map[K, V]) Len() int { return len(m.entries) }

// Resize changes the capacity, and drops what is too much.
func (m *Map[K, V]) Resize(capacity int) {
	m.capacity = max(1, capacity)
	for len(m.entries) > m.capacity {
		m.dropOne()
	}
}

// Evicted returns how many entries were dropped because there were too many.
func (m *Map[K, V]) Evicted() uint64 { return m.evicted }

// dropOne drops the oldest of a few entries. Iteration begins at a random place.
func (m *Map[K, V]) dropOne() {
	var oldest K
	var age V
	n := 0
	for key, value := range m.entries {
		if n == 0 || m.older(value, age) {
			oldest, age = key, value
		}
		if n++; n == samples {
			break
		}
	}
	delete(m.entries, oldest)
	m.evicted++
}
