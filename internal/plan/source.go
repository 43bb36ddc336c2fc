package plan

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// CheckSource refuses by its beginning what can be neither a metrics page nor an access log.
func CheckSource(r *bufio.Reader) error {
	beginning, err := r.Peek(4) // less if there is less
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return err
	case len(beginning) == 0:
		return errors.New("it is empty")
	case bytes.HasPrefix(beginning, []byte("\x1f\x8b")):
		return errors.New("it is compressed: zcat FILE | caddy-presence presence-plan --from -")
	case bytes.Equal(beginning, []byte("\x28\xb5\x2f\xfd")):
		return errors.New("it is compressed: zstdcat FILE | caddy-presence presence-plan --from -")
	}
	return nil
}

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
