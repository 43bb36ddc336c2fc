package status

import (
	"maps"
	"slices"
	"time"
)

// Document is what the module has counted by a time.
type Document struct {
	Version string    `json:"version"`
	Time    time.Time `json:"time"`
	Started time.Time `json:"started"` // the process
	Caches  []Cache   `json:"caches"`  // by name
}

// Cache is one store: that of a homeserver, with all its sites.
type Cache struct {
	Name string `json:"cache"` // as in the metrics' labels

	// Since is when it began to count. A reload keeps it.
	Since time.Time `json:"since"`

	// Mode is "enforce" or "observe", or "mixed" if its handlers differ.
	Mode string `json:"mode"`

	// Homeserver is "synapse", "dendrite" or "tuwunel", or "" as long as it isn't known.
	Homeserver string `json:"homeserver"`

	// Metrics are its metrics by name, without caddy_matrix_presence_ and the label cache: a number,
	// or an object with a member for each value of the first label, and so on:
	//
	//	{"saved_total": 7, "outcomes_total": {"read": {"hit": 5}}}
	//
	// The histogram is upstream_seconds_bucket, _sum and _count, as Prometheus has it.
	Metrics Metrics `json:"metrics"`

	// Latency is how long the homeserver took to begin to answer since the cache began, estimated from
	// the histogram, by reason. What was never measured isn't there.
	Latency map[string]Latency `json:"latency"`
}

// Latency is a time in seconds that half of the requests were answered within, and one for 99 %.
type Latency struct {
	P50 float64 `json:"p50_seconds"`
	P99 float64 `json:"p99_seconds"`
}

// Limited is a user who was over a limit.
type Limited struct {
	Limit, UserID   string
	AtLeast, AtMost uint64 // of so many times
}

// Metrics are metrics by name and by the values of their labels.
type Metrics map[string]any

// Set sets a number.
func (m Metrics) Set(value float64, name string, labels ...string) {
	node, path := m, append([]string{name}, labels...)
	for _, word := range path[:len(path)-1] {
		inner, ok := node[word].(map[string]any)
		if !ok {
			inner = make(map[string]any)
			node[word] = inner
		}
		node = inner
	}
	node[path[len(path)-1]] = value
}

// find returns a number or an object, or nil.
func (m Metrics) find(name string, labels ...string) any {
	var found any = map[string]any(m)
	for _, word := range append([]string{name}, labels...) {
		node, ok := found.(map[string]any)
		if !ok {
			return nil
		}
		found = node[word]
	}
	return found
}

// Value returns a number, or the sum of those that have these labels. What isn't there is 0.
func (m Metrics) Value(name string, labels ...string) float64 { return sum(m.find(name, labels...)) }

// Has reports whether there is such a number.
func (m Metrics) Has(name string, labels ...string) bool { return m.find(name, labels...) != nil }

// Names returns the names of the metrics, in alphabetical order.
func (m Metrics) Names() []string { return slices.Sorted(maps.Keys(m)) }

// Labels returns the values of the label that comes after these, in alphabetical order.
func (m Metrics) Labels(name string, labels ...string) []string {
	node, _ := m.find(name, labels...).(map[string]any)
	return slices.Sorted(maps.Keys(node))
}

func sum(found any) (total float64) {
	switch found := found.(type) {
	case float64:
		return found
	case map[string]any:
		for _, inner := range found {
			total += sum(inner)
		}
	}
	return total
}
