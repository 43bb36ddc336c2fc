package attack_test

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/wire"
)

// The tests in this file send what two servers might take apart differently. Each
// carries a write of bob's presence with alice's token, which is refused as soon as it
// is seen as a request. It must never be seen by the homeserver: not as a request,
// not in the body of one that nobody has judged, and not in the rest of a connection.

// smuggled is the request that is to get past.
var smuggled = string(wire.RequestWith(online(marker), "PUT", presencePath(bob), aliceHeader))

var aliceHeader = bearer(tokenOf("alice", 0))

// The requests that it is hidden in: a write that is judged, a read from memory, and
// one that passes through.
const (
	ownWrite = "PUT"
	hit      = "GET"
	through  = "POST"
)

// carrier writes a request of one of the three up to the end of the fields, which are
// given as lines of their own, line ends included.
func carrier(what, lines string) string {
	target := map[string]string{ownWrite: presencePath(alice), hit: presencePath(bob), through: "/_matrix/client/v3/createRoom"}[what]
	return what + " " + target + " HTTP/1.1\r\nHost: 127.0.0.1\r\n" + aliceHeader + "\r\n" + lines
}

// smuggling is one shape, as it is hidden in each of the carriers.
type smuggling struct {
	name string
	raw  func(carrier string) string
}

// shape is one in which lines are among the fields, and body comes after them.
func shape(name, lines, body string) smuggling {
	return smuggling{name, func(what string) string { return carrier(what, lines+"\r\n") + body }}
}

// shapes are all that are tried.
func shapes() []smuggling {
	write := online("x")
	length := fmt.Sprintf("Content-Length: %d\r\n", len(write))
	const chunkedField = "Transfer-Encoding: chunked\r\n"
	chunks := chunked(write, 10)
	all := []smuggling{
		shape("a request after the body", length, write+smuggled),
		shape("a request after the chunks", chunkedField, chunks+smuggled),
		shape("length and chunked, a request after the chunks", fmt.Sprintf("Content-Length: %d\r\n", len(chunks)+len(smuggled))+chunkedField, chunks+smuggled),
		shape("chunked and length, a request after the chunks", chunkedField+fmt.Sprintf("Content-Length: %d\r\n", len(chunks)+len(smuggled)), chunks+smuggled),
		shape("length and chunked, a request in a chunk", length+chunkedField, chunked(write+smuggled, len(write))),
		shape("a length of 0 and chunked", "Content-Length: 0\r\n"+chunkedField, chunks+smuggled),
		shape("a request in the body of the length", fmt.Sprintf("Content-Length: %d\r\n", len(smuggled)), smuggled),
		shape("a request in a chunk", chunkedField, chunked(smuggled, 1_000)),
		shape("no body, a request", "", smuggled),
		shape("a line end and a request", length, write+"\r\n"+smuggled),
		shape("expecting 100, a request", "Expect: 100-continue\r\n"+length, write+smuggled),
		shape("expecting 100, a request in the body", fmt.Sprintf("Expect: 100-continue\r\nContent-Length: %d\r\n", len(smuggled)), smuggled),
		shape("expecting something else", "Expect: 200-ok\r\n"+length, write+smuggled),
		shape("a body larger than is taken", fmt.Sprintf("Content-Length: %d\r\n", 1_000*len(smuggled)), strings.Repeat(smuggled, 1_000)),
		shape("a body that ends early", "Content-Length: 1000000\r\n", write+smuggled),
	}
	// Content-Lengths that are none, or two.
	n := len(write)
	for _, value := range []string{
		fmt.Sprintf("%d, %d", n, n), fmt.Sprintf("%d,%d", n, n+len(smuggled)), fmt.Sprintf("+%d", n), fmt.Sprintf("-%d", n),
		fmt.Sprintf("0x%x", n), fmt.Sprintf("%d;", n), fmt.Sprintf("%d.0", n), fmt.Sprintf("0%d", n), fmt.Sprintf("%d %d", n, n),
		"", "99999999999999999999", "18446744073709551615", "9223372036854775808", "1e1", "१", fmt.Sprintf("%d\x00", n), fmt.Sprintf("%d\v", n),
		fmt.Sprintf("\"%d\"", n), "NaN",
	} {
		all = append(all, shape(fmt.Sprintf("Content-Length: %q", value), "Content-Length: "+value+"\r\n", write+smuggled))
	}
	for _, lines := range []string{
		length + length,
		length + fmt.Sprintf("Content-Length: %d\r\n", n+len(smuggled)),
		fmt.Sprintf("Content-Length: %d\r\n", n+len(smuggled)) + length,
		"Content-Length: 0\r\n" + length,
		"content-length: 0\r\nContent-LENGTH: " + fmt.Sprint(n) + "\r\n",
		"Content-Length : " + fmt.Sprint(n) + "\r\n",
		"Content-Length\t: " + fmt.Sprint(n) + "\r\n",
		" Content-Length: " + fmt.Sprint(n) + "\r\n",
		"Content-Length:" + fmt.Sprint(n) + "\r\n",
		"Content-Length:\t" + fmt.Sprint(n) + "\t\r\n",
		"Content-Length:\r\n " + fmt.Sprint(n) + "\r\n",
		"Content-Length: " + fmt.Sprint(n) + "\r\n \r\n",
		"Content-Length: " + fmt.Sprint(n) + "\r\n 0\r\n",
		"X-A: y\r\n Content-Length: 0\r\n" + length,
		"X-A: y\r\n\tTransfer-Encoding: chunked\r\n" + length,
		"Content_Length: 0\r\n" + length,
		"Content-Length: " + fmt.Sprint(n) + "\n",
		"Content-Length: " + fmt.Sprint(n) + "\r",
		"Content-Length: " + fmt.Sprint(n) + "\r\r\n",
		"X-A: y\rContent-Length: 0\r\n" + length,
		"X-A: y\nContent-Length: " + fmt.Sprint(n) + "\r\n",
		"X-A: y\x00\r\n" + length,
		"X-A\x00: y\r\n" + length,
		"X A: y\r\n" + length,
		": y\r\n" + length,
		"no colon\r\n" + length,
		"X-A: y\r\nGET / HTTP/1.1\r\n" + length,
		"\r\n" + length,
		"\n" + length,
	} {
		all = append(all, shape(fmt.Sprintf("%q", lines), lines, write+smuggled))
	}
	// Transfer-Encodings that are none, or another, or two.
	for _, lines := range []string{
		"Transfer-Encoding: Chunked\r\n",
		"transfer-encoding: chunked\r\n",
		"Transfer-Encoding:chunked\r\n",
		"Transfer-Encoding:\tchunked\r\n",
		"Transfer-Encoding: chunked \r\n",
		"Transfer-Encoding: chunked\t\r\n",
		"Transfer-Encoding: \x0bchunked\r\n",
		"Transfer-Encoding: chunked\x00\r\n",
		"Transfer-Encoding : chunked\r\n",
		"Transfer-Encoding\t: chunked\r\n",
		" Transfer-Encoding: chunked\r\n",
		"Transfer-Encoding:\r\n chunked\r\n",
		"Transfer-Encoding: chunked\r\n \r\n",
		"Transfer-Encoding\r\n: chunked\r\n",
		"Transfer-Encoding: chunked\n",
		"Transfer-Encoding: xchunked\r\n",
		"Transfer-Encoding: chunkedx\r\n",
		"Transfer-Encoding: chunked, identity\r\n",
		"Transfer-Encoding: identity, chunked\r\n",
		"Transfer-Encoding: gzip, chunked\r\n",
		"Transfer-Encoding: chunked, chunked\r\n",
		"Transfer-Encoding: chunked,\r\n",
		"Transfer-Encoding: , chunked\r\n",
		"Transfer-Encoding: chunked; q=1\r\n",
		"Transfer-Encoding: \"chunked\"\r\n",
		"Transfer-Encoding: identity\r\n",
		"Transfer-Encoding: gzip\r\n",
		"Transfer-Encoding:\r\n",
		"Transfer-Encoding: cow\r\n",
		"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
		"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n",
		"Transfer-Encoding: cow\r\nTransfer-Encoding: chunked\r\n",
		"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
		"Transfer_Encoding: chunked\r\n",
		"TE: chunked\r\n",
		"X-A: y\r\n Transfer-Encoding: chunked\r\n",
		"X-A: y\nTransfer-Encoding: chunked\r\n",
		"X-A: y\rTransfer-Encoding: chunked\r\n",
		"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
		"Connection: Content-Length\r\nTransfer-Encoding: chunked\r\n",
	} {
		all = append(all,
			shape(fmt.Sprintf("%q", lines), lines, chunks+smuggled),
			shape(fmt.Sprintf("%q and a length", lines), fmt.Sprintf("Content-Length: %d\r\n", len(chunks))+lines, chunks+smuggled),
		)
	}
	// Chunks that are read differently.
	size := fmt.Sprintf("%x", len(write))
	last := "0\r\n\r\n"
	for _, body := range []string{
		size + ";a=b\r\n" + write + "\r\n" + last,
		size + ";a=\"\r\n" + write + "\r\n" + last,
		size + ";" + strings.Repeat("a", 10_000) + "\r\n" + write + "\r\n" + last,
		size + ";a\n" + write + "\r\n" + last,
		size + ";\r" + write + "\r\n" + last,
		size + " ;a=b\r\n" + write + "\r\n" + last,
		size + " \r\n" + write + "\r\n" + last,
		size + "\n" + write + "\n0\n\n",
		size + "\r\n" + write + "\n" + last,
		size + "\r\n" + write + last,
		size + "\r\n" + write + "xx" + last,
		"0x" + size + "\r\n" + write + "\r\n" + last,
		"+" + size + "\r\n" + write + "\r\n" + last,
		"-" + size + "\r\n" + write + "\r\n" + last,
		"000" + size + "\r\n" + write + "\r\n" + last,
		strings.Repeat("0", 100) + size + "\r\n" + write + "\r\n" + last,
		"1" + strings.Repeat("0", 16) + size + "\r\n" + write + "\r\n" + last,
		"ffffffffffffffff\r\n" + write + "\r\n" + last,
		"7fffffffffffffff\r\n" + write + "\r\n" + last,
		"\r\n" + size + "\r\n" + write + "\r\n" + last,
		size + "\r\n" + write + "\r\n0\r\n",
		size + "\r\n" + write + "\r\n0;a=b\r\n\r\n",
		size + "\r\n" + write + "\r\n00\r\n\r\n",
		size + "\r\n" + write + "\r\n0\r\nX-A: y\r\n\r\n",
		size + "\r\n" + write + "\r\n0\r\nContent-Length: 5\r\n\r\n",
		size + "\r\n" + write + "\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
		size + "\r\n" + write + "\r\n0\r\nX-A: y\r\n z\r\n\r\n",
		size + "\r\n" + write + "\r\n0\r\nAuthorization: Bearer known.bob.0\r\n\r\n",
		size + "\r\n" + write + "\r\n0\r\nHost: elsewhere\r\n\r\n",
		size + "\r\n" + write + "\r\n0\r\nno colon\r\n\r\n",
		size + "\r\n" + write + "\r\n0\r\n" + strings.Repeat("X-A: y\r\n", 10_000) + "\r\n",
	} {
		all = append(all,
			shape(fmt.Sprintf("chunks %.40q", body), chunkedField, body+smuggled),
			shape(fmt.Sprintf("chunks %.40q with a trailer announced", body), "Trailer: X-A\r\n"+chunkedField, body+smuggled),
			shape(fmt.Sprintf("chunks %.40q with a token and a host announced", body), "Trailer: Authorization, Host\r\n"+chunkedField, body+smuggled),
			shape(fmt.Sprintf("chunks %.40q with a length announced", body), "Trailer: X-A, Content-Length, Transfer-Encoding\r\n"+chunkedField, body+smuggled),
		)
	}
	// Versions, and what asks for another protocol.
	for _, version := range []string{"HTTP/1.0", "HTTP/1.1 ", "HTTP/1.2", "HTTP/0.9", "HTTP/2.0", "HTTP/9.9", "http/1.1", "HTTP/1", "HTTP/01.1", "HTTP/1.10", "", "X"} {
		for _, lines := range []string{length, chunkedField, "Connection: keep-alive\r\n" + chunkedField, length + chunkedField} {
			body := write
			if strings.Contains(lines, "chunked") {
				body = chunks
			}
			all = append(all, smuggling{fmt.Sprintf("version %q and %q", version, lines), func(what string) string {
				return strings.Replace(carrier(what, lines+"\r\n"), " HTTP/1.1", " "+version, 1) + body + smuggled
			}})
		}
	}
	for _, lines := range []string{
		"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
		"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
		"Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n",
		"Connection: keep-alive\r\nKeep-Alive: timeout=1000\r\nProxy-Connection: keep-alive\r\n",
		"Connection: close\r\n",
		"X-HTTP-Method-Override: PUT\r\nX-HTTP-Method: PUT\r\nX-Method-Override: PUT\r\n",
		"X-Original-URL: " + presencePath(bob) + "\r\nX-Rewrite-URL: " + presencePath(bob) + "\r\n",
		"Content-Encoding: chunked\r\n",
		"Max-Forwards: 0\r\n",
	} {
		all = append(all, shape(fmt.Sprintf("%q", lines), lines+length, write+smuggled))
	}
	for _, separator := range []string{"\n", "\r", "\x00", "\r\n\r\n", " ", "\t", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"} {
		all = append(all, shape(fmt.Sprintf("%q before the request", separator), length, write+separator+smuggled))
	}
	all = append(all,
		smuggling{"bare line feeds", func(what string) string {
			return strings.ReplaceAll(carrier(what, length+"\r\n"), "\r\n", "\n") + write + strings.ReplaceAll(smuggled, "\r\n", "\n")
		}},
		smuggling{"bare carriage returns", func(what string) string {
			return strings.ReplaceAll(carrier(what, length+"\r\n"), "\r\n", "\r") + write + smuggled
		}},
		smuggling{"line ends before the request line", func(what string) string {
			return "\r\n\r\n" + carrier(what, length+"\r\n") + write + smuggled
		}},
	)
	return all
}

// mayPass tells that the homeserver may see a request: it is a carrier, with a body that
// was judged or that is nobody's to judge, or one of ours.
func mayPass(seen seen) bool {
	write := online("x")
	switch seen.String() {
	case "GET /_matrix/client/v3/account/whoami", "GET /_matrix/client/versions", "PRI *":
		return seen.body == ""
	case "PUT " + presencePath(alice):
		// Whatever is in the body of a write: it was judged.
		return seen.body == write || strings.HasPrefix(seen.body, `{"presence":"online"`)
	case "GET " + presencePath(bob), "POST /_matrix/client/v3/createRoom":
		// All that the carrier said is its body, with a request in it or not.
		return true
	}
	return false
}

// TestNothingIsSmuggled sends all the shapes in all the carriers.
func TestNothingIsSmuggled(t *testing.T) {
	hs := newHomeserver(t, true)
	s := newProxy(t, hs, "--write-limit", "off", "--read-limit", "off")
	warm := func() {
		w := mustDial(t, s.URL)
		defer w.Close()
		if r, err := w.Ask(wire.Request("GET", presencePath(bob), aliceHeader)); err != nil || r.Status != http.StatusOK {
			t.Fatal(r, err)
		}
	}
	tried, answers := 0, make(map[int]int)
	for _, shape := range shapes() {
		for _, what := range []string{ownWrite, hit, through} {
			warm()
			hs.takeSeen()
			tried++
			replies := converse(t, s.URL, shape.raw(what))
			for _, r := range replies {
				answers[r.Status]++
			}
			asked := 0
			for _, seen := range hs.takeSeen() {
				if !mayPass(seen) {
					t.Errorf("%s, in a %s: the homeserver was asked %s with the body %.300q", shape.name, what, seen, seen.body)
				}
				if seen.method != "GET" {
					asked++
				}
			}
			// One answer, one judgement: nothing passes that has not got its own.
			if asked > len(replies) {
				t.Errorf("%s, in a %s: %d requests passed, %d were answered (%s)", shape.name, what, asked, len(replies), replies)
			}
		}
	}
	if status, ok := hs.wrote(bob); ok {
		t.Errorf("bob's status was written: %q", status)
	}
	expectPlain(t, hs)
	var parts []string
	for _, status := range slices.Sorted(maps.Keys(answers)) {
		parts = append(parts, fmt.Sprintf("%d× %d", answers[status], status))
	}
	figures.note("smuggling: %d shapes in %d requests of their own; answers: %s; requests that came to the homeserver unjudged or not plain: 0 allowed",
		tried/3, tried, strings.Join(parts, ", "))
}
