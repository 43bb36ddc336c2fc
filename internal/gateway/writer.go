package gateway

import (
	"bytes"
	"errors"
	"io"
	"net/http"
)

// responseWriter is a response writer around another one, to be embedded in those that look
// at what passes. What else the other one can do, an [http.ResponseController] finds out.
type responseWriter struct{ http.ResponseWriter }

// Unwrap is for [http.ResponseController].
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// ReadFrom lets the server send a file without reading it.
func (w *responseWriter) ReadFrom(r io.Reader) (int64, error) {
	if from, ok := w.ResponseWriter.(io.ReaderFrom); ok {
		return from.ReadFrom(r)
	}
	return io.Copy(w.ResponseWriter, r)
}

// Push is for handlers that ask for an [http.Pusher].
func (w *responseWriter) Push(target string, options *http.PushOptions) error {
	if pusher, ok := w.ResponseWriter.(http.Pusher); ok {
		return pusher.Push(target, options)
	}
	return http.ErrNotSupported
}

// statusWriter calls a function with the status of an answer before it is sent.
type statusWriter struct {
	responseWriter
	call func(status int)
	done bool
}

// onStatus returns w with call to be called once, before the final status goes out.
func onStatus(w http.ResponseWriter, call func(status int)) http.ResponseWriter {
	return &statusWriter{responseWriter: responseWriter{w}, call: call}
}

func (s *statusWriter) WriteHeader(status int) {
	s.final(status)
	s.responseWriter.WriteHeader(status)
}

func (s *statusWriter) Write(p []byte) (int, error) {
	s.final(http.StatusOK)
	return s.responseWriter.Write(p)
}

// ReadFrom is there because the embedded one would go around Write.
func (s *statusWriter) ReadFrom(r io.Reader) (int64, error) {
	s.final(http.StatusOK)
	return s.responseWriter.ReadFrom(r)
}

// final notes a status unless it is an interim one or there was one before.
func (s *statusWriter) final(status int) {
	if !s.done && status >= http.StatusOK {
		s.done = true
		s.call(status)
	}
}

// recorder is a response writer that keeps a copy of the body that goes through it, with
// the status and the header fields that it is told.
type recorder struct {
	responseWriter
	status int
	header http.Header
	body   bytes.Buffer
	large  bool
}

func (c *recorder) Write(p []byte) (int, error) {
	c.keep(p)
	return c.responseWriter.Write(p)
}

func (c *recorder) keep(p []byte) {
	if c.large = c.large || c.body.Len()+len(p) > maxSubresponse; !c.large {
		c.body.Write(p)
	}
}

// ReadFrom is there because the embedded one would go around Write.
func (c *recorder) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{c}, r)
}

// answer returns what went through, without a coding that the client asked for.
func (c *recorder) answer() *subresponse {
	a := &subresponse{status: c.status, header: c.header, body: c.body.Bytes(), large: c.large}
	if c.status == 0 {
		a.err = errors.New("no answer")
		return a
	}
	_ = a.unpack() // what can't be unpacked is no JSON
	return a
}

// Interface guards
var (
	_ http.ResponseWriter = (*statusWriter)(nil)
	_ io.ReaderFrom       = (*statusWriter)(nil)
	_ http.ResponseWriter = (*recorder)(nil)
	_ io.ReaderFrom       = (*recorder)(nil)
)
