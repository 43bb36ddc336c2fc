package protocol

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
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
// of the scheme "http" or "https". It trusts a certificate, in PEM.
func (p Protocol) NewTransport(certificate []byte) http.RoundTripper {
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	config.RootCAs.AppendCertsFromPEM(certificate)
	switch p {
	case HTTP3:
		return &http3.Transport{TLSClientConfig: config}
	case HTTP2:
		//nolint:staticcheck // SA1019: net/http's own sends no extended CONNECT
		return &http2.Transport{TLSClientConfig: config}
	case H2C:
		dial := func(ctx context.Context, network, address string, _ *tls.Config) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		}
		//nolint:staticcheck // SA1019: likewise
		return &http2.Transport{AllowHTTP: true, DialTLSContext: dial}
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Protocols = new(http.Protocols)
	transport.Protocols.SetHTTP1(true)
	return transport
}

// CloseTransport ends the idle connections of such a transport.
func CloseTransport(transport http.RoundTripper) {
	switch transport := transport.(type) {
	case io.Closer: // that of HTTP/3 has a socket
		_ = transport.Close()
	case interface{ CloseIdleConnections() }:
		transport.CloseIdleConnections()
	}
}

// Plain returns a URL as such a transport takes it.
func (p Protocol) Plain(u *url.URL) *url.URL {
	plain := *u
	if plain.Scheme = "http"; p.TLS() {
		plain.Scheme = "https"
	}
	return &plain
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
	sent.URL = c.protocol.Plain(r.URL)
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
		own, err := certificate()
		if err != nil {
			return nil, fmt.Errorf("making a certificate: %w", err)
		}
		c.transport = c.protocol.NewTransport(own.cert)
	}
	return c.transport, nil
}

func (c *client) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	CloseTransport(c.transport)
	c.transport = nil
}
