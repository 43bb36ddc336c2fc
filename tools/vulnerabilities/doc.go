// Command vulnerabilities runs govulncheck over the modules whose folders it is
// given:
//
//	go run ./vulnerabilities .. ../integration
//
// It reports a known vulnerability only where the code reaches it, the module's
// own tests left out, and ends with status 1 then.
//
// The database is that of the Go project, or the one that GOVULNDB names: an
// https or file URL. Where the default can't be reached, as behind a firewall,
// the check is skipped, says so, and ends with status 0. That is decided before
// govulncheck starts, by reading the file that says when the database was
// changed. So nothing that goes wrong later is taken for a missing network, and
// a database that somebody named but that isn't there is a failure.
package main
