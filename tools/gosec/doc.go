// Command gosec runs the security linter gosec over the modules whose folders it
// is given:
//
//	go run ./gosec .. ../integration
//
// It is gosec as a library: gosec's own command brings the clients of three
// language models, four fifths of what it takes to compile. It is stricter than
// that command, too. A `#nosec` comment must name its rule and its reason:
//
//	f, err := os.Open(name) // #nosec G304 -- the user names the file
//
// What holds for a whole folder is in exceptions.go, with its reason. An
// exception that nothing needs any more is a failure, like a finding.
package main
