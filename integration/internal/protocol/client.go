package protocol

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"

	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"
)

// Register teaches the schemes of the protocols to http.DefaultClient, once in a process.
var Register = sync.OnceFunc(func() {
	transport := http.DefaultTransport.(*http.Transport)
	for _, p := range All {
		if p != HTTP1 {
			transport.RegisterProtocol(string(p), clients[p])
		}
	}
})

// Close ends the idle connections of the clients that Register registers. They are opened again when
// needed. A client of HTTP/3 notices only after half a minute that its server is gone, so
// whoever stops a server calls it.
func Close() {
	for _, c := range clients {
		c.close()
	}
}

var clients = map[Protocol]*client{
	HTTP1: {protocol: HTTP1}, HTTP2: {protocol: HTTP2}, H2C: {protocol: H2C}, HTTP3: {protocol: HTTP3},
}

// NewTransport returns a transport of its own that speaks this protocol and no other, to URLs
// of the scheme "http" or "https".
func (p Protocol) NewTransport() (http.RoundTripper, error) {
	trusted, err := certificate()
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: trusted.roots}
	switch p {
	case HTTP3:
		return &http3.Transport{TLSClientConfig: config}, nil
	case HTTP2:
		// Not net/http's: it sends no extended CONNECT.
		return &http2.Transport{TLSClientConfig: config}, nil
	case H2C:
		return &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, network, address string, _ *tls.Config) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		}}, nil
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Protocols = new(http.Protocols)
	transport.Protocols.SetHTTP1(true)
	return transport, nil
}

// client sends requests whose URL has the scheme of a protocol.
type client struct {
	protocol Protocol

	mu        sync.Mutex // guards transport
	transport http.RoundTripper
}

// RoundTrip fails unless the answer came by the protocol.
func (c *client) RoundTrip(r *http.Request) (*http.Response, error) {
	transport, err := c.open()
	if err != nil {
		return nil, err
	}
	sent := r.Clone(r.Context())
	sent.URL.Scheme = "http"
	if c.protocol.TLS() {
		sent.URL.Scheme = "https"
	}
	resp, err := transport.RoundTrip(sent)
	if err != nil {
		return nil, err
	}
	if resp.ProtoMajor != c.protocol.Major() {
		resp.Body.Close()
		return nil, fmt.Errorf("asking by %s: the answer came by %s", c.protocol, resp.Proto)
	}
	resp.Request = r
	return resp, nil
}

func (c *client) open() (http.RoundTripper, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.transport == nil {
		var err error
		if c.transport, err = c.protocol.NewTransport(); err != nil {
			return nil, err
		}
	}
	return c.transport, nil
}

func (c *client) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch transport := c.transport.(type) {
	case io.Closer:
		_ = transport.Close()
	case interface{ CloseIdleConnections() }:
		transport.CloseIdleConnections()
	}
	c.transport = nil
}
