package attack_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// recording keeps what comes over each connection, byte for byte.
type recording struct {
	mu          sync.Mutex // guards connections and what they hold
	connections []*bytes.Buffer
}

type recordingListener struct {
	net.Listener
	recording *recording
}

func (l recordingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.recording.mu.Lock()
	defer l.recording.mu.Unlock()
	buffer := new(bytes.Buffer)
	l.recording.connections = append(l.recording.connections, buffer)
	return &recordedConn{conn, l.recording, buffer}, nil
}

type recordedConn struct {
	net.Conn
	recording *recording
	buffer    *bytes.Buffer
}

func (c *recordedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.recording.mu.Lock()
	defer c.recording.mu.Unlock()
	c.buffer.Write(p[:n])
	return n, err
}

// requests reads all that was recorded as a sequence of requests. An error says where
// a connection holds anything that another parser might read otherwise.
func (r *recording) requests() ([]plainRequest, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []plainRequest
	for _, buffer := range r.connections {
		text := buffer.Bytes()
		for len(text) > 0 {
			request, rest, err := parsePlain(text)
			if err != nil {
				return nil, fmt.Errorf("%w in %q", err, text)
			}
			all = append(all, request)
			text = rest
		}
	}
	return all, nil
}

// plainRequest is a request that is written in the one way that all parsers agree
// about. One whose client went away in the middle of its body is broken off: no parser
// takes it for a whole one, and nothing follows it.
type plainRequest struct {
	brokenOff bool
	line      string
	fields    []string
	body      []byte
	trailer   []string
}

var (
	plainLine   = regexp.MustCompile(`^([A-Za-z-]+ (/[!-~]*|\*)|CONNECT [!-~]+:[0-9]+) HTTP/1\.1$`)
	plainField  = regexp.MustCompile("^([!#$%&'*+.^_`|~0-9A-Za-z-]+):( [^\x00-\x20\x7f]([^\x00-\x08\x0a-\x1f\x7f]*[^\x00-\x20\x7f])?| ?)$")
	plainLength = regexp.MustCompile(`^(0|[1-9][0-9]*)$`)
	plainChunk  = regexp.MustCompile(`^[0-9a-f]+$`)
)

// parsePlain takes one request from the beginning of text. What it accepts is far
// less than what HTTP allows: line ends are CR LF, there is one space where there is
// any, nothing is folded, a length is said once and in one way.
func parsePlain(text []byte) (request plainRequest, rest []byte, err error) {
	line := func() string {
		before, after, ok := bytes.Cut(text, []byte("\r\n"))
		if !ok {
			err = errors.New("a line without an end")
		}
		text = after
		return string(before)
	}
	if request.line = line(); !plainLine.MatchString(request.line) {
		return request, nil, fmt.Errorf("the request line %q", request.line)
	}
	values := make(map[string][]string)
	for err == nil {
		field := line()
		if field == "" {
			break
		}
		match := plainField.FindStringSubmatch(field)
		if match == nil {
			return request, nil, fmt.Errorf("the field %q", field)
		}
		request.fields = append(request.fields, field)
		name := strings.ToLower(match[1])
		values[name] = append(values[name], strings.TrimPrefix(match[2], " "))
	}
	length, encoding := values["content-length"], values["transfer-encoding"]
	switch {
	case err != nil:
		return request, nil, err
	case len(values["host"]) != 1:
		return request, nil, fmt.Errorf("the hosts %q", values["host"])
	case len(length)+len(encoding) > 1:
		return request, nil, fmt.Errorf("the lengths %q and encodings %q", length, encoding)
	case len(length) == 1:
		if !plainLength.MatchString(length[0]) {
			return request, nil, fmt.Errorf("the length %q", length[0])
		}
		n, err := strconv.Atoi(length[0])
		if err != nil {
			return request, nil, err
		}
		if n > len(text) {
			request.brokenOff = true
			return request, nil, nil
		}
		request.body, text = text[:n], text[n:]
	case len(encoding) == 1:
		if encoding[0] != "chunked" {
			return request, nil, fmt.Errorf("the encoding %q", encoding[0])
		}
		for {
			if len(text) == 0 {
				request.brokenOff = true
				return request, nil, nil
			}
			size := line()
			n, sizeErr := strconv.ParseUint(size, 16, 31)
			if err != nil || sizeErr != nil || !plainChunk.MatchString(size) {
				return request, nil, fmt.Errorf("the chunk size %q", size)
			}
			if n == 0 {
				break
			}
			if int(n)+2 > len(text) {
				return request, nil, fmt.Errorf("%d bytes of a chunk of %d", len(text), n)
			}
			request.body = append(request.body, text[:n]...)
			if text = text[n:]; !bytes.HasPrefix(text, []byte("\r\n")) {
				return request, nil, fmt.Errorf("the end of a chunk of %d bytes", n)
			}
			text = text[2:]
		}
		for err == nil {
			field := line()
			if field == "" {
				break
			}
			match := plainField.FindStringSubmatch(field)
			// Caddy passes on trailers of any name with what it doesn't judge. They are
			// not fields (RFC 9110, section 6.5.1); a write must have none all the same.
			if match == nil || strings.HasPrefix(request.line, "PUT ") && slices.Contains(framing, strings.ToLower(match[1])) {
				return request, nil, fmt.Errorf("the trailer %q", field)
			}
			request.trailer = append(request.trailer, field)
		}
	}
	return request, text, err
}

// framing are the fields that tell where a request begins and ends, and whose it is.
var framing = []string{"content-length", "transfer-encoding", "trailer", "host", "authorization"}
