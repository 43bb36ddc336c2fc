// Package testkit is what the tests of more than one package need. Only tests import it.
//
//   - random.go: random numbers that a failure can be repeated with; clock.go: times of a test;
//   - heap.go: a measure of the heap; race.go, norace.go: whether the race detector is on;
//   - logs.go: a log to look into; reach.go: a search for what a value leads to;
//   - sharedlog.go: a log of a cluster in memory; token.go: access tokens that name their user;
//   - homeserver.go: models of what homeservers make of presence.
package testkit
