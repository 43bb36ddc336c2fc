package gateway

import (
	"bytes"
	"io"
	"net/http"
)

// What a request is must not depend on the protocol that brought it. Two things look
// different in HTTP/2 and HTTP/3: a WebSocket, which is a CONNECT there, and a request
// without a body, which may have a length that isn't known.

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

// mayHaveBody tells that only a look at the body shows whether there is one: in HTTP/3 the
// length of a GET without a body isn't known, and nor is that of an empty one in chunks.
// Who asks by Expect whether to send a body has one, and is not to be asked for it by our
// look.
func mayHaveBody(r *http.Request) bool {
	return r.ContentLength < 0 && r.Body != nil && r.Header["Expect"] == nil
}

// isCutOff tells of a body that it has ended before the length that was announced, and without
// an error: HTTP/1.1 and HTTP/2 have one for that, quic-go's HTTP/3 doesn't. No homeserver would get
// such a request, as its transport fails, unless we gave it the length that there is.
func isCutOff(r *http.Request, body []byte) bool {
	return r.ContentLength > int64(len(body))
}

// hasBody tells whether a request has a body, of at least a byte. It may have to wait for the
// client to send that byte or to end the request, so it is called before anything of ours is
// taken or looked up for the request. A body is left as it was. What turns out to have none has
// a length of 0 from then on: a transport would otherwise have to look once more, for up to
// 200 ms, and reverse_proxy isn't safe against a look that takes longer.
func hasBody(r *http.Request) bool {
	if !mayHaveBody(r) {
		return r.ContentLength != 0 && r.Body != nil
	}
	first, rest := make([]byte, 1), r.Body
	n, err := io.ReadFull(rest, first)
	switch {
	case err == nil:
		r.Body = replayed{io.MultiReader(bytes.NewReader(first[:n]), rest), rest}
	case err == io.EOF && len(r.Trailer) == 0:
		r.Body, r.ContentLength, r.TransferEncoding = http.NoBody, 0, nil
	default: // also trailers go on: they have come by now
		r.Body = replayed{brokenReader{err}, rest}
	}
	return err != io.EOF
}
