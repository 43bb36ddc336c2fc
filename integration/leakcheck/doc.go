// Command leakcheck runs the tests of a module and fails if a package leaves a
// goroutine behind:
//
//	go run ./leakcheck ../cmd/xcaddy-build -race
//
// The first argument is the module's folder; the others go to `go test` as they
// are.
//
// The library that looks for goroutines, goleak, must not enter the go.mod that
// the plugin's users inherit, so the tests can't import it. They are built as if
// they did: each package gets one more file with a TestMain, by the go command's
// -overlay, and the module another go.mod, by its -modfile. Nothing is written
// into the checkout.
//
// goleak looks when a package's tests have passed, and waits for goroutines that
// are about to end. A package with a TestMain of its own can't get a second one
// and fails, rather than go unwatched; in this module such a package calls goleak
// by itself.
package main
