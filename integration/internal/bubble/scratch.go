package bubble

import (
	"fmt"
	"os"
)

// Run runs tests, such as those of a *testing.M, with a temporary folder in which Caddy looks for
// its own. It returns their exit code.
func Run(tests interface{ Run() int }) int {
	scratch, err := os.MkdirTemp("", "bubble-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(scratch)
	if err := os.Setenv("OTEL_TRACES_EXPORTER", "none"); err != nil { // nobody collects them
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for _, name := range []string{"XDG_CONFIG_HOME", "XDG_DATA_HOME"} {
		if err := os.Setenv(name, scratch); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return tests.Run()
}
