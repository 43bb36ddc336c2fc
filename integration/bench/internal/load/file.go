package load

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// WriteFile writes requests for the generators: each is a line with its length in
// bytes, and then so many bytes.
func WriteFile(path string, requests [][]byte) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("writing requests: %w", err)
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	for _, r := range requests {
		fmt.Fprintf(w, "%d\n", len(r))
		w.Write(r)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("writing requests: %w", err)
	}
	return f.Close()
}

// readFile reads what WriteFile has written.
func readFile(path string) ([][]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading requests: %w", err)
	}
	var requests [][]byte
	for len(text) > 0 {
		line, rest, ok := bytes.Cut(text, []byte{'\n'})
		n, err := strconv.Atoi(string(line))
		if !ok || err != nil || n > len(rest) {
			return nil, fmt.Errorf("reading requests: %s is cut short after %d of them", path, len(requests))
		}
		requests = append(requests, rest[:n])
		text = rest[n:]
	}
	if len(requests) == 0 {
		return nil, fmt.Errorf("reading requests: none in %s", path)
	}
	return requests, nil
}
