// Package flight makes one call of several that may share what it brings.
//
//   - group.go: [Group], for callers of any time. A call that somebody may not share is followed
//     by another;
//   - once.go: [Once], for a few callers who have one thing to find out. A call is made once;
//   - guard.go: [Guard], for what happens in a goroutine of our own.
package flight
