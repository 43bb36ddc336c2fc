package integration_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http/httpguts"
	"pgregory.net/rapid"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/protocol"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/wire"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

// caseField tells which request of a test one is. Requests of the module's own don't have it.
const caseField = "X-Case"

// origin is a server that writes the answer which it is given, byte for byte, and notes what it was sent.
type origin struct {
	net.Listener

	mu     sync.Mutex // guards all below
	answer string
	seen   []string
}

func newOrigin(t *testing.T) *origin {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &origin{Listener: listener}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { o.serve(conn) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		running.Wait()
	})
	return o
}

// serve answers one request, and closes: an answer may end so.
func (o *origin) serve(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(wire.Patience))
	var raw bytes.Buffer
	in := bufio.NewReader(io.TeeReader(conn, &raw))
	r, err := http.ReadRequest(in)
	if err != nil {
		return
	}
	head, _, _ := strings.Cut(raw.String(), "\r\n\r\n")
	if r.Header.Get(caseField) == "" {
		_, _ = io.WriteString(conn, "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		return
	}
	if r.Header.Get("Expect") != "" {
		_, _ = io.WriteString(conn, "HTTP/1.1 100 Continue\r\n\r\n")
	}
	body, err := io.ReadAll(r.Body)
	o.mu.Lock()
	o.seen = append(o.seen, fmt.Sprintf("%s\n%q %v %v", head, body, err, r.Trailer))
	answer := o.answer
	o.mu.Unlock()
	_, _ = io.WriteString(conn, answer)
	if strings.HasPrefix(answer, "HTTP/1.1 101") {
		said, _ := in.ReadString('.')
		_, _ = io.WriteString(conn, said)
	}
}

// sees returns what the origin is sent while f runs, and has it answer so.
func (o *origin) sees(answer string, f func()) []string {
	o.mu.Lock()
	o.answer, o.seen = answer, nil
	o.mu.Unlock()
	f()
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.seen
}

// passing is a request that isn't about presence, and what the origin answers to it.
type passing struct {
	method, target string
	fields         []string // "Name: value"
	body           string
	chunks         bool
	trailer        bool
	answer         string
}

func draw[T any](t *rapid.T, label string, values ...T) T {
	return rapid.SampledFrom(values).Draw(t, label)
}

// drawTarget draws a path and a query.
func drawTarget(t *rapid.T) string {
	start := draw(t, "start", "/_matrix/client/v3/", "/_matrix/client/r0/", "/_matrix/client/unstable/org.matrix.msc3575/", "/_matrix/client//v3/", "/_matrix/media/v3/",
		"/_matrix/federation/v1/", "/_synapse/admin/v1/", "/_synapse/admin/v2/users/", "/_dendrite/admin/", "/", "//", "/;", "/%5fmatrix/client/v3/", "/_matrix/client/v3/%2e%2e/", "/_matrix/client/v3/./",
		"/_tuwunel/oidc/", "/oauth2/")
	pieces := []string{"sync", "logout", "logout/all", "rooms/!a:b/join", "rooms/!a%3Ab/send/m.room.message/1", "rooms/%21a:b/kick", "account/whoami", "account/deactivate", "joined_rooms", "login", "register",
		"refresh", "revoke", "token", "devices/X", "delete_devices", "profile/@a:b/displayname", "user/@a:b/filter", "rooms/!a:b/typing/@a:b", "rooms/!a:b/joined_members", "rooms/!a:b/members", "deactivate/@a:b",
		"..", ".", "", "a;b", "a%2Fb", "a%00b", "%C3%A9", "é", "%zz", "%", "a b"[:1], "a+b", "a%20b", "~", "presence", "presence/list/@a:b", "presencer/@a:b/status", "PRESENCE/@a:b/status", "a\\b", "{a}", "a|b", "\"", "<", "^", "`"}
	var parts []string
	for range rapid.IntRange(1, 3).Draw(t, "parts") {
		parts = append(parts, draw(t, "part", pieces...))
	}
	target := start + strings.Join(parts, draw(t, "between", "/", "//", "/./", "/../", "%2F", ";"))
	switch draw(t, "query", 0, 0, 1, 2, 3, 4, 5) {
	case 1:
		target += "?access_token=a&timeout=0&since=s1&set_presence=offline"
	case 2:
		target += "?a=b;c=d&&=&%zz&a=%"
	case 3:
		target += "?" + strings.Repeat("user_id=%40a%3Ab&", rapid.IntRange(1, 2000).Draw(t, "parameters"))
	case 4:
		target += "?"
	case 5:
		target += "?a?b"
	}
	return target
}

var drawnFields = []string{
	"Authorization: Bearer a", "authorization:Bearer  a ", "Authorization: Bearer b", "AUTHORIZATION: Basic eDp5", "Cookie: a=b; c", "Origin: https://app.example", "Accept-Encoding: gzip, br;q=0", "Accept-Encoding: ",
	"TE: trailers", "Te: gzip", "Range: bytes=0-1", "If-None-Match: \"a\", W/\"b\"", "If-Modified-Since: nonsense", "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: gopher", "Forwarded: for=unknown", "Via: 1.0 a",
	"X-Empty:", "x-lower: 1", "X-Twice: 1", "X-Twice: 2", "Content-Type: application/json", "Content-Type: application/x-www-form-urlencoded", "Content-Encoding: gzip", "User-Agent: ", "Early-Data: 1", "Cache-Control: no-cache",
	"Pragma: no-cache", "Max-Forwards: 0", "X-HTTP-Method-Override: PUT", "Content-Language: de", "X-\u00fc: a", "X-High: \u00fc\u00ff", "Priority: u=1", "Host: other.example", "Access-Control-Request-Method: PUT",
	"Access-Control-Request-Headers: authorization", "Referer: /", "Sec-Fetch-Mode: cors", "X-Long: " + strings.Repeat("a", 20_000),
}

// hints are an interim answer.
const hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"

// drawAnswer draws an answer.
func drawAnswer(t *rapid.T, method string) string {
	status := draw(t, "status", "200 OK", "200 Fine", "201 Created", "204 No Content", "206 Partial Content", "301 Moved", "304 Not Modified", "400 Bad", "401 Unauthorized", "403 Forbidden", "404 Not Found", "405 x", "418 x", "425 x", "429 x",
		"500 x", "502 x", "503 x", "299 x", "599 x")
	b := new(strings.Builder)
	if draw(t, "hints", false, false, true) {
		b.WriteString(hints)
	}
	// Without a type, Go's server finds one out from what it has of the body by then.
	b.WriteString("HTTP/1.1 " + status + "\r\nConnection: close\r\nContent-Type: " + draw(t, "type", "application/json", "text/html") + "\r\n")
	for _, field := range rapid.SliceOfN(rapid.SampledFrom([]string{"X-Twice: 1", "x-twice: 2", "X-Empty:", "Set-Cookie: a=b", "Set-Cookie: c=d", "Cache-Status: origin; hit",
		"Server: a", "Via: 1.1 b", "Access-Control-Allow-Origin: *", "Vary: Origin", "ETag: \"a\"", "Age: 7", "Retry-After: 3", "Content-Encoding: gzip", "Alt-Svc: clear", "Date: Thu, 01 Jan 1970 00:00:00 GMT", "Content-Range: bytes 0-1/5",
		"Www-Authenticate: Basic", "Location: /", "Keep-Alive: timeout=1", "X-High: \u00fc"}), 0, 5).Draw(t, "answer's fields") {
		b.WriteString(field + "\r\n")
	}
	body := draw(t, "answer", "", "{}", `{"errcode":"M_UNKNOWN_TOKEN","error":"x"}`, `{"errcode":"M_LIMIT_EXCEEDED"}`, `{"user_id":"@a:b","device_id":"D","access_token":"syt_a_b_c"}`, "\x1f\x8b\x08", strings.Repeat("long ", 40_000))
	if strings.HasPrefix(status, "204") || strings.HasPrefix(status, "304") {
		return b.String() + "\r\n"
	}
	switch draw(t, "framing", "length", "chunks", "end") {
	case "length":
		fmt.Fprintf(b, "Content-Length: %d\r\n\r\n", len(body))
	case "chunks":
		b.WriteString("Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
		if body != "" && method != http.MethodHead {
			body = fmt.Sprintf("%x\r\n%s\r\n", len(body), body)
		}
		body += "0\r\nX-Sum: 7\r\n\r\n"
	default:
		b.WriteString("\r\n")
	}
	if method != http.MethodHead {
		b.WriteString(body)
	}
	return b.String()
}

func drawPassing(t *rapid.T) passing {
	p := passing{target: drawTarget(t)}
	p.method = draw(t, "method", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND", "get", "A-B", "TRACE")
	p.fields = rapid.SliceOfNDistinct(rapid.SampledFrom(drawnFields), 0, 6, func(f string) string { return f }).Draw(t, "fields")
	if draw(t, "has a body", true, false) {
		p.body = draw(t, "body", "{}", "", `{"device_id":"X"}`, `{"refresh_token":"r"}`, "not JSON", strings.Repeat("x", 100_000), "token=a&b")
		p.chunks = rapid.Bool().Draw(t, "chunks")
		p.trailer = p.chunks && rapid.Bool().Draw(t, "trailer")
		if p.body != "" && draw(t, "expects", false, false, true) {
			p.fields = append(p.fields, "Expect: 100-continue")
		}
	}
	if p.method == http.MethodPost && givesTokens(p.target) {
		// What gives tokens out goes without it, for its answer to be read.
		p.fields = slices.DeleteFunc(p.fields, func(field string) bool { return strings.HasPrefix(field, "Accept-Encoding") })
	}
	p.answer = drawAnswer(t, p.method)
	return p
}

func givesTokens(target string) bool {
	return slices.ContainsFunc([]string{"login", "register", "refresh", "token"}, func(word string) bool { return strings.Contains(target, word) })
}

// raw is the request as a client of HTTP/1 writes it.
func (p *passing) raw(version, host string) []byte {
	b := fmt.Appendf(nil, "%s %s %s\r\nHost: %s\r\n%s: 1\r\n", p.method, p.target, version, host, caseField)
	for _, field := range p.fields {
		b = append(b, field+"\r\n"...)
	}
	switch {
	case p.chunks && p.trailer:
		b = append(b, "Trailer: X-Asked\r\nTransfer-Encoding: chunked\r\n\r\n"...)
		return fmt.Appendf(b, "%x;ext=1\r\n%s\r\n0\r\nX-Asked: 8\r\n\r\n", len(p.body)+1, p.body+".")
	case p.chunks:
		b = append(b, "Transfer-Encoding: chunked\r\n\r\n"...)
		return fmt.Appendf(b, "%x\r\n%s\r\n0\r\n\r\n", len(p.body)+1, p.body+".")
	case p.body != "":
		return fmt.Appendf(b, "Content-Length: %d\r\n\r\n%s", len(p.body), p.body)
	}
	return append(b, "\r\n"...)
}

// exchange sends a request of HTTP/1 and returns all that comes back, as far as it isn't about time.
func (p *passing) exchange(t *rapid.T, url, version, host, more string) string {
	conn, err := wire.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() { _, _ = conn.Write(append(p.raw(version, host), more...)) }()
	var all strings.Builder
	for {
		resp, err := http.ReadResponse(conn.Answers, &http.Request{Method: p.method})
		if err != nil {
			return all.String() + "no answer"
		}
		body, err := io.ReadAll(resp.Body)
		if resp.StatusCode == http.StatusContinue {
			continue // from Go's server, the origin, or both: whoever is first
		}
		all.WriteString(describe(resp, body, err))
		if resp.StatusCode == http.StatusSwitchingProtocols {
			rest, _ := io.ReadAll(conn.Answers)
			return all.String() + string(rest)
		}
		if resp.StatusCode >= http.StatusOK {
			return all.String()
		}
	}
}

// describe says all of an answer but when it came.
func describe(resp *http.Response, body []byte, err error) string {
	b := fmt.Sprintf("%s %s %d %v %v\n", resp.Proto, resp.Status, resp.ContentLength, resp.TransferEncoding, resp.Close)
	if date := resp.Header.Get("Date"); date != "" && !strings.Contains(date, "1970") {
		resp.Header["Date"] = []string{"now"}
	}
	for _, name := range slices.Sorted(maps.Keys(resp.Header)) {
		b += fmt.Sprintf("%s: %q\n", name, resp.Header[name])
	}
	if err != nil {
		return b + "broke off\n" // somewhere
	}
	return b + fmt.Sprintf("%q %v\n", body, resp.Trailer)
}

// over sends the request over another protocol, by Go's clients, and returns all that comes back.
func (p *passing) over(t *rapid.T, url string) string {
	scheme, address, _ := strings.Cut(url, "://")
	var body io.Reader
	if p.body != "" {
		body = strings.NewReader(p.body)
	}
	ctx, cancel := context.WithTimeout(context.Background(), wire.Patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, p.method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	r.URL.Opaque, r.Host = "//"+address+p.target, "127.0.0.1"
	if p.chunks && body != nil {
		r.Body, r.ContentLength = io.NopCloser(io.MultiReader(body)), -1
	}
	if p.trailer && body != nil {
		r.Trailer = http.Header{"X-Asked": {"8"}}
	}
	r.Header.Set(caseField, "1")
	for _, field := range p.fields {
		if name, value, _ := strings.Cut(field, ":"); name != "Host" && httpguts.ValidHeaderFieldName(name) {
			r.Header.Add(name, strings.Trim(value, " "))
		}
	}
	interim := ""
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
		if code != http.StatusContinue {
			interim += fmt.Sprint(code, header)
		}
		return nil
	}}
	resp, err := http.DefaultTransport.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
	if err != nil {
		return interim + "no answer by " + scheme
	}
	defer resp.Body.Close()
	whole, err := io.ReadAll(resp.Body)
	return interim + describe(resp, whole, err)
}

// everything has all turned on that looks at what passes, and changes nothing of it.
var everything = "homeserver synapse\nlearn on\nbrown_out on\nrepeat_writes absorb\nover_limit coalesce\npreflight local"

// bareSite is a site without the module.
func bareSite(upstream string) string {
	config := siteWith("", upstream)
	a, b := strings.Index(config, "\tmatrix_presence {"), strings.Index(config, "\treverse_proxy")
	return config[:a] + config[b:]
}

// expectAlike compares what a request comes to by two ways.
func expectAlike(t *rapid.T, o *origin, answer string, ours, bare func() string) {
	var through, plain string
	seen := o.sees(answer, func() { through = ours() })
	want := o.sees(answer, func() { plain = bare() })
	if through != plain {
		t.Errorf("the client gets\n%s\nby bare Caddy\n%s", shorten(through), shorten(plain))
	}
	if !slices.Equal(seen, want) {
		t.Errorf("the homeserver gets\n%s\nby bare Caddy\n%s", shorten(strings.Join(seen, "\n")), shorten(strings.Join(want, "\n")))
	}
}

func shorten(s string) string {
	if len(s) > 3000 {
		return s[:3000] + "…"
	}
	return s
}

// Whatever isn't about presence gives the same, byte for byte, as by a Caddy without the module.
func TestWhatIsNotPresenceIsAsByBareCaddy(t *testing.T) {
	o := newOrigin(t)
	upstream := "http://" + o.Addr().String()
	start := func(config string) *sidecar.Sidecar {
		return suite.Sidecar(t)(sidecar.StartCaddyfileOver(t.Context(), protocol.HTTP1, config))
	}
	bare := start(bareSite(upstream))
	for name, ours := range map[string]*sidecar.Sidecar{"default": start(siteWith("", upstream)), "everything": start(siteWith(everything, upstream))} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				p := drawPassing(t)
				version, host := draw(t, "version", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"), draw(t, "host", "127.0.0.1", "127.0.0.1:1234")
				p.chunks, p.trailer = p.chunks && version == "HTTP/1.1", p.trailer && version == "HTTP/1.1"
				more := ""
				if p.method == "GET" && p.body == "" && draw(t, "upgrades", false, false, true) {
					p.fields = append(p.fields, "Connection: Upgrade, X-Twice", "Upgrade: "+draw(t, "upgrade", "websocket", "foo", "h2c"))
					p.answer = draw(t, "upgrade's answer", p.answer, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
					more = "ping."
				} else {
					p.fields = append(p.fields, draw(t, "connection", "Connection: close", "Connection: close, X-Twice"))
				}
				expectAlike(t, o, p.answer,
					func() string { return p.exchange(t, ours.URL, version, host, more) },
					func() string { return p.exchange(t, bare.URL, version, host, more) })
			})
		})
	}
}

// TestWhatIsNotPresenceIsAsByBareCaddyOver is the same over HTTP/2. Over HTTP/3 Go's client waits for ever for some of these,
// by bare Caddy too: what passes there, the tests over each protocol look at, and those of the world.
func TestWhatIsNotPresenceIsAsByBareCaddyOver(t *testing.T) {
	for _, over := range suite.BySize([]protocol.Protocol{protocol.HTTP2}, []protocol.Protocol{protocol.HTTP2, protocol.H2C}) {
		t.Run(string(over), func(t *testing.T) {
			o := newOrigin(t)
			upstream := "http://" + o.Addr().String()
			start := func(config string) *sidecar.Sidecar {
				return suite.Sidecar(t)(sidecar.StartCaddyfileOver(t.Context(), over, config))
			}
			bare, ours := start(bareSite(upstream)), start(siteWith(everything, upstream))
			rapid.Check(t, func(t *rapid.T) {
				p := drawPassing(t)
				expectAlike(t, o, p.answer, func() string { return p.over(t, ours.URL) }, func() string { return p.over(t, bare.URL) })
			})
		})
	}
}
