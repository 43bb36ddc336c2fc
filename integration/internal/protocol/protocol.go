package protocol

// Protocol is one that Caddy serves, named by the scheme of its URLs.
type Protocol string

// The protocols.
const (
	HTTP1 Protocol = "http"
	HTTP2 Protocol = "h2"
	H2C   Protocol = "h2c"
	HTTP3 Protocol = "h3"
)

// All are the protocols, the one that most tests speak first.
var All = []Protocol{HTTP1, HTTP2, H2C, HTTP3}

// URL is where a client finds a site that listens on an address.
func (p Protocol) URL(address string) string { return string(p) + "://" + address }

// TLS tells whether it is spoken over TLS, which in HTTP/3 is part of QUIC.
func (p Protocol) TLS() bool { return p == HTTP2 || p == HTTP3 }

// Major is the major version of HTTP.
func (p Protocol) Major() int {
	return map[Protocol]int{HTTP1: 1, HTTP2: 2, H2C: 2, HTTP3: 3}[p]
}

// Site is the address of a site in a Caddyfile.
func (p Protocol) Site(address string) string {
	if p.TLS() {
		return "https://" + address
	}
	return "http://" + address
}

// Served are the words after the server option "protocols": what such a site serves by
// default, and h2c.
func (p Protocol) Served() string {
	if p.TLS() {
		return "h1 h2 h3"
	}
	return "h1 h2c"
}
