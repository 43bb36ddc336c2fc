package bubble

import (
	"bytes"
	"io"
	"net/url"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() { caddy.RegisterModule(logWriter{}) }

// TokenMark is in every access token of a test, so that one can be found where it must
// not be.
const TokenMark = "sEcReT"

var escapes = regexp.MustCompile(`(?:%[0-9A-Fa-f]{2})+`)

// HoldsToken finds tokens also where they are percent-encoded.
func HoldsToken(b []byte) bool {
	if bytes.Contains(b, []byte(TokenMark)) {
		return true
	}
	if bytes.IndexByte(b, '%') < 0 {
		return false
	}
	decoded := escapes.ReplaceAllFunc(b, func(escaped []byte) []byte {
		s, _ := url.PathUnescape(string(escaped))
		return []byte(s)
	})
	return bytes.Contains(decoded, []byte(TokenMark))
}

// Journal is where all of Caddy's logs go, by "output journal".
type Journal struct {
	lines atomic.Int64

	mu     sync.Mutex // guards all below
	tokens []string   // lines with one
	panics []string
}

var journal atomic.Pointer[Journal]

func (j *Journal) write(line []byte) (int, error) {
	j.lines.Add(1)
	if HoldsToken(line) {
		j.mu.Lock()
		j.tokens = append(j.tokens, string(line))
		j.mu.Unlock()
	}
	if bytes.Contains(line, []byte("panic")) {
		j.mu.Lock()
		j.panics = append(j.panics, string(line))
		j.mu.Unlock()
	}
	return len(line), nil
}

// Found returns the lines with a token, and those that tell of a panic.
func (j *Journal) Found() (tokens, panics []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.tokens), slices.Clone(j.panics)
}

type logWriter struct{}

func (logWriter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.logging.writers.journal",
		New: func() caddy.Module { return new(logWriter) },
	}
}

func (logWriter) String() string                                { return "journal" }
func (logWriter) WriterKey() string                             { return "journal" }
func (logWriter) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }
func (logWriter) OpenWriter() (io.WriteCloser, error)           { return logWriter{}, nil }
func (logWriter) Close() error                                  { return nil }
func (logWriter) Write(line []byte) (int, error)                { return journal.Load().write(line) }
