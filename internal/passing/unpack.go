package passing

import (
	"bytes"
	"compress/gzip"
)

const (
	// maxPacked is how much of an answer with gzip is kept until it is unpacked.
	maxPacked = 256 << 10
	// maxUnpacked is how much is unpacked of it.
	maxUnpacked = 8 << 20
)

// Reader is what reads an answer: a [MemberList] or a [SyncAnswer].
type Reader interface {
	// Write goes on with the next bytes of the answer. It reports whether more are wanted.
	Write(p []byte) (more bool)
}

// Gunzip reads an answer that comes with gzip. It keeps the first 256 KiB of it, and hands them
// to a reader when they are there, or when the answer is over: as much as 8 MiB of what they are.
type Gunzip struct {
	to     Reader
	packed []byte
	done   bool
}

// NewGunzip hands an answer to a reader, unpacked.
func NewGunzip(to Reader) *Gunzip { return &Gunzip{to: to} }

// Write goes on with the next bytes of the answer. It reports whether more are wanted.
func (g *Gunzip) Write(p []byte) (more bool) {
	if g.done {
		return false
	}
	g.packed = append(g.packed, p[:min(len(p), maxPacked-len(g.packed))]...)
	if len(g.packed) == maxPacked {
		g.End()
	}
	return !g.done
}

// End must be called when the answer is over.
func (g *Gunzip) End() {
	if g.done {
		return
	}
	g.done = true
	packed := g.packed
	g.packed = nil
	unpacker, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return
	}
	var buffer [8 << 10]byte
	for left := maxUnpacked; left > 0; {
		n, err := unpacker.Read(buffer[:min(len(buffer), left)])
		if left -= n; n > 0 && !g.to.Write(buffer[:n]) || err != nil {
			return
		}
	}
}
