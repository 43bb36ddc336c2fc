// Package inprocess runs Caddy with the module inside the test's own process: the
// race detector and goleak see it all, which the built binary keeps to itself. For
// whatever a user would do, take [sidecar] instead.
//
// [sidecar]: https://pkg.go.dev/github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar
package inprocess

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"      // the Caddyfile adapter
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy" // reverse_proxy
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"            // the default storage
	_ "github.com/caddyserver/caddy/v2/modules/logging"                // the formats of logs

	_ "github.com/caddy-matrix/caddy-matrix-presence/caddymodule" // what is tested
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/process"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/protocol"
)

// Server is a running Caddy. A process can have one at a time. Stop it.
type Server struct {
	// URL is where it serves, "http://127.0.0.1:port". The scheme is another protocol's
	// by [Over].
	URL string

	protocol protocol.Protocol
	address  string
	tls      string // the directive of that name, or nothing
	dir      string // with the certificate; removed by Stop
	log      string // where Caddy's log goes, as the Caddyfile says it
}

// Option is a choice that Start leaves to a test.
type Option func(*Server)

// LogTo has Caddy's log written to a file, a JSON object a line, from level INFO up.
// By default it is discarded.
func LogTo(path string) Option {
	return func(s *Server) {
		s.log = "output file " + strconv.Quote(path) + " {\n roll_disabled\n }\n format json"
	}
}

// Over has clients speak a protocol, HTTP/1.1 unless given.
func Over(p protocol.Protocol) Option { return func(s *Server) { s.protocol = p } }

// Start runs a site with the given directives, such as
//
//	matrix_presence
//	reverse_proxy 127.0.0.1:8008
func Start(directives string, choices ...Option) (*Server, error) {
	return process.Retry(func() (*Server, error) {
		addrs, err := process.FreeAddresses(1)
		if err != nil {
			return nil, err
		}
		s := &Server{protocol: protocol.HTTP1, address: addrs[0], log: "output discard"}
		for _, choose := range choices {
			choose(s)
		}
		s.URL = s.protocol.URL(s.address)
		err = s.certify()
		if err == nil {
			err = s.Reload(directives)
		}
		if err != nil {
			os.RemoveAll(s.dir)
			return nil, err
		}
		return s, nil
	})
}

// certify gives the site a certificate if it needs one.
func (s *Server) certify() (err error) {
	protocol.Register()
	if !s.protocol.TLS() {
		return nil
	}
	if s.dir, err = os.MkdirTemp("", "presence-inprocess-"); err != nil {
		return fmt.Errorf("making a folder for the certificate: %w", err)
	}
	cert, key, err := protocol.WriteCertificate(s.dir)
	s.tls = fmt.Sprintf("tls %q %q", cert, key)
	return err
}

// options keep Caddy to this process: nothing is written to the user's folders, and
// nothing listens but the site, on loopback.
const options = `{
	admin off
	auto_https off
	persist_config off
	storage_check off
	storage_clean_interval off
	default_bind 127.0.0.1
	grace_period 10s
	log {
		%s
	}
	servers {
		protocols %s
	}
}
`

// Reload gives the site other directives, or the same once more, as
// `caddy reload --force` does.
func (s *Server) Reload(directives string) error {
	caddyfile := fmt.Sprintf(options, s.log, s.protocol.Served()) +
		s.protocol.Site(s.address) + " {\n" + s.tls + "\n" + directives + "\n}\n"
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), nil)
	if err != nil {
		return fmt.Errorf("adapting the Caddyfile: %w", err)
	}
	if err := caddy.Load(config, true); err != nil {
		if strings.Contains(err.Error(), syscall.EADDRINUSE.Error()) { // Caddy wraps some errors with %v
			return fmt.Errorf("%w: %w", process.ErrAddressInUse, err)
		}
		return fmt.Errorf("loading the Caddyfile: %w", err)
	}
	return process.OneListener(context.Background(), s.address)
}

// Stop ends the server, when the requests under way are done or 10 seconds are over.
func (s *Server) Stop() error {
	protocol.Close()
	defer os.RemoveAll(s.dir)
	return caddy.Stop()
}
