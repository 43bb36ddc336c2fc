package gateway

import (
	"io"
	"net/http"
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/flight"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/passing"
)

// hearer is a response writer that has a reader see a copy of an answer after it has passed. It
// changes, delays and keeps nothing of that. Whatever the reader does concerns no client: if it
// panics, nothing is learned.
type hearer struct {
	responseWriter
	// begin returns what reads an answer with this status, or nil. It is called once, before
	// that goes out.
	begin    func(status int) passing.Reader
	panicked func(reason any)

	begun  bool
	reader passing.Reader // nil if nothing more is wanted
	gunzip *passing.Gunzip
}

func (h *hearer) WriteHeader(status int) {
	h.final(status)
	h.responseWriter.WriteHeader(status)
}

func (h *hearer) Write(p []byte) (int, error) {
	h.final(http.StatusOK)
	n, err := h.responseWriter.Write(p)
	if h.reader != nil {
		h.guard(func() {
			if !h.reader.Write(p[:n]) {
				h.reader = nil
			}
		})
	}
	return n, err
}

// ReadFrom is there because the embedded one would go around Write.
func (h *hearer) ReadFrom(r io.Reader) (int64, error) {
	if h.final(http.StatusOK); h.reader == nil {
		return h.responseWriter.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{h}, r)
}

// final has an answer read from its beginning, unless it is an interim one or is being read.
func (h *hearer) final(status int) {
	if h.begun || status < http.StatusOK {
		return
	}
	h.begun = true
	h.guard(func() {
		reader := h.begin(status)
		switch coding := h.Header().Get("Content-Encoding"); {
		case reader == nil || !saysJSON(h.Header()):
		case coding == "":
			h.reader = reader
		case strings.EqualFold(coding, "gzip"):
			h.gunzip = passing.NewGunzip(reader)
			h.reader = h.gunzip
		}
	})
}

// end must be called when the answer is over.
func (h *hearer) end() {
	if h.gunzip != nil {
		h.guard(h.gunzip.End)
	}
}

// guard calls f, which is about nothing that a client may notice.
func (h *hearer) guard(f func()) {
	if flight.Guard(h.panicked, f) != nil {
		h.reader, h.gunzip = nil, nil
	}
}

// Interface guards
var (
	_ http.ResponseWriter = (*hearer)(nil)
	_ io.ReaderFrom       = (*hearer)(nil)
)
