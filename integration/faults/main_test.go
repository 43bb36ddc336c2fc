package faults

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if *size != "small" && *size != "full" {
		fmt.Fprintf(os.Stderr, "-size is small or full, not %s\n", *size)
		os.Exit(2)
	}
	goleak.VerifyTestMain(m)
}
