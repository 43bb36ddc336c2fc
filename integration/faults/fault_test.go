package faults

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net"
	"strings"
)

// fault is one way in which an upstream fails its clients, or only looks odd.
type fault struct {
	name string

	// One of these says what it does: nobody listens; something happens on each new
	// connection; each request gets this for an answer.
	down   bool
	greet  func(*net.TCPConn)
	strike func(*wire) bool

	// refuses tells that the answer is a definite no: what was asked for is not done.
	refuses bool

	// status is what Caddy alone makes of a read, 0 for a connection that ends without
	// an answer. With broken the answer breaks off after that.
	status int
	broken bool

	// kept is what becomes of the answer to a read, owner of that to whoami.
	kept  kept
	owner owner

	// nothing tells that Caddy alone makes an empty 200 of what was no answer. To a read
	// of ours it is none.
	nothing bool

	// large tells that an answer is too large to be shared, so that each
	// reader gets it as it comes.
	large bool

	// panics tells that Caddy's reverse_proxy itself panics when it passes such an
	// answer on. When we ask for ourselves that must go no further.
	panics bool
}

// kept is what becomes of the answer to a read.
type kept int

const (
	dropped kept = iota // the next reader asks again
	stored              // the next one gets it from memory
	marked              // noted as none that can be kept, so that the next ones pass
)

func (k kept) String() string { return [...]string{"no", "yes", "no, marked"}[k] }

// owner is what is made of an answer to whoami.
type owner int

const (
	unknown owner = iota // nobody knows: reads pass on, writes are refused
	learned              // it was right
	refused              // it is the homeserver's own error, and goes to the writer
)

// faults are all of them. What is sound in spite of its looks is there too: to
// refuse it would be a fault of ours.
var faults = []fault{
	// Connections.
	{name: "refused", down: true, status: 502},
	{name: "closed on accept", greet: func(*net.TCPConn) {}, status: 502},
	{name: "reset on accept", greet: func(c *net.TCPConn) { c.SetLinger(0) }, status: 502},
	{name: "another protocol greets first", greet: func(c *net.TCPConn) { c.Write([]byte("220 mail.example.com ESMTP\r\n")) }, status: 502},
	{name: "reset before the head", strike: (*wire).reset, status: 502},
	{name: "closed before the head", strike: says(""), status: 502},
	{name: "reset in the head", strike: func(w *wire) bool { w.send(w.head()[:30]); return w.reset() }, status: 502},
	{name: "closed in the head", strike: func(w *wire) bool { w.send(w.head()[:30]); return closes }, status: 502},
	{name: "closed after the head's fields", strike: func(w *wire) bool { w.send(w.head()); return closes }, status: 502},
	{name: "reset in the body", strike: half((*wire).reset), status: 200, broken: true},
	{name: "closed in the body", strike: half(func(*wire) bool { return closes }), status: 200, broken: true},
	{name: "closed before the body", strike: func(w *wire) bool { w.send(w.head() + w.length()); return closes }, status: 200, broken: true},
	{name: "closed after the answer", strike: func(w *wire) bool { w.answer(""); return closes }, status: 200, kept: stored, owner: learned},
	{name: "half-closed after the answer", strike: func(w *wire) bool {
		w.answer("")
		w.conn.CloseWrite()
		return w.hungUp()
	}, status: 200, kept: stored, owner: learned},
	{name: "Connection: close", strike: func(w *wire) bool { w.answer("Connection: close\r\n"); return closes }, status: 200, kept: stored, owner: learned},

	// Pace.
	{name: "head byte by byte", strike: func(w *wire) bool {
		w.slowly(w.head() + w.length())
		w.send(w.right)
		return keep
	}, status: 200, kept: stored, owner: learned},
	{name: "body byte by byte", strike: func(w *wire) bool {
		w.send(w.head() + w.length())
		w.slowly(w.right)
		return keep
	}, status: 200, kept: stored, owner: learned},

	// No HTTP.
	{name: "binary garbage", strike: says("\x00\xff\xfe\x01 what is this \x80\r\n\r\n"), status: 502},
	{name: "a body without a head", strike: func(w *wire) bool { w.send(w.right); return closes }, status: 502},
	{name: "a TLS alert", strike: says("\x15\x03\x01\x00\x02\x02\x46"), status: 502},
	{name: "HTTP/2 frames", strike: says("\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64\x00\x04\x00\x00\xff\xff"), status: 502},
	{name: "an HTTP/2 preface", strike: says("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), status: 502},
	{name: "a status of four digits", strike: says("HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"), status: 502},
	{name: "a status that is none", strike: says("HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n"), status: 502},
	{name: "a field without a colon", strike: says("HTTP/1.1 200 OK\r\nContent-Type application/json\r\n\r\n"), status: 502},
	{name: "a NUL in a field", strike: says("HTTP/1.1 200 OK\r\nX-A\x00: b\r\nContent-Length: 0\r\n\r\n"), status: 502},
	{name: "a folded field", strike: adds("X-Folded: one\r\n  two\r\n"), status: 200, kept: stored, owner: learned},
	{name: "bare LF", strike: func(w *wire) bool {
		w.send(strings.ReplaceAll(w.head()+w.length(), "\r\n", "\n") + w.right)
		return keep
	}, status: 200, kept: stored, owner: learned},

	// Lengths.
	{name: "longer than declared", strike: func(w *wire) bool {
		w.answer("")
		w.send("and more")
		return w.hungUp()
	}, status: 200, kept: stored, owner: learned},
	{name: "a second answer that nobody asked for", strike: func(w *wire) bool {
		second := `{"presence":"online","status_msg":"somebody else's","user_id":"@mallory:example.com"}`
		w.send(fmt.Sprintf("%s%s%s%sContent-Length: %d\r\n\r\n%s", w.head(), w.length(), w.right, w.head(), len(second), second))
		return w.hungUp()
	}, status: 200, kept: stored, owner: learned},
	{name: "Content-Length twice, the same", strike: func(w *wire) bool {
		w.answer(fmt.Sprintf("Content-Length: %d\r\n", len(w.right)))
		return keep
	}, status: 200, kept: stored, owner: learned},
	{name: "Content-Length twice, different", strike: adds("Content-Length: 1\r\n"), status: 502},
	{name: "Content-Length below 0", strike: says("HTTP/1.1 200 OK\r\n" + isJSON + "Content-Length: -1\r\n\r\n{}"), status: 502},
	{name: "Content-Length that is no number", strike: says("HTTP/1.1 200 OK\r\n" + isJSON + "Content-Length: 2 bytes\r\n\r\n{}"), status: 502},
	{name: "Transfer-Encoding and Content-Length", strike: func(w *wire) bool {
		w.send(w.head() + isChunked + "Content-Length: 3\r\n\r\n" + chunk(w.right) + "0\r\n\r\n")
		return keep
	}, status: 200, kept: stored, owner: learned},
	{name: "an unknown Transfer-Encoding", strike: says("HTTP/1.1 200 OK\r\n" + isJSON + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), status: 502},
	{name: "no length, until the end", strike: func(w *wire) bool { w.send(w.head() + "\r\n" + w.right); return closes }, status: 200, kept: stored, owner: learned},
	{name: "no length, cut off", strike: func(w *wire) bool { w.send(w.head() + "\r\n" + w.right[:len(w.right)-1]); return closes }, status: 200, kept: marked},

	// Chunks.
	{name: "chunked", strike: chunks(func(w *wire) string { return chunk(w.right[:1]) + chunk(w.right[1:]) + "0\r\n\r\n" }), status: 200, kept: stored, owner: learned},
	{name: "chunks of a byte", strike: chunks(func(w *wire) (text string) {
		for i := range len(w.right) {
			text += chunk(w.right[i : i+1])
		}
		return text + "0\r\n\r\n"
	}), status: 200, kept: stored, owner: learned},
	{name: "chunked with trailers", strike: func(w *wire) bool {
		w.send(w.head() + isChunked + "Trailer: X-Sum\r\n\r\n" + chunk(w.right) + "0\r\nX-Sum: 1\r\n\r\n")
		return keep
	}, status: 200, kept: stored, owner: learned},
	{name: "chunked with trailers nobody announced", strike: chunks(func(w *wire) string {
		return chunk(w.right) + "0\r\nX-Sum: 1\r\nContent-Type: text/html\r\n\r\n"
	}), status: 200, kept: stored, owner: learned},
	{name: "a bad chunk size", strike: chunks(func(w *wire) string { return chunk(w.right) + "ZZ\r\nmore\r\n0\r\n\r\n" }), status: 200, broken: true},
	{name: "a chunk size above all bounds", strike: chunks(func(w *wire) string { return chunk(w.right) + strings.Repeat("F", 17) + "\r\n" }), status: 200, broken: true},
	{name: "a chunk without its end", strike: chunks(func(w *wire) string { return fmt.Sprintf("%x\r\n%sXX0\r\n\r\n", len(w.right), w.right) }), status: 200, broken: true},
	{name: "chunked without a last chunk", strike: func(w *wire) bool { w.send(w.head() + isChunked + "\r\n" + chunk(w.right)); return closes }, status: 200, broken: true},

	// Versions and interim answers.
	{name: "HTTP/1.0 with a length", strike: func(w *wire) bool {
		w.send(strings.Replace(w.head(), "HTTP/1.1", "HTTP/1.0", 1) + w.length() + w.right)
		return closes
	}, status: 200, kept: stored, owner: learned},
	{name: "HTTP/1.0 until the end", strike: func(w *wire) bool {
		w.send(strings.Replace(w.head(), "HTTP/1.1", "HTTP/1.0", 1) + "\r\n" + w.right)
		return closes
	}, status: 200, kept: stored, owner: learned},
	{name: "100 first", strike: interim("HTTP/1.1 100 Continue\r\n\r\n"), status: 200, kept: stored, owner: learned},
	{name: "103 first", strike: interim("HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"), status: 200, kept: stored, owner: learned},
	{name: "a hundred times 102 first", strike: interim(strings.Repeat("HTTP/1.1 102 Processing\r\nX-A: b\r\n\r\n", 100)), status: 200, kept: stored, owner: learned},
	{name: "103 and then nothing", strike: says("HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"), status: 502},
	{name: "101 that nobody asked for", strike: func(w *wire) bool {
		w.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + w.right)
		return closes
	}, status: 200, nothing: true},

	// Heads.
	{name: "a field of 1 MB", strike: adds("X-Large: " + strings.Repeat("x", 1<<20) + "\r\n"), status: 200, kept: stored, owner: learned},
	// A body above 4 KiB was not kept, and a field of any length was: memory was bounded by
	// what homeservers send, or by whoever's Origin a proxy repeats.
	{name: "a field of 1 MB that is kept", strike: adds("Content-Security-Policy: " + strings.Repeat("x", 1<<20) + "\r\n"), status: 200, kept: marked, owner: learned},
	{name: "1,000 fields", strike: adds(numbered("X-Field-", 1000)), status: 200, kept: stored, owner: learned},
	{name: "1,000 fields that are kept", strike: adds(numbered("Access-Control-X-", 1000)), status: 200, kept: marked, owner: learned},
	{name: "a head above Caddy's bound", strike: func(w *wire) bool {
		w.send(w.head())
		for err := error(nil); err == nil; {
			err = w.send("X-Large: " + strings.Repeat("x", 64<<10) + "\r\n")
		}
		return closes
	}, status: 502},
	{name: "Vary: *", strike: adds("Vary: *\r\n"), status: 200, kept: marked, owner: learned},

	// Bodies.
	{name: "200 with HTML", strike: replies("200 OK", isHTML, "<html>hello</html>"), status: 200},
	{name: "200 with HTML that is called JSON", strike: replies("200 OK", isJSON, "<html>hello</html>"), status: 200, kept: marked},
	{name: "200 with another object", strike: replies("200 OK", isJSON, `{"versions":["v1.1"]}`), status: 200, kept: marked},
	{name: "200 with an array", strike: replies("200 OK", isJSON, `[]`), status: 200, kept: marked},
	{name: "200 with null", strike: replies("200 OK", isJSON, `null`), status: 200, kept: marked},
	{name: "200 with a presence that is a number", strike: replies("200 OK", isJSON, `{"presence":1,"user_id":1}`), status: 200, kept: marked},
	{name: "200 with a presence given twice", strike: replies("200 OK", isJSON, `{"presence":"online","presence":"offline"}`), status: 200, kept: marked},
	{name: "200 with a Matrix error", strike: replies("200 OK", isJSON, `{"errcode":"M_UNKNOWN","error":"oops"}`), status: 200, kept: marked},
	{name: "200 with brackets to the bottom", strike: replies("200 OK", isJSON, strings.Repeat("[", 60<<10)), status: 200, kept: marked},
	{name: "200 that is empty", strike: replies("200 OK", "", ""), status: 200},
	{name: "200 that is empty and called JSON", strike: replies("200 OK", isJSON, ""), status: 200, kept: marked},
	{name: "a large presence", strike: large(""), status: 200, kept: marked, large: true},
	{name: "a large presence, cut off", strike: func(w *wire) bool {
		w.send(w.head() + "Content-Length: 1000000\r\n\r\n" + strings.Repeat("x", 200_000))
		return closes
	}, status: 200, broken: true, kept: marked, large: true},
	{name: "an endless body", strike: goesOn("", `{"presence":`), status: 200, kept: marked, large: true},
	{name: "endless chunks", strike: goesOn(isChunked, chunk(strings.Repeat(" ", 1000))), status: 200, kept: marked, large: true},
	// As an answer to whoami this was taken for whole: what came in the first 64 KiB was
	// an object and white space.
	{name: "an endless body after the right one", strike: func(w *wire) bool {
		w.send(w.head() + "\r\n" + w.right)
		for err := error(nil); err == nil; {
			err = w.send(strings.Repeat(" ", 16<<10))
		}
		return closes
	}, status: 200, kept: marked, large: true},

	// Encodings.
	{name: "gzip", strike: func(w *wire) bool { return encoded("gzip", zip(w.right))(w) }, status: 200, kept: stored, owner: learned},
	{name: "gzip with a wrong sum", strike: func(w *wire) bool {
		z := zip(w.right)
		return encoded("gzip", z[:len(z)-8]+"\x00\x00\x00\x00\x00\x00\x00\x00")(w)
	}, status: 200, broken: true},
	{name: "gzip, cut off", strike: func(w *wire) bool { z := zip(w.right); return encoded("gzip", z[:len(z)/2])(w) }, status: 200, broken: true},
	{name: "gzip that is none", strike: func(w *wire) bool { return encoded("gzip", w.right)(w) }, status: 200, broken: true},
	{name: "a gzip bomb", strike: encoded("gzip", bomb), status: 200, kept: marked, large: true},
	{name: "br that nobody asked for", strike: func(w *wire) bool { return encoded("br", w.right)(w) }, status: 200},

	// Statuses.
	{name: "204", strike: says("HTTP/1.1 204 No Content\r\n\r\n"), status: 204},
	{name: "304 that nobody asked for", strike: says("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n"), status: 304, refuses: true},
	{name: "206 that nobody asked for", strike: replies("206 Partial Content", isJSON+"Content-Range: bytes 0-1/9\r\n", `{"presence":"online"}`), status: 206},
	{name: "302", strike: replies("302 Found", "Location: /elsewhere\r\n", ""), status: 302, refuses: true},
	{name: "401 of another kind", strike: replies("401 Unauthorized", isJSON, `{"errcode":"M_USER_LOCKED","error":"locked","soft_logout":true}`), status: 401, refuses: true, owner: refused},
	{name: "401 of a proxy", strike: replies("401 Unauthorized", "WWW-Authenticate: Basic\r\n"+isHTML, "<html>"), status: 401, refuses: true},
	{name: "403 of a firewall", strike: replies("403 Forbidden", isHTML, "<html>"), status: 403, refuses: true},
	{name: "404 of another route", strike: replies("404 Not Found", isJSON, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`), status: 404, refuses: true},
	{name: "429 of the homeserver", strike: replies("429 Too Many Requests", isJSON+"Retry-After: 2\r\n", `{"errcode":"M_LIMIT_EXCEEDED","error":"slow down","retry_after_ms":1500}`), status: 429, refuses: true, owner: refused},
	{name: "500 with a Matrix error", strike: replies("500 Internal Server Error", isJSON, `{"errcode":"M_UNKNOWN","error":"Internal server error"}`), status: 500, owner: refused},
	{name: "500 without one", strike: replies("500 Internal Server Error", isText, "oops"), status: 500},
	{name: "502 of a proxy", strike: replies("502 Bad Gateway", isHTML, "<html>"), status: 502},
	{name: "503 with a Matrix error", strike: replies("503 Service Unavailable", isJSON+"Retry-After: 7\r\n", `{"errcode":"M_UNKNOWN","error":"introspection failed"}`), status: 503, owner: refused},
	{name: "503 that is empty", strike: replies("503 Service Unavailable", "Retry-After: 7\r\n", ""), status: 503},
	{name: "504 of a proxy", strike: replies("504 Gateway Timeout", isHTML, "<html>"), status: 504},
	{name: "status 999", strike: func(w *wire) bool { return replies("999 Odd", isJSON, w.right)(w) }, status: 999},
	// net/http reads such a status and panics when somebody writes it. What collects
	// answers to our own requests took it for an interim one, and so the body for that of
	// a 200: a presence was kept, a user was believed.
	{name: "status 099", strike: func(w *wire) bool { return replies("099 Odd", isJSON, w.right)(w) }, status: 0, panics: true},
	{name: "status 000", strike: func(w *wire) bool { return replies("000 Odd", isJSON, w.right)(w) }, status: 0, panics: true},
}

// half sends one half of the right answer's body and then ends by that.
func half(end func(*wire) bool) func(*wire) bool {
	return func(w *wire) bool {
		w.send(w.head() + w.length() + w.right[:len(w.right)/2])
		return end(w)
	}
}

func chunks(body func(*wire) string) func(*wire) bool {
	return func(w *wire) bool {
		w.send(w.head() + isChunked + "\r\n" + body(w))
		return keep
	}
}

func interim(text string) func(*wire) bool {
	return func(w *wire) bool {
		w.send(text)
		w.answer("")
		return keep
	}
}

func numbered(prefix string, n int) string {
	var fields strings.Builder
	for i := range n {
		fmt.Fprintf(&fields, "%s%d: x\r\n", prefix, i)
	}
	return fields.String()
}

// large gives a presence of 100 KB.
func large(fields string) func(*wire) bool {
	return replies("200 OK", isJSON+fields, `{"presence":"online","status_msg":"`+strings.Repeat("x", 100_000)+`"}`)
}

// encoded gives a body that is said to be in that encoding.
func encoded(encoding, body string) func(*wire) bool {
	return replies("200 OK", isJSON+"Content-Encoding: "+encoding+"\r\n", body)
}

func zip(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write([]byte(text))
	z.Close()
	return b.String()
}

// bomb is 8 MB in 8 KB.
var bomb = zip(strings.Repeat(" ", 8<<20))
