package bubble

import (
	"fmt"
	"net/http"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() { caddy.RegisterModule(transport{}) }

// Behind puts what answers behind an address of reverse_proxy, such as "localhost:8008".
func Behind(address string, answers http.RoundTripper) {
	behind.mu.Lock()
	defer behind.mu.Unlock()
	behind.at[address] = answers
}

var behind = struct {
	mu      sync.Mutex // guards all below
	at      map[string]http.RoundTripper
	servers map[string]*pipes // of those that have been dialled
	stop    []func()
}{at: make(map[string]http.RoundTripper), servers: make(map[string]*pipes)}

// transport is reverse_proxy's way there: "reverse_proxy localhost:8008 { transport model }".
type transport struct{}

func (transport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport.model",
		New: func() caddy.Module { return new(transport) },
	}
}

func (transport) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

func (transport) RoundTrip(r *http.Request) (*http.Response, error) {
	behind.mu.Lock()
	answers := behind.at[r.URL.Host]
	behind.mu.Unlock()
	if answers == nil {
		return nil, fmt.Errorf("dial tcp %s: connection refused", r.URL.Host)
	}
	return answers.RoundTrip(r)
}
