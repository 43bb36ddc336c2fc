// Package mutation tests the test: with a guard taken out of the code, one at a time, the
// history test must fail. A mutant is a few words of a source file put in place of
// others, and the go command's -overlay flag builds the history test with it. So the code
// itself has no hooks, and the checkout is never changed.
//
// A mutant is caught if the checker finds a history that isn't linearizable. One that
// doesn't compile, whose words are no longer in the source, or that ends in another way, is
// a mistake of this package and fails it.
//
//	go test ./mutation -v
//	go test ./mutation -size full -timeout 60m -v
package mutation
