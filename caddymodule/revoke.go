package caddymodule

import (
	"io"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// serveRevocation forwards a request that makes tokens invalid, and forgets whose
// they are before its sender learns that it succeeded.
func (h *Handler) serveRevocation(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, revocation policy.Revocation) error {
	revoke := h.revocation(r, next, revocation)
	answered := 0
	defer func() {
		// Without a definite answer, because the client went away or the
		// homeserver broke off, it may have happened all the same.
		if revoke.known && (answered == 0 || answered == statusClientClosed || answered >= http.StatusInternalServerError) {
			revoke.forget(false)
		}
	}()
	return next.ServeHTTP(onStatus(w, func(status int) {
		answered = status
		if status < http.StatusMultipleChoices {
			revoke.forget(true)
		}
	}), r)
}

// revoking is what is to be done when a revocation has succeeded.
type revoking struct {
	// forget is told whether it has succeeded for sure. Who acts for whom can be asked
	// again, but a write that waits and is dropped is gone: that takes the
	// success of a logout, or anybody could have another's writes dropped by asking and
	// leaving. What waits of a token that ended otherwise gets its 401 when it is
	// delivered.
	forget func(sure bool)

	// known tells that it concerns certain tokens only. To forget everybody's
	// takes a success, or anybody could have it done by asking and leaving.
	known bool
}

// revocation prepares what is to be done. Whose tokens it concerns has to be found
// out before the request is sent: afterwards its own may be one of them.
func (h *Handler) revocation(r *http.Request, next caddyhttp.Handler, revocation policy.Revocation) revoking {
	identities := h.memory.identities
	if revocation.UserID != "" {
		return revoking{func(sure bool) {
			identities.RevokeUser(revocation.UserID)
			if sure {
				h.memory.devices.ForgetUser(revocation.UserID)
			}
		}, true}
	}
	authorization := r.Header["Authorization"]
	if revocation.Scope == policy.RevokesToken {
		return revoking{func(sure bool) {
			for _, token := range policy.CandidateTokens(authorization, r.URL.RawQuery) {
				if c := (policy.Credential{Token: token}); sure {
					h.memory.revokeToken(c)
				} else {
					identities.RevokeToken(c)
				}
			}
		}, true}
	}
	if credential, err := policy.ParseCredential(authorization, r.URL.RawQuery); err == nil {
		// The request itself goes to the homeserver anyway, so there is little
		// to save: no limit.
		who := h.identify(r, next, credential, nil)
		switch {
		case who.userID != "":
			return revoking{func(sure bool) {
				identities.RevokeToken(credential)
				identities.RevokeUser(who.userID)
				if sure {
					h.memory.devices.ForgetUser(who.userID)
				}
			}, true}
		case who.rejection != nil:
			return revoking{func(bool) {}, true} // it won't succeed
		}
	}
	// A password reset by mail carries no token and names no user.
	return revoking{func(bool) { identities.RevokeAll() }, false}
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
