package plan

import (
	"bufio"
	"bytes"
)

// IsMetricsPage tells whether what is to be read is a metrics page, by its beginning. Else it is taken for an
// access log.
func IsMetricsPage(r *bufio.Reader) bool {
	beginning, _ := r.Peek(4096) // less if there is less
	for line := range bytes.Lines(beginning) {
		line = bytes.TrimSpace(line)
		switch {
		case len(line) == 0:
		case line[0] == '#':
			return true
		default:
			_, _, _, ok := readSample(string(line))
			return ok
		}
	}
	return false
}
