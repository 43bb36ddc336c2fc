package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/vuln/scan"
)

func main() {
	if err := run(context.Background(), chosen(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "vulnerabilities:", err)
		os.Exit(1)
	}
}

// errVulnerable says that the check went well and what it found did not.
var errVulnerable = errors.New("govulncheck found vulnerabilities that the code reaches")

// run checks the modules in these folders against the database.
func run(ctx context.Context, db database, modules []string, out io.Writer) error {
	if len(modules) == 0 {
		return errors.New("name the modules' folders")
	}
	modified, err := db.modified(ctx)
	switch {
	case err != nil && db.named:
		return fmt.Errorf("reaching the database that GOVULNDB names: %w", err)
	case err != nil:
		fmt.Fprintf(out, "SKIPPED: govulncheck: the vulnerability database can't be reached (GOVULNDB names another): %v\n", err)
		return nil
	}
	fmt.Fprintf(out, "vulnerability database %s of %s\n", db.url, modified.Format(time.DateOnly))

	var vulnerable error
	for _, module := range modules {
		fmt.Fprintf(out, "%s: govulncheck\n", module)
		switch err := check(ctx, db, module, out); {
		case errors.Is(err, errVulnerable):
			vulnerable = err
		case err != nil:
			return fmt.Errorf("running govulncheck in %s: %w", module, err)
		}
	}
	return vulnerable
}

// check runs govulncheck in one module. It tells its findings from its failures
// by a status of their own.
func check(ctx context.Context, db database, module string, out io.Writer) error {
	cmd := scan.Command(ctx, "-C", module, "-db", db.url, "./...")
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return err
	}
	err := cmd.Wait()
	var status interface{ ExitCode() int }
	if errors.As(err, &status) && status.ExitCode() == 3 {
		return errVulnerable
	}
	return err
}
