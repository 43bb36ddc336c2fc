// Package progress tells a person that something long is going on, and a person
// who does not have to wait nothing.
package progress

import (
	"fmt"
	"io"
	"time"
)

// patience is how long something may take in silence: longer than looking up a
// cached build, shorter than a person begins to wonder.
const patience = 3 * time.Second

// While runs work. If that takes longer than the patience, it says what is going
// on, then every ten seconds for how long, then that it is done. A nil writer is
// silent.
func While(w io.Writer, doing string, work func() error) error {
	if w == nil {
		return work()
	}
	start := time.Now()
	done := make(chan error, 1)
	go func() { done <- work() }()

	wait := time.NewTimer(patience)
	defer wait.Stop()
	told := false
	for {
		select {
		case err := <-done:
			if told && err == nil {
				fmt.Fprintf(w, "… done in %s\n", time.Since(start).Round(time.Second))
			}
			return err
		case <-wait.C:
			if told {
				fmt.Fprintf(w, "… %s\n", time.Since(start).Round(time.Second))
			} else {
				fmt.Fprintf(w, "%s …\n", doing)
				told = true
			}
			wait.Reset(10 * time.Second)
		}
	}
}
