package cache

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// memoryEntries is how many entries a benchmark of memory fills a table with.
const memoryEntries = 1_000_000

// BenchmarkMemoryStates measures a state with a body of 90 bytes.
func BenchmarkMemoryStates(b *testing.B) {
	testkit.ReportHeap(b, memoryEntries, func() any {
		p, rules := NewPresence(memoryEntries*11/10, 1, testkit.Epoch), &Rules{TTL: time.Hour}
		fields := []Field{{Name: "Content-Type", Values: []string{"application/json"}}}
		for i := range memoryEntries {
			body := fmt.Appendf(nil, `{"presence":"unavailable","last_active_ago":123456,"status_msg":"away, back at %9d"}`, i)
			answer, err := ParseAnswer(body, fields)
			if err != nil {
				b.Fatal(err)
			}
			p.Allow(alice, p.Depart(fmt.Sprintf("@user%07d:example.com", i), testkit.Epoch), answer, rules, testkit.Epoch)
		}
		return p
	})
}

// BenchmarkMemoryPermissions measures a permission.
func BenchmarkMemoryPermissions(b *testing.B) {
	testkit.ReportHeap(b, memoryEntries, func() any {
		p := NewPresence(1, memoryEntries*11/10, testkit.Epoch)
		for i := range memoryEntries {
			p.permissions.allow(fmt.Sprintf("@viewer%04d:example.com", i%1000), Ticket{target: fmt.Sprintf("@user%07d:example.com", i/1000), departed: 1})
		}
		return p
	})
}
