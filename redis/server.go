package redis

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Server says which Redis it is. In all strings placeholders such as {env.*} and {file.*} are
// replaced when the configuration is loaded.
type Server struct {
	// Address is a host and a port, or unix/ and the path of a socket. The port is 6379 unless
	// given. Default: localhost:6379.
	Address string `json:"address,omitempty"`

	Access
}

// Access says as whom a Redis is used, and how it is known. Placeholders are replaced as in [Server].
type Access struct {
	// Username is that of an ACL. Default: Redis's user "default".
	Username string `json:"username,omitempty"`

	// Password is best taken from a file or from the environment: {file./run/secrets/redis},
	// {env.REDIS_PASSWORD}. Default: none.
	Password string `json:"password,omitempty"`

	// TLS encrypts the connection. Default: it isn't encrypted.
	TLS *TLS `json:"tls,omitempty"`
}

// TLS says whom to believe that they are the server.
type TLS struct {
	// CA is a file with the certificates of authorities, in PEM. Default: those of the system.
	CA string `json:"ca,omitempty"`

	// ServerName is the name that the server's certificate must have. Default: the host of the address.
	ServerName string `json:"server_name,omitempty"`
}

const (
	defaultAddress = "localhost:6379"
	defaultPort    = "6379"
	unixPrefix     = "unix/"
)

// options returns the options of a client. Its errors have no password in them.
func (s *Server) options() (*redis.Options, error) {
	address, err := replaced("address", s.Address)
	if err != nil {
		return nil, err
	}
	return s.Access.options(address)
}

// options returns the options of a client of the server at an address. Its errors have no
// password in them.
func (a *Access) options(address string) (*redis.Options, error) {
	o := &redis.Options{
		// What an ACL for a reader has no permission for, or Redis 7.0 doesn't know.
		Protocol: 2, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		// A deadline is one. What failed may have happened, and whoever asked decides.
		ContextTimeoutEnabled: true, MaxRetries: -1,
		DialTimeout: dialTimeout,
	}
	var err error
	if o.Username, err = replaced("username", a.Username); err != nil {
		return nil, err
	}
	if o.Password, err = replaced("password", a.Password); err != nil {
		return nil, err
	}
	if o.Username != "" && o.Password == "" {
		return nil, errors.New("username has no password")
	}
	var host string
	if err := checkAddress(address); err != nil {
		return nil, err
	}
	o.Network, o.Addr, host = split(cmp.Or(address, defaultAddress))
	if a.TLS != nil {
		if o.TLSConfig, err = a.TLS.config(host); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// checkAddress refuses what is no address. One with placeholders is looked at when they are replaced. It repeats
// nothing of what it refuses but a port: a URL may have a password in it.
func checkAddress(text string) error {
	path, isSocket := strings.CutPrefix(text, unixPrefix)
	host, port, err := net.SplitHostPort(text)
	switch {
	case text == "" || strings.Contains(text, "{"):
	case strings.Contains(text, "://"):
		return errors.New("address is a host, or a host and a port, and no URL: username, password and tls are options of their own")
	case isSocket:
		if !strings.HasPrefix(path, "/") {
			return errors.New("address has unix/ and no absolute path after it, such as unix//run/redis.sock")
		}
	case err == nil:
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strings.ContainsAny(host, notInHosts) {
			return fmt.Errorf("address needs a host, and a port from 1 to 65535, not '%s'", port)
		}
	case strings.ContainsAny(text, notInHosts):
		return errNoAddress
	case strings.Contains(text, ":"): // of IPv6
		if _, err := netip.ParseAddr(strings.Trim(text, "[]")); err != nil {
			return errNoAddress
		}
	}
	return nil
}

// notInHosts are what no host has in its name.
const notInHosts = "@/, "

var errNoAddress = errors.New("address is neither a host, nor a host and a port, nor unix/ and a path")

// split returns the parts of an address. A socket has no host.
func split(given string) (network, address, host string) {
	if path, ok := strings.CutPrefix(given, unixPrefix); ok {
		return "unix", path, ""
	}
	host, port, err := net.SplitHostPort(given)
	if err != nil {
		host, port = strings.Trim(given, "[]"), defaultPort
	}
	return "tcp", net.JoinHostPort(host, port), host
}

// replaced replaces the placeholders of an option.
func replaced(name, text string) (string, error) {
	replaced, err := caddy.NewReplacer().ReplaceOrErr(text, true, true)
	if err != nil {
		return "", fmt.Errorf("replacing the placeholders of %s: %w", name, err)
	}
	return strings.TrimSpace(replaced), nil
}

func (t *TLS) config(host string) (*tls.Config, error) {
	config := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if t.ServerName != "" {
		config.ServerName = t.ServerName
	}
	if config.ServerName == "" {
		return nil, errors.New("tls needs a server_name, as the address is a socket")
	}
	if t.CA == "" {
		return config, nil
	}
	pem, err := os.ReadFile(t.CA)
	if err != nil {
		return nil, fmt.Errorf("reading the certificates of tls: %w", err)
	}
	if config.RootCAs = x509.NewCertPool(); !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("reading the certificates of tls: there is none in %s", t.CA)
	}
	return config, nil
}

// parsers read the options of a server in a Caddyfile.
func (s *Server) parsers(d *caddyfile.Dispenser) map[string]func() error {
	parsers := s.Access.parsers(d)
	parsers["address"] = func() error { return one(d, &s.Address) }
	return parsers
}

// parsers read the options of an access in a Caddyfile.
func (a *Access) parsers(d *caddyfile.Dispenser) map[string]func() error {
	return map[string]func() error{
		"username": func() error { return one(d, &a.Username) },
		"password": func() error { return one(d, &a.Password) },
		"tls": func() error {
			if a.TLS = new(TLS); d.NextArg() {
				return d.ArgErr()
			}
			return parseBlock(d, map[string]func() error{
				"ca":          func() error { return one(d, &a.TLS.CA) },
				"server_name": func() error { return one(d, &a.TLS.ServerName) },
			})
		},
	}
}

// parseBlock reads a block of options, each at most once.
func parseBlock(d *caddyfile.Dispenser, options map[string]func() error) error {
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		parse, ok := options[name]
		switch {
		case !ok:
			return d.Errf("unrecognized subdirective '%s', expected one of: %s", name, strings.Join(slices.Sorted(maps.Keys(options)), ", "))
		case seen[name]:
			return d.Errf("'%s' is given twice", name)
		}
		seen[name] = true
		if err := parse(); err != nil {
			return err
		}
	}
	return nil
}

// one reads the only argument of an option.
func one(d *caddyfile.Dispenser, into *string) error {
	name, args := d.Val(), d.RemainingArgs()
	if len(args) != 1 || args[0] == "" {
		return d.Errf("parsing %s: expected one value", name)
	}
	*into = args[0]
	return nil
}

// silent keeps the client's library from writing to standard error, past Caddy's logs.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}
