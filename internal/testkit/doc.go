// Package testkit is what the tests of more than one package need: random numbers
// that a failure can be repeated with, a clock, and a measure of the heap. Only tests
// import it.
package testkit
