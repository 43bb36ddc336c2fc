package gateway

import "net/http"

// TLS's early data (0-RTT), which Caddy takes over HTTP/3 by default, comes before a client has shown that it is at the
// address that it names. So a request in it charges no address, and takes no turn of one:
//
//	1 client: sends made-up tokens in early data, in somebody else's name
//	2 others behind that address: must not be refused for them
//
// If the homeserver would have to be asked whose a presence request's token is, the request is answered 425 (RFC 8470).
// Caddy does the same where a matcher needs the address. Browsers send it again when their handshake is done. Nor
// does a write wait that may be a replay.

// isEarly tells of a request in early data.
func isEarly(r *http.Request) bool { return r.TLS != nil && !r.TLS.HandshakeComplete }

// isTooEarly tells of a presence request in early data that its address would be charged for.
func (g *Gateway) isTooEarly(r *http.Request) bool {
	if !isEarly(r) || g.cfg.Observe {
		return false
	}
	switch methodOf(r) {
	case http.MethodGet, http.MethodHead:
		if !g.cfg.Cached && !g.cfg.limitsReads {
			return false // nobody is asked
		}
	case http.MethodPut:
	default:
		return false
	}
	if _, ok := presenceRoute(r); !ok {
		return false
	}
	shown, certain := shownCredentials(r)
	if len(shown) == 0 {
		return false
	}
	known := g.cached(shown[0], g.store.now())
	return !certain || !known.known()
}

func writeTooEarly(w http.ResponseWriter, r *http.Request) {
	writeMatrixError(w, r, http.StatusTooEarly, matrixError{
		Errcode: "M_UNKNOWN", Error: "Too early: send it again when the TLS handshake is complete",
	})
}
