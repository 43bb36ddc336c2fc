package testkit

import "time"

// Epoch is when all tests of packages that take the time as a parameter begin. None
// of them looks at a real clock.
var Epoch = time.Date(2026, time.July, 1, 12, 0, 0, 0, time.UTC)

// At returns the moment d after Epoch.
func At(d time.Duration) time.Time { return Epoch.Add(d) }
