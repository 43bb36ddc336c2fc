package bubble

import (
	"fmt"
	"net"
)

// Door is how clients get to Caddy, which decides what Caddy takes for their address.
type Door int

// The doors. Behind all but the first, every connection is one of a load balancer's, at
// 203.0.113.9, or of a process on the machine.
const (
	Internet      Door = iota
	ProxyProtocol      // which tells the client's address (over TCP)
	Forwarded          // which tells it by X-Forwarded-For
	Unix               // a socket, by which no address comes
)

// Options are the global options of a Caddyfile for a door, inside of "servers".
func (d Door) Options() string {
	switch d {
	case ProxyProtocol:
		return "listener_wrappers {\nproxy_protocol {\nallow 203.0.113.0/24\n}\ntls\n}\n"
	case Forwarded:
		return "trusted_proxies static 203.0.113.0/24\n"
	}
	return ""
}

var balancer = net.IPv4(203, 0, 113, 9)

// dial connects to a port of Caddy's by the client's door.
func (c *Client) dial(port string) (net.Conn, error) {
	switch c.Door {
	case ProxyProtocol:
		conn, err := Dial(port, &net.TCPAddr{IP: balancer, Port: 40000})
		if err != nil {
			return nil, err
		}
		family, to := "TCP4", "203.0.113.1"
		if c.From.To4() == nil {
			family, to = "TCP6", "2001:db8:ffff::1"
		}
		if _, err := fmt.Fprintf(conn, "PROXY %s %s %s 40000 80\r\n", family, c.From, to); err != nil {
			conn.Close()
			return nil, err
		}
		return conn, nil
	case Forwarded:
		return Dial(port, &net.TCPAddr{IP: balancer, Port: 40000})
	case Unix:
		return Dial(port, &net.UnixAddr{Name: "@", Net: "unix"})
	}
	return Dial(port, &net.TCPAddr{IP: c.From, Port: 40000})
}
