package progress

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Regularly writes a line every few seconds, with the time since it was called, until stop is
// called.
func Regularly(w io.Writer, line func() string) (stop func()) {
	const interval = 5 * time.Second
	begin, done := time.Now(), make(chan struct{})
	var over sync.WaitGroup
	over.Go(func() {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				fmt.Fprintf(w, "… %s: %s\n", time.Since(begin).Round(time.Second), line())
			case <-done:
				return
			}
		}
	})
	return func() {
		close(done)
		over.Wait()
	}
}
