package leaks_test

import "flag"

// The same sequences each time, so that a change is judged by itself and not by luck.
// -rapid.seed gives others, and 0 new ones in each run.
func init() {
	if err := flag.Set("rapid.seed", "1"); err != nil {
		panic(err)
	}
}
