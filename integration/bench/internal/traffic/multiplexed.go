package traffic

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/protocol"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/wire"
)

// Multiplexed is a connection of HTTP/2 or HTTP/3, on which several clients may send requests at
// the same time.
type Multiplexed struct {
	transport http.RoundTripper
	server    *url.URL
}

// NewMultiplexed returns a connection to a server that speaks a protocol, with the file of the
// certificate that it is to trust. It is made by the first request.
func NewMultiplexed(p protocol.Protocol, addr, certificate string) (*Multiplexed, error) {
	var trusted []byte
	if p.TLS() {
		var err error
		if trusted, err = os.ReadFile(certificate); err != nil {
			return nil, fmt.Errorf("reading the server's certificate: %w", err)
		}
	}
	return &Multiplexed{p.NewTransport(trusted), p.Plain(&url.URL{Host: addr})}, nil
}

// Ask sends a request, which is written as for HTTP/1.1, like [wire.Client.Ask].
func (m *Multiplexed) Ask(request []byte) (reply wire.Reply, used bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), wire.Patience)
	defer cancel()
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(request)))
	if err != nil {
		return reply, true, fmt.Errorf("reading a request: %w", err)
	}
	r.URL.Scheme, r.URL.Host, r.RequestURI = m.server.Scheme, m.server.Host, ""
	resp, err := m.transport.RoundTrip(r.WithContext(ctx))
	if err != nil {
		return reply, true, fmt.Errorf("sending a request: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return reply, true, fmt.Errorf("reading an answer's body: %w", err)
	}
	return wire.Reply{Status: resp.StatusCode, Header: resp.Header, Body: body}, true, nil
}

// Close ends the connection.
func (m *Multiplexed) Close() { protocol.CloseTransport(m.transport) }
