package flight

import "fmt"

// Guard calls f, tells panicked, unless that is nil, of its panic, and returns that as an error. In
// a goroutine of our own nobody else would, and that would be the end of the process.
func Guard(panicked func(reason any), f func()) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			if panicked != nil {
				panicked(reason)
			}
			err = fmt.Errorf("a request of our own panicked: %v", reason)
		}
	}()
	f()
	return nil
}
