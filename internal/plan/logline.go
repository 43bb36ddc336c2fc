package plan

import (
	"bufio"
	"encoding/json"
	"errors"
	"hash/maphash"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// entry is a line of an access log, as far as a plan needs it.
type entry struct {
	begun, ended  time.Time
	client        uint64 // a hash of address and User-Agent: who asks, as far as a log tells
	method, path  string // the path escaped
	query         string
	status        int
	lasted        time.Duration
	seen, isOther bool // a request; a line that is fine and none
}

// What a log says of requests. No HTTP server is known here.
const (
	methodGet, methodHead, methodPut, methodOptions = "GET", "HEAD", "PUT", "OPTIONS"
	served, unauthorized                            = 200, 401
)

const (
	// maxLine is the size in bytes of the longest line that is read. Longer ones are bad.
	maxLine = 1 << 20
	// maxCombined is that of one in format combined.
	maxCombined = 64 << 10
	// maxLasts is for how long a request may be under way. A log has them in the order in which they end.
	maxLasts = 2 * time.Minute
)

// caddyLine is a line of Caddy's access log in JSON.
type caddyLine struct {
	Timestamp json.RawMessage `json:"ts"`
	Request   *struct {
		RemoteIP string              `json:"remote_ip"`
		ClientIP string              `json:"client_ip"`
		Method   string              `json:"method"`
		URI      string              `json:"uri"`
		Headers  map[string][]string `json:"headers"`
	} `json:"request"`
	Status   int             `json:"status"`
	Duration json.RawMessage `json:"duration"`
}

// combined is nginx's and Apache's format of that name, and common without the last two.
var combined = regexp.MustCompile(`^(\S+) \S+ .{1,256}? ?\[([^\]]{1,64})\] "([A-Z]{1,20}) (\S+) [^"]{0,20}" (\d{3}) \S+(?: "(?:[^"\\]|\\.)*" "((?:[^"\\]|\\.)*)")?`)

// logReader reads an access log.
type logReader struct {
	lines *bufio.Reader
	seed  maphash.Seed
}

func newLogReader(r io.Reader) *logReader {
	return &logReader{bufio.NewReaderSize(r, 64<<10), maphash.MakeSeed()}
}

// next returns the next line, or io.EOF after the last. A line that isn't read is bad.
func (l *logReader) next() (e entry, ok bool, err error) {
	var line []byte
	long := false
	for {
		part, err := l.lines.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			long, line = true, nil
		}
		if !long {
			line = append(line, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil && (!errors.Is(err, io.EOF) || len(line) == 0 && !long) {
			return entry{}, false, err
		}
		break
	}
	if long {
		return entry{}, false, nil
	}
	text := strings.TrimSpace(string(line))
	switch {
	case text == "":
		return entry{isOther: true}, true, nil
	case text[0] == '{':
		e, ok = l.readCaddy(text)
	default:
		e, ok = l.readCombined(text)
	}
	return e, ok, nil
}

func (l *logReader) readCaddy(text string) (e entry, ok bool) {
	var line caddyLine
	if json.Unmarshal([]byte(text), &line) != nil {
		return e, false
	}
	if line.Request == nil {
		return entry{isOther: true}, true // of another of Caddy's logs
	}
	ended, ok := readTimestamp(line.Timestamp)
	if !ok {
		return e, false
	}
	address := line.Request.ClientIP
	if address == "" {
		address = line.Request.RemoteIP
	}
	e = entry{ended: ended, method: line.Request.Method, status: line.Status, lasted: readDuration(line.Duration)}
	e.client = l.clientOf(address, strings.Join(line.Request.Headers["User-Agent"], ","))
	return e, e.setTarget(line.Request.URI)
}

func (l *logReader) readCombined(text string) (e entry, ok bool) {
	if len(text) > maxCombined {
		return e, false
	}
	m := combined.FindStringSubmatch(text)
	if m == nil {
		return e, false
	}
	ended, err := time.Parse("02/Jan/2006:15:04:05 -0700", m[2])
	if err != nil {
		return e, false
	}
	status, _ := strconv.Atoi(m[5]) // three digits
	e = entry{ended: ended, method: m[3], status: status, client: l.clientOf(m[1], m[6])}
	return e, e.setTarget(m[4])
}

func (l *logReader) clientOf(address, agent string) uint64 {
	return maphash.String(l.seed, address+"\x00"+agent)
}

// setTarget sets the path and the query of a request, and when it began.
func (e *entry) setTarget(uri string) bool {
	e.path, e.query, _ = strings.Cut(uri, "?")
	e.lasted = min(max(0, e.lasted), maxLasts)
	e.begun, e.seen = e.ended.Add(-e.lasted), true
	year := e.ended.Year()
	return strings.HasPrefix(e.path, "/") && year > 1970 && year < 2200
}

// readTimestamp reads Caddy's ts: seconds or milliseconds or nanoseconds since 1970, or a text.
func readTimestamp(raw json.RawMessage) (t time.Time, ok bool) {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.000Z0700", "2006/01/02 15:04:05.000", "2006/01/02 15:04:05"} {
			if t, err := time.Parse(layout, text); err == nil {
				return t, true
			}
		}
		return t, false
	}
	seconds, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || seconds <= 0 {
		return t, false
	}
	for seconds > 1e11 { // of a finer unit
		seconds /= 1000
	}
	whole, part := math.Modf(seconds)
	return time.Unix(int64(whole), int64(part*1e9)), true
}

// readDuration reads Caddy's duration: seconds, or a text such as "1.5s".
func readDuration(raw json.RawMessage) time.Duration {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		d, _ := time.ParseDuration(text)
		return d
	}
	seconds, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || !(seconds >= 0) {
		return 0
	}
	return time.Duration(min(seconds, maxLasts.Seconds()) * float64(time.Second))
}

// isPresence tells whether a request has to do with presence.
func isPresence(e *entry) bool {
	if route, ok := matrix.ParsePresenceRoute(e.path); ok && route.Canonical {
		return e.method == methodGet || e.method == methodHead || e.method == methodPut || e.method == methodOptions
	}
	if _, ok := matrix.ParseMemberListRoute(e.path, e.query); ok && e.method == methodGet {
		return true
	}
	route, ok := matrix.ParseSyncRoute(e.method, e.path)
	return ok && route == matrix.Sync
}
