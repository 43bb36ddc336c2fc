// Package plan runs the steps of a long experiment one after the other and tells
// a person how far it is: which step of how many, how long it took, and how long
// the rest will about take.
package plan
