package bubble

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// Protocol is how a client speaks to Caddy.
type Protocol string

// The protocols that Caddy serves. HTTP2 and HTTP3 are on the port of TLS.
const (
	HTTP1  Protocol = "HTTP/1.1"
	HTTPS1 Protocol = "HTTP/1.1 over TLS"
	HTTP2  Protocol = "HTTP/2"
	H2C    Protocol = "h2c"
	HTTP3  Protocol = "HTTP/3"

	HTTP10    Protocol = "HTTP/1.0"
	Raw       Protocol = "HTTP/1.1, raw" // which can cut a body off
	Pipelined Protocol = "HTTP/1.1, pipelined"
)

// Protocols lists all of them, the plainest first.
var Protocols = []Protocol{HTTP1, H2C, HTTPS1, HTTP2, HTTP3, HTTP10, Pipelined}

// Secure tells whether it is spoken on port 443, and not on port 80.
func (p Protocol) Secure() bool { return p == HTTPS1 || p == HTTP2 || p == HTTP3 }

// Client is somebody at an address, with connections that are kept.
type Client struct {
	From net.IP
	Door Door

	mu    sync.Mutex // guards all below
	ways  map[Protocol]http.RoundTripper
	close []func()
}

// ports counts the connections of HTTP/3.
var ports atomic.Uint32

// Send sends a request, whose URL says the host, by a protocol. The answer's body is to be
// closed.
func (c *Client) Send(p Protocol, r *http.Request) (*http.Response, error) {
	if c.Door == Forwarded {
		r.Header.Add("X-Forwarded-For", c.From.String())
	}
	if r.ContentLength < 0 && (p == HTTP1 || p == HTTPS1) {
		// Otherwise net/http waits for 200 ms whether there is a body, and sends an empty one as none.
		r.TransferEncoding = []string{"chunked"}
	}
	return c.way(p).RoundTrip(r)
}

// Close closes all connections.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.close {
		f()
	}
	c.ways, c.close = nil, nil
}

func (c *Client) way(p Protocol) http.RoundTripper {
	c.mu.Lock()
	defer c.mu.Unlock()
	if way := c.ways[p]; way != nil {
		return way
	}
	if c.ways == nil {
		c.ways = make(map[Protocol]http.RoundTripper)
	}
	switch p {
	case HTTP10:
		return raw{client: c, version: "HTTP/1.0"}
	case Raw:
		return raw{client: c, version: "HTTP/1.1"}
	case Pipelined:
		return raw{client: c, version: "HTTP/1.1", ahead: true}
	}
	trust := &tls.Config{RootCAs: trusted, ServerName: "example.com"}
	if p == HTTP3 {
		way := &http3.Transport{TLSClientConfig: trust, Dial: c.dialQUIC, DisableCompression: true}
		c.close = append(c.close, func() { way.Close() })
		c.ways[p] = way
		return way
	}
	way := &http.Transport{
		TLSClientConfig:    trust,
		DisableCompression: true,
		Protocols:          new(http.Protocols),

		ExpectContinueTimeout: time.Second,
		DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			return c.dial(port)
		},
	}
	way.Protocols.SetHTTP1(p == HTTP1 || p == HTTPS1)
	way.Protocols.SetHTTP2(p == HTTP2)
	way.Protocols.SetUnencryptedHTTP2(p == H2C)
	c.close = append(c.close, way.CloseIdleConnections)
	c.ways[p] = way
	return way
}

func (c *Client) dialQUIC(ctx context.Context, _ string, tlsConfig *tls.Config, config *quic.Config) (*quic.Conn, error) {
	// Two clients of one address have ports of their own.
	from := c.From
	if c.Door == Forwarded || c.Door == Unix {
		from = balancer // with PROXY protocol, which UDP doesn't have here, the address is the client's, too
	}
	end, server, err := dialGram("443", from, 10000+int(ports.Add(1)%50000))
	if err != nil {
		return nil, err
	}
	transport := &quic.Transport{Conn: end}
	c.mu.Lock()
	c.close = append(c.close, func() { transport.Close(); end.Close() })
	c.mu.Unlock()
	return transport.DialEarly(ctx, server, tlsConfig, config)
}

// Certificate names the files of a certificate for example.com and all hosts below, and its key,
// in a folder: "tls <certificate> <key>". A bubble's time begins in the year 2000.
func Certificate(dir string) (certificate, key string, err error) {
	certificate, key = filepath.Join(dir, "certificate.pem"), filepath.Join(dir, "key.pem")
	if err := os.WriteFile(certificate, certificatePEM, 0o600); err != nil {
		return "", "", fmt.Errorf("writing the certificate: %w", err)
	}
	if err := os.WriteFile(key, keyPEM, 0o600); err != nil {
		return "", "", fmt.Errorf("writing the key: %w", err)
	}
	return certificate, key, nil
}

var (
	certificatePEM, keyPEM []byte
	trusted                = x509.NewCertPool()
)

func init() {
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"example.com", "*.example.com"},
		NotBefore: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &secret.PublicKey, secret)
	if err != nil {
		panic(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(secret)
	if err != nil {
		panic(err)
	}
	certificatePEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded})
	trusted.AppendCertsFromPEM(certificatePEM)
}
