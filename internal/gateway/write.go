package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// serveWrite is the life of a PUT of a presence. Whatever is uncertain is refused.
func (h *Gateway) serveWrite(w http.ResponseWriter, r *http.Request, next Next, route matrix.PresenceRoute) error {
	h.memory.counters.requests[routeWrite].Add(1)
	credential, err := matrix.ParseCredential(r.Header["Authorization"], r.URL.RawQuery)
	switch {
	case errors.Is(err, matrix.ErrMissingToken):
		h.writeMissingToken(w, r, "Missing access token")
		return nil
	case err != nil:
		h.writeMissingToken(w, r, "Ambiguous access token: send it once, as Authorization: Bearer <token>")
		return nil
	}

	who := h.identify(r, next, credential, h.set.RejectedLimit)
	switch {
	case who.userID == "" && r.Context().Err() != nil:
		h.note(r, outcomeCanceled)
		return fail(statusClientClosed, r.Context().Err())
	case who.wait > 0:
		h.writeLimited(w, r, who.wait)
		return nil
	case who.unknown != nil:
		h.writeUnknownToken(w, r, who.unknown)
		return nil
	case who.refusal != nil:
		h.note(r, outcomeFailed)
		writeForClient(w, r, who.refusal)
		return nil
	case who.barrier != nil:
		h.note(r, outcomeFailed)
		return passOn(w, r, who.barrier)
	case who.page != nil:
		h.note(r, outcomeFailed)
		return passOn(w, r, who.page)
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
	write := presenceWrite{
		PresenceWrite: policy.PresenceWrite{UserID: who.userID, Fingerprint: h.memory.deviceOf(credential, who.userID)},
		credential:    credential,
		class:         h.set.classOf(who.userID),
	}
	if h.answerWrite(w, r, next, &write) {
		return nil
	}
	return h.forwardWrite(w, r, next, &write)
}

// answerWrite answers a write of which the homeserver need not hear, or not yet, and reports
// whether it did.
func (h *Gateway) answerWrite(w http.ResponseWriter, r *http.Request, next Next, write *presenceWrite) bool {
	m, class := h.memory, write.class
	// A repeat costs no budget, and has to be read to be told. Else the budget comes
	// before the body.
	first := class.Absorb || class.Coalesce
	if first {
		var ok bool
		if write.Body, ok = h.readBody(w, r); !ok {
			return true
		}
	}
	// Behind a write that waits, so do all others: also for a handler that lets none
	// wait itself, of another site or after a reload.
	now := h.memory.now()
	queued, waits := m.pendings.waits(write.UserID)
	if class.Absorb && !waits && m.repeats.Absorb(&write.PresenceWrite, h.set.Refresh, now) {
		h.writeDone(w, r, outcomeAbsorbed)
		return true
	}
	wait, ok := crowdedWait, false
	if waits {
		m.TopLimited[limitWrite].Add(write.UserID)
	} else {
		wait, ok = m.take(limitWrite, class.WriteLimit, write.UserID, now)
	}
	if !ok {
		if limit := class.WriteLimit; limit != nil {
			due := m.writes.Wait(write.UserID, *limit, now)
			if class.Coalesce && h.accept(h.newPending(r, next, write), due) {
				h.writeDone(w, r, outcomeCoalesced)
				return true
			}
			// Those in the queue go first, together, and are charged for.
			wait = max(wait, due+time.Duration(queued)*limit.Interval())
		}
		h.writeLimited(w, r, wait)
		return true
	}
	if !first {
		write.Body, ok = h.readBody(w, r)
	}
	return !ok
}

// forwardWrite sends a write to the homeserver.
func (h *Gateway) forwardWrite(w http.ResponseWriter, r *http.Request, next Next, write *presenceWrite) error {
	h.note(r, outcomeForwarded)
	began := h.memory.now()
	fence := h.memory.presence.BeginWrite(write.UserID)
	// Also for a handler that absorbs nothing itself: another of this memory may.
	attempt := h.memory.repeats.Begin(write.UserID, began)
	acknowledged, known := false, false
	answered := h.beginWrite(&write.PresenceWrite, began)
	// Also when the client went away, or the answer broke off and reverse_proxy
	// panics: the homeserver may have applied it.
	defer func() {
		h.endFence(fence, began, acknowledged, write.Body)
		if !known {
			answered(0)
		}
		if acknowledged && write.class.Absorb {
			attempt.End(&write.PresenceWrite)
		} else {
			attempt.End(nil)
		}
	}()
	isLocal := h.isLocal(r)
	w, finish := h.watchRefusal(w, r, write.credential)
	defer finish()
	return h.forward(w, r, next, reasonWrite, func(status int) {
		w.Header().Add("Cache-Status", statusWrite)
		if isSuccess(status) && isLocal(status) {
			status = http.StatusBadGateway // what the homeserver has made of it, nobody has said
		}
		known, acknowledged = true, isSuccess(status)
		answered(status) // before the client hears of it
	})
}

// endFence ends the fence of a write of this body, which began by then.
func (h *Gateway) endFence(fence cache.Write, began time.Time, acknowledged bool, body []byte) {
	if acknowledged {
		fence.Acknowledge(body, began, h.memory.now(), h.settle())
	} else {
		fence.End(h.memory.now(), h.settle())
	}
}

// serveActivity passes on a request by which a homeserver may take its user for active,
// so that what the user last wrote, or their device said by a sync, is no longer what their
// presence is. It is looked at before and after:
//
//	1 message: the device is online as far as we know, nothing changes by it
//	2 sync: the device is unavailable; a reader fetches that, and it is stored
//	1 message: the homeserver acts upon it, the device is online
func (h *Gateway) serveActivity(w http.ResponseWriter, r *http.Request, next Next) error {
	credential, err := matrix.ParseCredential(r.Header["Authorization"], r.URL.RawQuery)
	userID := ""
	if err == nil {
		userID = h.memory.identities.LastKnown(credential)
	}
	w, finish := h.watchShown(w, r)
	defer finish()
	if userID == "" {
		// Others may have read the user's presence.
		defer h.mayChange(r, next)()
		return next.ServeHTTP(w, r)
	}
	m, device, began := h.memory, h.memory.deviceOf(credential, userID), h.memory.now()
	active := func() (changes bool) {
		m.repeats.Disturb(userID)
		return m.devices.Active(userID, device, h.knownDialect(), began, h.memory.now())
	}
	if active() {
		defer func(write cache.Write) { write.End(h.memory.now(), h.settle()) }(m.presence.BeginWrite(userID))
	}
	defer func() {
		if active() { // a write or a sync began meanwhile, and what it brought may be over
			h.invalidate(userID)
		}
	}()
	return next.ServeHTTP(w, r)
}

// readBody reads the body and puts it back. It reports whether a homeserver may
// take it, and has answered the request if not.
func (h *Gateway) readBody(w http.ResponseWriter, r *http.Request) (body []byte, ok bool) {
	tooLarge := r.ContentLength > h.set.MaxBody
	if !tooLarge {
		var err error
		body, err = io.ReadAll(io.LimitReader(r.Body, h.set.MaxBody+1))
		tooLarge = int64(len(body)) > h.set.MaxBody || errors.As(err, new(*http.MaxBytesError))
		if !tooLarge && (err != nil || isCutOff(r, body)) {
			h.writeError(w, r, http.StatusBadRequest, outcomeInvalid, matrixError{
				Errcode: "M_UNKNOWN", Error: "The request body broke off",
			})
			return nil, false
		}
	}
	if tooLarge {
		h.writeError(w, r, http.StatusRequestEntityTooLarge, outcomeInvalid, matrixError{
			Errcode: "M_TOO_LARGE", Error: fmt.Sprintf("The request body must not be larger than %d bytes", h.set.MaxBody),
		})
		return nil, false
	}
	if err := matrix.CheckPresenceBody(body, h.set.PresenceValues, h.knownDialect()); err != nil {
		var bad *matrix.BodyError
		errors.As(err, &bad)
		h.writeError(w, r, http.StatusBadRequest, outcomeInvalid, matrixError{Errcode: bad.Errcode, Error: bad.Message})
		return nil, false
	}
	setBody(r, body)
	return body, true
}

// setBody gives a request another body, or the one that was read of it. The length is known
// now, also of one that came in chunks. What came after it was not judged.
func setBody(r *http.Request, body []byte) {
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength, r.TransferEncoding, r.Trailer = int64(len(body)), nil, nil
	r.Header.Del("Trailer")
	if r.Header["Content-Length"] != nil {
		r.Header.Set("Content-Length", decimal(len(body)))
	}
}
