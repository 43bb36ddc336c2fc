package gateway

import "net/http"

// What a request is must not depend on the protocol that brought it. Two things look
// different in HTTP/2 and HTTP/3: a WebSocket, which is a CONNECT there, and a request
// without a body, which may have a length that isn't known, see [hasBody].

// methodOf returns the method by which a request is to be judged: the one by which
// reverse_proxy sends it. That turns an extended CONNECT for a WebSocket (RFC 8441 for
// HTTP/2, RFC 9220 for HTTP/3) into a GET with an Upgrade field, so the homeserver serves
// a presence or a sync at that path.
func methodOf(r *http.Request) string {
	if isExtendedConnect(r) {
		return http.MethodGet
	}
	return r.Method
}

// isExtendedConnect tells of a request that it is a WebSocket over HTTP/2 or HTTP/3, by the
// same signs as reverse_proxy.
func isExtendedConnect(r *http.Request) bool {
	if r.Method != http.MethodConnect {
		return false
	}
	return r.ProtoMajor == 2 && r.Header.Get(":protocol") == "websocket" ||
		r.ProtoMajor == 3 && r.Proto == "websocket"
}

// asksForProtocol tells that a request wants to go on with another protocol than HTTP, in
// which the cache has no part.
func asksForProtocol(r *http.Request) bool {
	return r.Header["Upgrade"] != nil || isExtendedConnect(r)
}
