package policy

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// BenchmarkMemoryUsers measures a user with a budget.
func BenchmarkMemoryUsers(b *testing.B) {
	limit, err := NewLimit(1, time.Hour, 5)
	if err != nil {
		b.Fatal(err)
	}
	testkit.ReportHeap(b, testkit.Entries, func() any {
		l := NewLimiter(testkit.Entries*11/10, testkit.Epoch)
		for i := range testkit.Entries {
			l.Take(fmt.Sprintf("@user%07d:example.com", i), limit, testkit.Epoch)
		}
		return l
	})
}
