package faults

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
)

// wire is a request that has come, and the connection on which it is to be answered.
type wire struct {
	conn    *net.TCPConn
	in      *bufio.Reader
	request *http.Request
	reused  bool // it isn't the connection's first request

	status int    // of the right answer
	right  string // its body
}

// The results of a strike.
const (
	keep   = true  // the connection is fit for another request
	closes = false // it is to be closed, unless that has been done
)

func (w *wire) send(text string) error {
	_, err := io.WriteString(w.conn, text)
	return err
}

// head is the right answer's head without its end, for more fields.
func (w *wire) head() string {
	return fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nAccess-Control-Allow-Origin: *\r\n",
		w.status, http.StatusText(w.status))
}

// answer gives the right answer, with further fields.
func (w *wire) answer(fields string) {
	w.send(w.head() + fields + w.length() + w.right)
}

// length is the right answer's length, and the end of its head.
func (w *wire) length() string { return fmt.Sprintf("Content-Length: %d\r\n\r\n", len(w.right)) }

// reset ends the connection with a TCP reset.
func (w *wire) reset() bool {
	w.conn.SetLinger(0)
	w.conn.Close()
	return closes
}

// hungUp waits until the other side closes. If it never does, the test hangs.
func (w *wire) hungUp() bool {
	io.Copy(io.Discard, w.in)
	return closes
}

// slowly sends byte by byte, each a packet of its own. For what takes so long that
// somebody loses patience, see [TestHangs].
func (w *wire) slowly(text string) {
	for i := range len(text) {
		if w.send(text[i:i+1]) != nil {
			return
		}
		runtime.Gosched()
	}
}

// The strikes that several faults are made of.

// says answers with these bytes and closes.
func says(text string) func(*wire) bool {
	return func(w *wire) bool {
		w.send(text)
		return closes
	}
}

// replies answers with a status line, fields and a body of that length.
func replies(status, fields, body string) func(*wire) bool {
	return func(w *wire) bool {
		w.send(fmt.Sprintf("HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s", status, fields, len(body), body))
		return keep
	}
}

// adds gives the right answer with further fields.
func adds(fields string) func(*wire) bool {
	return func(w *wire) bool {
		w.answer(fields)
		return keep
	}
}

// goesOn sends a head and then a text over and over until the other side has had
// enough.
func goesOn(fields, text string) func(*wire) bool {
	text = strings.Repeat(text, 1+(16<<10)/len(text))
	return func(w *wire) bool {
		for err := w.send(w.head() + fields + "\r\n"); err == nil; {
			err = w.send(text)
		}
		return closes
	}
}

// chunk is a text as one chunk.
func chunk(text string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(text), text) }

const (
	isJSON    = "Content-Type: application/json\r\n"
	isHTML    = "Content-Type: text/html\r\n"
	isText    = "Content-Type: text/plain\r\n"
	isChunked = "Transfer-Encoding: chunked\r\n"
)
