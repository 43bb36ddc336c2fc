package caddymodule

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// serveWrite is the life of a PUT of a presence. Whatever is uncertain is refused.
func (h *Handler) serveWrite(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, route policy.PresenceRoute) error {
	h.memory.counters.requests[routeWrite].Add(1)
	credential, err := policy.ParseCredential(r.Header["Authorization"], r.URL.RawQuery)
	switch {
	case errors.Is(err, policy.ErrMissingToken):
		h.writeMissingToken(w, r, "Missing access token")
		return nil
	case err != nil:
		h.writeMissingToken(w, r, "Ambiguous access token: send it once, as Authorization: Bearer <token>")
		return nil
	}

	who := h.identify(r, next, credential, h.set.rejectedLimit)
	switch {
	case who.userID == "" && r.Context().Err() != nil:
		h.note(r, outcomeCanceled)
		return caddyhttp.Error(statusClientClosed, r.Context().Err())
	case who.wait > 0:
		h.writeLimited(w, r, who.wait)
		return nil
	case who.rejection != nil:
		h.writeRejection(w, r, who.rejection)
		return nil
	case who.refusal != nil:
		h.note(r, outcomeFailed)
		writeSubresponse(w, r, who.refusal, "")
		return nil
	case who.err != nil:
		h.writeUnverified(w, r, who.err)
		return nil
	}

	// Ownership comes before the budget, so that nobody spends another's, and
	// before the body, as in Synapse and Dendrite.
	if who.userID != route.UserID {
		h.writeError(w, r, http.StatusForbidden, outcomeRefused, matrixError{
			Errcode: "M_FORBIDDEN", Error: "You can only set your own presence",
		})
		return nil
	}
	if wait, ok := take(h.memory.writes, h.set.classOf(who.userID).writeLimit, who.userID, time.Now()); !ok {
		h.writeLimited(w, r, wait)
		return nil
	}
	if !h.checkBody(w, r) {
		return nil
	}

	h.note(r, outcomeForwarded)
	write := h.memory.presence.BeginWrite(route.UserID)
	// Also when the client went away, or the answer broke off and reverse_proxy
	// panics: the homeserver may have applied it.
	defer func() { write.End(time.Now(), h.set.settle) }()
	w = h.watchWrite(w, r, who.userID, credential)
	return h.forward(w, r, next, reasonWrite, func(status int) {
		w.Header().Add("Cache-Status", statusWrite)
		if status == http.StatusUnauthorized {
			h.memory.identities.RevokeToken(credential)
		}
	})
}

// checkBody reads the body and puts it back. It reports whether a homeserver may
// take it, and has answered the request if not.
func (h *Handler) checkBody(w http.ResponseWriter, r *http.Request) bool {
	tooLarge := r.ContentLength > h.set.maxBody
	var body []byte
	if !tooLarge {
		var err error
		body, err = io.ReadAll(io.LimitReader(r.Body, h.set.maxBody+1))
		tooLarge = int64(len(body)) > h.set.maxBody || errors.As(err, new(*http.MaxBytesError))
		if err != nil && !tooLarge {
			h.writeError(w, r, http.StatusBadRequest, outcomeInvalid, matrixError{
				Errcode: "M_UNKNOWN", Error: "The request body broke off",
			})
			return false
		}
	}
	if tooLarge {
		h.writeError(w, r, http.StatusRequestEntityTooLarge, outcomeInvalid, matrixError{
			Errcode: "M_TOO_LARGE", Error: fmt.Sprintf("The request body must not be larger than %d bytes", h.set.maxBody),
		})
		return false
	}
	if err := policy.CheckPresenceBody(body, h.set.presenceValues); err != nil {
		var bad *policy.BodyError
		errors.As(err, &bad)
		h.writeError(w, r, http.StatusBadRequest, outcomeInvalid, matrixError{Errcode: bad.Errcode, Error: bad.Message})
		return false
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	// The length is known now, also of a body that came in chunks. What came after
	// it was not judged.
	r.ContentLength, r.TransferEncoding, r.Trailer = int64(len(body)), nil, nil
	r.Header.Del("Trailer")
	return true
}
