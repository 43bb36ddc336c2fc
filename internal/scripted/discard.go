package scripted

import "net/http"

// Discard is a response writer that keeps nothing but the header.
type Discard struct{ header http.Header }

// NewDiscard returns one.
func NewDiscard() *Discard { return &Discard{make(http.Header)} }

// Header implements http.ResponseWriter.
func (d *Discard) Header() http.Header { return d.header }

// WriteHeader implements http.ResponseWriter.
func (d *Discard) WriteHeader(int) {}

// Write implements http.ResponseWriter.
func (d *Discard) Write(p []byte) (int, error) { return len(p), nil }
