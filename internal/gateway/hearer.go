package gateway

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/fairqueue"
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
	place    place // for an answer of which much is kept

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
		case strings.EqualFold(coding, "gzip") && h.place.take():
			h.gunzip = passing.NewGunzip(reader)
			h.reader = h.gunzip
		}
	})
}

// end must be called when the answer is over.
func (h *hearer) end() {
	defer h.place.leave()
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

const (
	// maxHeard is of how many answers at a time much is kept while they are read: the members of a room, of which
	// each takes 16 bytes, or 256 KiB that are to be unpacked. An answer lasts for as long as its client likes.
	maxHeard = 64

	// maxHeardEach is how many of them go to one user, or to one client if its user isn't known yet.
	maxHeardEach = 4
)

// place is one of those for answers of which much is kept. Who finds none learns nothing.
type place struct {
	places  *fairqueue.Seats
	of      string // who gets the answer
	holders atomic.Int32
}

// take reports whether there was a place, or is one already. The answer holds it.
func (p *place) take() bool {
	if p.holders.Load() == 0 {
		if !p.places.Take(p.of) {
			return false
		}
		p.holders.Add(1)
	}
	return true
}

// hold has the place kept for something else than the answer, too, which must leave it.
func (p *place) hold() { p.holders.Add(1) }

// leave gives the place back, if there is one, when nothing holds it any more.
func (p *place) leave() {
	if p.holders.Load() > 0 && p.holders.Add(-1) == 0 {
		p.places.Leave(p.of)
	}
}

// Interface guards
var (
	_ http.ResponseWriter = (*hearer)(nil)
	_ io.ReaderFrom       = (*hearer)(nil)
)
