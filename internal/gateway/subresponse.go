package gateway

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"
)

// maxSubresponse is how much of the answer to a request of ours is taken. An answer
// to a reader that is larger goes to each reader directly instead.
const maxSubresponse = 64 << 10

// aboutRequest are the statuses by which what stands before a homeserver refuses a request for
// its time, its size, its host or its number, and not because there is no homeserver.
var aboutRequest = []int{
	http.StatusRequestTimeout, http.StatusRequestURITooLong, http.StatusMisdirectedRequest,
	http.StatusTooEarly, http.StatusTooManyRequests, http.StatusRequestHeaderFieldsTooLarge,
}

// subresponse is the answer to a request that we made ourselves. It is immutable.
type subresponse struct {
	status  int
	header  http.Header
	body    []byte
	large   bool      // the body had more than maxSubresponse bytes, so it isn't whole
	arrived time.Time // when all of it had
	host    string    // that was asked

	// err is the next handler's error, to be returned unwrapped, or a [Failure] of ours. With
	// it there is no answer, but perhaps header fields that go with the error.
	err error
	// errStatus is the status that the server gives an error of the next handler's, or 0.
	errStatus int

	// site tells that the answer, or the error, is of the site's own handlers: a
	// respond, error, abort or rate_limit after us. It says nothing about the
	// homeserver, and the client gets it as it is.
	site bool
	// replaced tells that the site has put an answer or an error of its own in the place
	// of the homeserver's, by handle_response or intercept.
	replaced bool
	// local tells of an answer of any status that the site's handlers have made it what it
	// is, or that a cache on the way has kept: it shows nothing of a presence as it is now, and
	// permits nothing.
	local bool
	// echoes tells that the answer is for the one origin that the request named.
	echoes bool

	// aborted tells that the site wants the client's connection closed. There is an err.
	aborted bool
}

// matrixError returns the errcode of an answer that is a Matrix error object, or "".
func (s *subresponse) matrixError() string {
	var object struct {
		Errcode string `json:"errcode"`
	}
	if !s.decode(&object) {
		return ""
	}
	return object.Errcode
}

// decode decodes an answer, and reports false if it isn't JSON, or not all of it.
func (s *subresponse) decode(into any) bool {
	return s.err == nil && !s.large && s.isJSON() && json.Unmarshal(s.body, into) == nil
}

// isWholeJSON tells of an answer that all of it is there, and JSON.
func (s *subresponse) isWholeJSON() bool {
	return s.err == nil && !s.large && s.isJSON() && json.Valid(s.body)
}

// isJSON tells that an answer says so of itself, and has no coding.
func (s *subresponse) isJSON() bool {
	return s.header.Get("Content-Encoding") == "" && saysJSON(s.header)
}

// saysJSON tells that header fields say of a body that it is JSON, in whatever coding.
func saysJSON(header http.Header) bool {
	contentType := header.Get("Content-Type")
	if contentType == "application/json" {
		return true
	}
	mediaType, _, err := mime.ParseMediaType(contentType)
	return err == nil && mediaType == "application/json"
}

// failed tells that the homeserver could not answer: it is down, slow or broken.
func (s *subresponse) failed() bool {
	return !s.site && (s.err != nil || s.status >= http.StatusInternalServerError)
}

// code returns the status that the answer has, or that its error will make.
func (s *subresponse) code() int {
	if failure, ok := errors.AsType[*Failure](s.err); ok {
		return failure.Status
	}
	return cmp.Or(s.errStatus, s.status)
}

// isAuthentication tells that an answer by way of a reverse_proxy may be that of an
// authentication service, which speaks no Matrix: the service's page, or the way to it.
func (s *subresponse) isAuthentication() bool {
	return s.matrixError() == "" && (s.status == http.StatusUnauthorized || s.status == http.StatusForbidden ||
		s.status >= http.StatusMultipleChoices && s.status < http.StatusBadRequest)
}

func (s *subresponse) isAboutRequest() bool {
	return s.err == nil && !s.large && slices.Contains(aboutRequest, s.status)
}

// attribute finds out whether an answer, or an error, is the site's own, by what a reverse proxy
// has done with the request.
func (s *subresponse) attribute(site *SiteFields, proxied Proxied) {
	if s.status == 0 {
		// After a retry the status may be that of another try, or the reason for the error.
		s.replaced = proxied.Status != 0 && !proxied.Again && s.header != nil
		s.site = site.Proxies && !proxied.Done || s.code() < http.StatusInternalServerError && s.code() > 0
		if s.aborted = s.site && errors.Is(s.err, errBrokeOff); !s.aborted && errors.As(s.err, new(panicError)) {
			s.site = false
		}
		return
	}
	s.replaced = isReplaced(proxied.Status, s.status)
	s.local = site.Proxies && !proxied.Done || s.replaced || isAged(s.header)
	s.site = s.status >= http.StatusMultipleChoices && (site.Proxies && !proxied.Done ||
		s.replaced && s.status < http.StatusInternalServerError && s.matrixError() == "") ||
		site.Authenticates && s.isAuthentication()
}

// isAged tells that a cache on the way has kept an answer for a while (RFC 9111, 5.1). It may be older
// than a write or a logout since, and asking again may bring the same. Caches that only pass an answer
// on may say 0.
func isAged(header http.Header) bool {
	return slices.ContainsFunc(header["Age"], func(age string) bool { return strings.Trim(age, "0 ") != "" })
}

// isReplaced tells of a status that it isn't the one that a reverse proxy has got. One that isn't a
// final one has to be replaced.
func isReplaced(upstream, status int) bool {
	return upstream >= http.StatusOK && upstream != status
}

// unpack takes gzip off an answer: one to a request of ours if the site asks the homeserver
// for gzip, else the transport does that itself, or one that the client asked for.
func (s *subresponse) unpack() error {
	encoding := strings.ToLower(strings.Join(s.header["Content-Encoding"], ", "))
	if s.large || encoding != "gzip" && encoding != "x-gzip" {
		return nil
	}
	unpacker, err := gzip.NewReader(bytes.NewReader(s.body))
	if err != nil {
		return err
	}
	plain, err := io.ReadAll(io.LimitReader(unpacker, maxSubresponse+1))
	if err != nil {
		return err
	}
	s.body, s.large = plain, len(plain) > maxSubresponse
	s.header = s.header.Clone()
	s.header.Del("Content-Encoding")
	return nil
}

// collector is a response writer that keeps what is written. It has a header map
// of its own, so nothing reaches the client that waits.
type collector struct {
	header http.Header // as it was when the answer began, from then on
	after  http.Header // what is set later, such as trailers, is not part of it
	status int
	body   bytes.Buffer
	large  bool
	stop   func() // cancels the request
}

func (c *collector) Header() http.Header {
	if c.status != 0 {
		return c.after
	}
	return c.header
}

func (c *collector) WriteHeader(status int) {
	if status < http.StatusContinue {
		status = http.StatusBadGateway // there is no such status; net/http would panic
	}
	if c.status != 0 || status < http.StatusOK {
		return // interim answers are for the client's own connection
	}
	c.status, c.after = status, make(http.Header)
}

// Write never fails: a handler before it may take an error for a broken
// client, and panic.
func (c *collector) Write(p []byte) (int, error) {
	c.WriteHeader(http.StatusOK)
	if c.body.Len()+len(p) > maxSubresponse {
		c.large = true
		c.stop()
	} else if !c.large {
		c.body.Write(p)
	}
	return len(p), nil
}

// FlushError is there because reverse_proxy flushes what comes in chunks: that it can't be done
// would be an error, which costs more than all else here.
func (c *collector) FlushError() error {
	c.WriteHeader(http.StatusOK)
	return nil
}
