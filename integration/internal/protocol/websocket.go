package protocol

import (
	"context"
	"io"
	"net/http"
	"net/url"
)

// WebSocket is a connection on which both sides say what they like, once the server has
// agreed.
type WebSocket struct {
	// Response is what the server said to the request. Unless it agreed, its body is an
	// answer like any other.
	Response *http.Response

	reader io.Reader
	writer io.WriteCloser
}

// OpenWebSocket asks for a WebSocket at a URL, as the protocol does it: by an Upgrade field in
// HTTP/1.1, by an extended CONNECT in HTTP/2 (RFC 8441) and in HTTP/3 (RFC 9220). HTTP/2
// needs a server that runs with GODEBUG=http2xconnect=1. Close it.
func OpenWebSocket(ctx context.Context, target string, header http.Header) (*WebSocket, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	p := Protocol(u.Scheme)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	for name, values := range header {
		request.Header[name] = values
	}
	request.Header.Set("Sec-WebSocket-Version", "13")
	s := new(WebSocket)
	if p == HTTP1 {
		request.Header.Set("Connection", "Upgrade")
		request.Header.Set("Upgrade", "websocket")
		request.Header.Set("Sec-WebSocket-Key", "AQIDBAUGBwgJCgsMDQ4PEA==")
	} else {
		request.Method = http.MethodConnect
		request.Body, s.writer = io.Pipe()
		request.ContentLength = -1
		if p == HTTP3 {
			request.Proto = "websocket"
		} else {
			request.Header[":protocol"] = []string{"websocket"}
		}
	}
	if s.Response, err = clients[p].RoundTrip(request); err != nil {
		return nil, err
	}
	s.reader = s.Response.Body
	if both, ok := s.Response.Body.(io.WriteCloser); p == HTTP1 && ok {
		s.writer = both
	}
	return s, nil
}

// Agreed tells whether the server goes on with the WebSocket.
func (s *WebSocket) Agreed() bool {
	if s.Response.ProtoMajor == 1 {
		return s.Response.StatusCode == http.StatusSwitchingProtocols
	}
	return s.Response.StatusCode == http.StatusOK
}

// Read reads what the server says.
func (s *WebSocket) Read(p []byte) (int, error) { return s.reader.Read(p) }

// Write says something to the server.
func (s *WebSocket) Write(p []byte) (int, error) { return s.writer.Write(p) }

// Close ends it.
func (s *WebSocket) Close() error {
	if s.writer != nil {
		_ = s.writer.Close()
	}
	return s.Response.Body.Close()
}
