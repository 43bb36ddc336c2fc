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
	credential, err := policy.ParseCredential(r.Header["Authorization"], r.URL.RawQuery)
	switch {
	case errors.Is(err, policy.ErrMissingToken):
		writeMissingToken(w, r, "Missing access token")
		return nil
	case err != nil:
		writeMissingToken(w, r, "Ambiguous access token: send it once, as Authorization: Bearer <token>")
		return nil
	}

	who := h.identify(r, next, credential)
	switch {
	case who.rejection != nil:
		writeRejection(w, r, who.rejection)
		return nil
	case who.refusal != nil:
		setVars(r, cacheNone, decisionFailed)
		writeAside(w, r, who.refusal, "")
		return nil
	case who.err != nil:
		writeUnverified(w, r, who.err)
		return nil
	}

	// Ownership comes before the budget, so that nobody spends another's, and
	// before the body, as in Synapse and Dendrite.
	if who.userID != route.UserID {
		writeError(w, r, http.StatusForbidden, decisionRefused, matrixError{
			Errcode: "M_FORBIDDEN", Error: "You can only set your own presence",
		})
		return nil
	}
	if wait, ok := h.take(h.memory.writes, h.set.writeLimit, who.userID, time.Now()); !ok {
		writeLimited(w, r, wait)
		return nil
	}
	if done, err := h.checkBody(w, r); done || err != nil {
		return err
	}

	setVars(r, cacheNone, decisionForwarded)
	w.Header()["Cache-Status"] = []string{statusWrite}
	write := h.memory.presence.BeginWrite(route.UserID)
	// Also when the client went away, or the answer broke off and reverse_proxy
	// panics: the homeserver may have applied it.
	defer func() { write.End(time.Now(), h.set.settle) }()
	return next.ServeHTTP(onStatus(w, func(status int) {
		if status == http.StatusUnauthorized {
			h.memory.identities.RevokeToken(credential)
		}
	}), r)
}

// checkBody reads the body, refuses it if no homeserver would take it, and puts it
// back. It reports whether the request is done with.
func (h *Handler) checkBody(w http.ResponseWriter, r *http.Request) (done bool, err error) {
	tooLarge := r.ContentLength > h.set.maxBody
	var body []byte
	if !tooLarge {
		body, err = io.ReadAll(io.LimitReader(r.Body, h.set.maxBody+1))
		if err != nil {
			return true, caddyhttp.Error(http.StatusBadRequest, fmt.Errorf("reading the request body: %w", err))
		}
		tooLarge = int64(len(body)) > h.set.maxBody
	}
	if tooLarge {
		writeError(w, r, http.StatusRequestEntityTooLarge, decisionInvalid, matrixError{
			Errcode: "M_TOO_LARGE", Error: fmt.Sprintf("The request body must not be larger than %d bytes", h.set.maxBody),
		})
		return true, nil
	}
	if err := policy.CheckPresenceBody(body, h.set.presenceValues); err != nil {
		var bad *policy.BodyError
		errors.As(err, &bad)
		writeError(w, r, http.StatusBadRequest, decisionInvalid, matrixError{Errcode: bad.Errcode, Error: bad.Message})
		return true, nil
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	// The length is known now, also of a body that came in chunks.
	r.ContentLength, r.TransferEncoding = int64(len(body)), nil
	return false, nil
}

// writeUnverified answers a write whose owner could not be found out.
func writeUnverified(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusBadGateway
	var handlerErr caddyhttp.HandlerError
	if errors.As(err, &handlerErr) && handlerErr.StatusCode >= http.StatusInternalServerError {
		status = handlerErr.StatusCode
	}
	writeError(w, r, status, decisionFailed, matrixError{
		Errcode: "M_UNKNOWN", Error: "The homeserver could not be asked whose access token this is",
	})
}

func writeMissingToken(w http.ResponseWriter, r *http.Request, message string) {
	writeError(w, r, http.StatusUnauthorized, decisionRejected, matrixError{Errcode: "M_MISSING_TOKEN", Error: message})
}

// writeRejection passes on the homeserver's answer to a token that it doesn't
// know, with its soft_logout: a client decides by that whether to keep its keys.
func writeRejection(w http.ResponseWriter, r *http.Request, rejection *policy.Rejection) {
	setVars(r, cacheNone, decisionRejected)
	header := w.Header()
	for name, values := range rejection.Header {
		header[name] = append([]string(nil), values...)
	}
	w.WriteHeader(http.StatusUnauthorized)
	if r.Method != http.MethodHead {
		_, _ = io.WriteString(w, rejection.Body)
	}
}
