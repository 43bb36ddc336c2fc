package testkit

import (
	"runtime"
	"testing"
)

// Entries is how many entries a benchmark of memory fills a table with.
const Entries = 1_000_000

// ReportHeap reports by how many bytes for each of its entries fill makes the heap
// grow, as the metric "B/entry". What fill returns is kept until that has been
// measured. A benchmark is best run with -benchtime 1x.
func ReportHeap(b *testing.B, entries int, fill func() any) {
	b.Helper()
	for b.Loop() {
		before := inUse()
		kept := fill()
		b.ReportMetric(float64(inUse()-before)/float64(entries), "B/entry")
		runtime.KeepAlive(kept)
	}
}

func inUse() uint64 {
	runtime.GC()
	runtime.GC() // what the first one's finalizers have let go
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
