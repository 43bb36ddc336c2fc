package policy

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// memoryEntries is how many entries a benchmark of memory fills a table with.
const memoryEntries = 1_000_000

// BenchmarkMemoryUsers measures a user with a budget.
func BenchmarkMemoryUsers(b *testing.B) {
	limit, err := NewLimit(1, time.Hour, 5)
	if err != nil {
		b.Fatal(err)
	}
	testkit.ReportHeap(b, memoryEntries, func() any {
		l := NewLimiter(memoryEntries*11/10, testkit.Epoch)
		for i := range memoryEntries {
			l.Take(fmt.Sprintf("@user%07d:example.com", i), limit, testkit.Epoch)
		}
		return l
	})
}

// BenchmarkMemoryTokens measures a token whose user is known.
func BenchmarkMemoryTokens(b *testing.B) {
	testkit.ReportHeap(b, memoryEntries, func() any {
		t := NewIdentities(memoryEntries*11/10, testkit.Epoch)
		for i := range memoryEntries {
			learn(t, matrix.Credential{Token: fmt.Sprintf("syt_token_%d", i)},
				WhoAmI{UserID: fmt.Sprintf("@user%07d:example.com", i), DeviceID: "DEVICE"}, time.Hour)
		}
		return t
	})
}
