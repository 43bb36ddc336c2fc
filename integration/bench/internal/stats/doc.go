// Package stats sums up measurements on a noisy machine.
//
// Neighbours on the host change the speed of everything from one second to the
// next, so an average of absolute figures says little. What holds still is the
// ratio of two figures that were taken next to each other: a [Spread] of ratios
// pairs what was measured in the same round, and its median with the smallest
// and largest is what the tables show. Nothing is thrown away.
package stats
