// Package testkit is what the tests of more than one package need: random numbers
// that a failure can be repeated with, a clock, a measure of the heap, a log to look into, a search for what a
// value leads to, and models of what homeservers make of presence. Only tests import it.
package testkit
