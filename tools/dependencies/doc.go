// Command dependencies checks that CONTRIBUTING.md says of every direct
// dependency what it is there for:
//
//	go run ./dependencies ..
//
// It finds every go.mod in the folder, and takes what they require directly and
// the modules of their tools. A row of CONTRIBUTING.md that no go.mod bears out
// any more is a failure as well, and so is a Python requirement without an exact
// version.
package main
