package caddymodule

import (
	"errors"
	"io"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// serveRevocation forwards a request that makes tokens invalid, and forgets whose
// they are before its sender learns that it succeeded.
func (h *Handler) serveRevocation(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, revocation policy.Revocation) error {
	forget := h.revocation(r, next, revocation)
	return next.ServeHTTP(onStatus(w, func(status int) {
		if status >= http.StatusOK && status < http.StatusMultipleChoices {
			forget()
		}
	}), r)
}

// revocation returns what is to be done when the request has succeeded. Whose
// tokens it concerns has to be found out before: afterwards the request's own
// may be one of them.
func (h *Handler) revocation(r *http.Request, next caddyhttp.Handler, revocation policy.Revocation) (forget func()) {
	identities := h.memory.identities
	if revocation.UserID != "" {
		return func() { identities.RevokeUser(revocation.UserID) }
	}
	credential, err := policy.ParseCredential(r.Header["Authorization"], r.URL.RawQuery)
	switch {
	case errors.Is(err, policy.ErrMissingToken) && revocation.Scope == policy.RevokesToken:
		return func() {} // a logout of nobody
	case err != nil:
		// A password reset by mail carries no token and names no user.
		return identities.RevokeAll
	case revocation.Scope == policy.RevokesToken:
		return func() { identities.RevokeToken(credential) }
	}
	who := h.identify(r, next, credential)
	switch {
	case who.userID != "":
		return func() {
			identities.RevokeToken(credential)
			identities.RevokeUser(who.userID)
		}
	case who.rejection != nil:
		return func() {} // it won't succeed
	default:
		return identities.RevokeAll
	}
}

// statusWriter calls a function with the status of an answer before it is sent.
type statusWriter struct {
	*caddyhttp.ResponseWriterWrapper
	call func(status int)
	done bool
}

// onStatus returns w with call to be called once, before the final status goes out.
func onStatus(w http.ResponseWriter, call func(status int)) http.ResponseWriter {
	return &statusWriter{ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, call: call}
}

func (s *statusWriter) WriteHeader(status int) {
	s.final(status)
	s.ResponseWriterWrapper.WriteHeader(status)
}

func (s *statusWriter) Write(p []byte) (int, error) {
	s.final(http.StatusOK)
	return s.ResponseWriterWrapper.Write(p)
}

// ReadFrom is there because the embedded one would go around Write.
func (s *statusWriter) ReadFrom(r io.Reader) (int64, error) {
	s.final(http.StatusOK)
	return s.ResponseWriterWrapper.ReadFrom(r)
}

// final notes a status unless it is an interim one or there was one before.
func (s *statusWriter) final(status int) {
	if !s.done && status >= http.StatusOK {
		s.done = true
		s.call(status)
	}
}

// Interface guards
var (
	_ http.ResponseWriter = (*statusWriter)(nil)
	_ io.ReaderFrom       = (*statusWriter)(nil)
)
