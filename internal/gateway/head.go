package gateway

import (
	"net/http"
	"slices"
	"strings"
)

// What a request of ours carries must not be the client's choice. Homeservers refuse a
// head that is too large in their own ways: Twisted drops the connection above 16 KiB,
// hyper takes no more than 100 fields. Caddy takes more than either. So the head of a
// request of ours is made of a few fields, each bounded, and bounded as a whole.
const (
	// maxHead is the size in bytes of the request line and all fields. It leaves room
	// for what reverse_proxy adds, and for what the site has it add.
	maxHead = 12 << 10

	// maxLines is how many fields there are, each value of a field counted.
	maxLines = 40

	// maxSiteField is the size of the largest field that the site's handlers name,
	// and of all values of one.
	maxSiteField = 2 << 10

	// maxLine is the size of the request line.
	maxLine = 4000

	// maxHost is the longest host with a port (RFC 1035, section 2.3.4).
	maxHost = 253 + len(":65535")
)

// clientField is a field of a client's request that its requests of ours have, too.
type clientField struct {
	name string
	max  int // bytes of its value
	kind fieldKind
}

type fieldKind int

const (
	oneValue  fieldKind = iota // taken if there is one, and not too long
	textStart                  // the first, cut off
	listTail                   // all values, without those in front that are too much
)

// clientFields are those that tell the homeserver who asks and for whom, and tracing. The
// proxy of a site behind a proxy passes on what came from there, see reverse_proxy's
// trusted_proxies.
var clientFields = []clientField{
	{"X-Forwarded-For", 512, listTail},
	{"X-Forwarded-Proto", 32, oneValue},
	{"X-Forwarded-Host", maxHost, oneValue},
	{"Forwarded", 512, listTail},
	{"X-Real-Ip", 64, oneValue},
	{"User-Agent", 512, textStart},
	{"Traceparent", 128, oneValue},
	{"Tracestate", 512, oneValue},
}

// The fields that some requests of ours have in addition.
var (
	// originField lets proxies answer for the origin of the browser that asks.
	originField      = clientField{"Origin", 256, oneValue}
	contentTypeField = clientField{"Content-Type", 128, oneValue}
)

// maxClientIP is the size of each field that the server takes a client's address from, and
// maxClientIPFields how many of them are looked at.
const maxClientIP, maxClientIPFields = 256, 4

// withoutCopy are fields that a request of ours never has from the client's, even if a
// handler names them: they are about its connection, its body, or what it has of the
// answer already. Accept-Encoding is among them so that answers come plain: the transport
// asks for gzip itself and unpacks it, and an encode handler before us has looked at
// the client's already.
var withoutCopy = []string{
	"Accept-Encoding", "Authorization", "Connection", "Content-Encoding", "Content-Length", "Content-Type", "Expect",
	"Host", "If-Match", "If-Modified-Since", "If-None-Match", "If-Range", "If-Unmodified-Since", "Keep-Alive",
	"Origin", "Proxy-Connection", "Range", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// IsOurs tells of a field that it is not for a handler's configuration to name: we decide
// whether requests of ours have it.
func IsOurs(name string) bool {
	return slices.Contains(withoutCopy, name) ||
		slices.ContainsFunc(clientFields, func(f clientField) bool { return f.name == name })
}

// head is that of a request of ours while it is put together.
type head struct {
	header      http.Header
	left, lines int // what there is room for

	// chosen are the fields that the client may have chosen, and that the request
	// may go without.
	chosen []string
}

// newHead returns the head of a request of ours on behalf of a client's, with so many
// bytes in its request line, with an access token unless that is empty, and with what
// else it needs of the client's.
func (g *Gateway) newHead(r *http.Request, line int, token string, more []clientField) head {
	b := head{
		header: make(http.Header, 8),
		left:   maxHead - line - len("Host: \r\n") - len(r.Host),
		lines:  maxLines - 1,
	}
	if token != "" {
		b.put("Authorization", "Bearer "+token)
	}
	// What the site sets comes first, and what the client may choose of what it looks at
	// last: that must not take the place of the client's address.
	b.takeNamed(g, r, false)
	for i := range clientFields {
		b.take(r, clientFields[i])
	}
	for i := range more {
		b.take(r, more[i])
	}
	for i, name := range g.server.ClientIPHeaders(r) {
		name = http.CanonicalHeaderKey(name)
		if i < maxClientIPFields && b.header[name] == nil && !slices.Contains(withoutCopy, name) {
			b.take(r, clientField{name, maxClientIP, listTail})
		}
	}
	b.takeNamed(g, r, true)
	return b
}

// takeNamed takes over the fields that the site's handlers name, those that only look at them
// or the others.
func (b *head) takeNamed(h *Gateway, r *http.Request, read bool) {
	for _, name := range h.siteNames {
		if h.site.reads(name) != read || b.header[name] != nil {
			continue
		}
		if values, ok := r.Header[name]; ok && !b.copy(name, values) {
			h.oversized.Do(func() {
				h.logger.Warn("a header field that the site's configuration names is too large for the requests "+
					"that matrix_presence makes itself, so they go without it", "field", name)
			})
		}
		if read {
			b.chosen = append(b.chosen, name)
		}
	}
}

// take takes over a field of the client's request, as far as that is in bounds.
func (b *head) take(r *http.Request, f clientField) {
	values := r.Header[f.name]
	if len(values) == 0 || b.header[f.name] != nil {
		return
	}
	value := values[0]
	switch f.kind {
	case oneValue:
		if len(values) > 1 || len(value) > f.max {
			return
		}
	case textStart:
		value = value[:min(len(value), f.max)]
	case listTail:
		value = tail(strings.Join(values, ", "), f.max)
	}
	if value = visible(value); value != "" && b.put(f.name, value) {
		b.chosen = append(b.chosen, f.name)
	}
}

// copy copies as many of a field's values as fit. What handlers add comes last. It reports
// whether any did.
func (b *head) copy(name string, values []string) bool {
	size, first := 0, len(values)
	for first > 0 && len(values)-first < b.lines {
		more := len(name) + len(": \r\n") + len(values[first-1])
		if size+more > min(maxSiteField, b.left) {
			break
		}
		size, first = size+more, first-1
	}
	if values = values[first:]; len(values) == 0 {
		return first == 0
	}
	b.left, b.lines = b.left-size, b.lines-len(values)
	b.header[name] = slices.Clone(values)
	return true
}

// put sets a field if there is room for it.
func (b *head) put(name, value string) bool {
	size := len(name) + len(": \r\n") + len(value)
	if size > b.left || b.lines == 0 {
		return false
	}
	b.left, b.lines = b.left-size, b.lines-1
	b.header[name] = []string{value}
	return true
}

// tail returns the end of a list that has at most so many bytes, from an element's
// beginning on. What proxies add to such a list comes last.
func tail(list string, size int) string {
	if len(list) <= size {
		return list
	}
	_, rest, _ := strings.Cut(list[len(list)-size-1:], ",")
	return strings.TrimLeft(rest, " ")
}

// visible puts a question mark for each byte that isn't visible ASCII: Synapse answers 500
// to an address with another.
func visible(value string) string {
	odd := func(c byte) bool { return c < ' ' || c >= 0x7f }
	for i := range len(value) {
		if odd(value[i]) {
			plain := []byte(value)
			for j := range plain {
				if odd(plain[j]) {
					plain[j] = '?'
				}
			}
			return string(plain)
		}
	}
	return value
}
