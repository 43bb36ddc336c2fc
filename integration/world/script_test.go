package world_test

import (
	"fmt"
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/bubble"
)

// script tells a person how to do what a plan does, with Caddy and curl before a homeserver of the
// kind: the site's Caddyfile, and what happens when.
func (p *plan) script() string {
	var b strings.Builder
	fmt.Fprintf(&b, "By hand, before %s on port 8008:\n\n%s\n", p.dialect.Name, p.site.caddyfile(true, "certificate.pem", "key.pem"))
	for i, s := range p.steps {
		fmt.Fprintf(&b, "%3d after %v: ", i, s.at)
		switch {
		case s.call != nil:
			b.WriteString(s.call.curl())
		case s.reload != nil:
			b.WriteString("reload with\n\n" + s.reload.caddyfile(true, "certificate.pem", "key.pem"))
		default:
			fmt.Fprint(&b, s)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// options are curl's for the protocols.
var options = map[bubble.Protocol]string{
	bubble.HTTP1: "--http1.1", bubble.H2C: "--http2-prior-knowledge", bubble.HTTPS1: "--http1.1 -k", bubble.HTTP2: "--http2 -k", bubble.HTTP3: "--http3-only -k",
}

// curl is the command that sends a call.
func (c *call) curl() string {
	scheme, host := "http", "example.com"
	if c.protocol.Secure() {
		scheme = "https"
	}
	if c.staging {
		host += ":8080"
	}
	url := scheme + "://" + host + c.path
	if len(c.query) > 0 {
		url += "?" + strings.Join(c.query, "&")
	}
	s := fmt.Sprintf("# as %s from %v\n    curl %s -X %s", c.who, c.who.address, options[c.protocol], c.method)
	if c.method == "HEAD" {
		s = strings.Replace(s, "-X HEAD", "-I", 1)
	}
	if c.patience > 0 {
		s += fmt.Sprintf(" -m %v", c.patience.Seconds())
	}
	for i, field := range c.fields {
		if i == 8 {
			s += fmt.Sprintf(" # and %d fields more", len(c.fields)-i)
			break
		}
		s += " -H " + shell(field[0]+": "+field[1])
	}
	switch {
	case c.stuck:
		s += " -T - # and no body"
	case c.unknownLength:
		s += " -H 'Transfer-Encoding: chunked' --data-binary " + shell(c.body)
	case c.body != "":
		s += " --data-binary " + shell(c.body)
	}
	return s + " " + shell(url)
}

// shell quotes a word for a shell, and says of what is long how long it is.
func shell(word string) string {
	if len(word) > 300 {
		word = fmt.Sprintf("%s… (%d bytes)", word[:40], len(word))
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
