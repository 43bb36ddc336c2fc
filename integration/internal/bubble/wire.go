package bubble

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func init() { caddy.RegisterModule(wire{}) }

// wire is Caddy's own transport, with its options and its connections, to what stands behind an
// address: "transport wire { keepalive off }".
type wire struct{ reverseproxy.HTTPTransport }

func (wire) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport.wire",
		New: func() caddy.Module { return new(wire) },
	}
}

// Provision replaces the network by one of buffers.
func (w *wire) Provision(ctx caddy.Context) error {
	if err := w.HTTPTransport.Provision(ctx); err != nil {
		return err
	}
	w.Transport.DialContext = func(ctx context.Context, _, address string) (net.Conn, error) {
		if info, ok := reverseproxy.GetDialInfo(ctx); ok {
			address = info.Address
		}
		return dialBehind(address)
	}
	return nil
}

// dialBehind connects to a server for what stands behind an address, which it starts the first
// time. Stop ends it.
func dialBehind(address string) (net.Conn, error) {
	behind.mu.Lock()
	defer behind.mu.Unlock()
	if behind.at[address] == nil {
		return nil, errors.New("dial tcp " + address + ": connection refused")
	}
	listener := behind.servers[address]
	if listener == nil {
		listener = newPipes()
		behind.servers[address] = listener
		server := &http.Server{Handler: served(address), Protocols: new(http.Protocols)}
		server.Protocols.SetHTTP1(true)
		server.Protocols.SetUnencryptedHTTP2(true)
		go server.Serve(listener)
		behind.stop = append(behind.stop, func() { server.Close() })
	}
	client, server := newConn(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 50000}, listener.Addr())
	select {
	case listener.conns <- server:
		return client, nil
	case <-listener.closed:
		return nil, net.ErrClosed
	}
}

// served is a server of what stands behind an address at present.
type served string

func (address served) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	behind.mu.Lock()
	answers := behind.at[string(address)]
	behind.mu.Unlock()
	resp, err := answers.RoundTrip(r)
	if err != nil {
		panic(http.ErrAbortHandler) // which ends the connection, or the stream
	}
	defer resp.Body.Close()
	maps.Copy(w.Header(), resp.Header)
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

// stopBehind ends the servers.
func stopBehind() {
	behind.mu.Lock()
	stop := behind.stop
	behind.stop, behind.servers = nil, make(map[string]*pipes)
	behind.mu.Unlock()
	for _, f := range stop {
		f()
	}
}
