package matrix

import (
	"encoding/json"
	"iter"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/members"
)

// SyncRoute is a kind of sync that may set a presence.
type SyncRoute int

const (
	// Sync is GET /_matrix/client/{r0,v3}/sync, on every homeserver.
	Sync SyncRoute = iota + 1

	// UnstableSync is the same under unstable, where only Synapse serves it.
	UnstableSync

	// SlidingSync is POST /_matrix/client/unstable/org.matrix.simplified_msc3575/sync.
	// Synapse serves it without any effect on presence; tuwunel takes set_presence
	// from its body.
	SlidingSync
)

const (
	getSync     = "sync"
	slidingSync = "org.matrix.simplified_msc3575/sync"
)

// ParseSyncRoute recognises syncs that set a presence by method and escaped path. The
// homeservers' patterns have an end anchor. HEAD is GET to Synapse and tuwunel.
func ParseSyncRoute(method, escapedPath string) (SyncRoute, bool) {
	if !strings.HasSuffix(escapedPath, "/sync") {
		return 0, false
	}
	rest, ok := strings.CutPrefix(escapedPath, ClientPrefix)
	if !ok {
		return 0, false
	}
	version, rest, _ := strings.Cut(rest, "/")
	switch method {
	case "GET", "HEAD":
		switch {
		case rest != getSync:
		case version == "v3", version == "r0":
			return Sync, true
		case version == "unstable":
			return UnstableSync, true
		}
	case "POST":
		if version == "unstable" && rest == slidingSync {
			return SlidingSync, true
		}
	}
	return 0, false
}

// Sets tells whether syncs of this route may set a presence at the homeserver.
func (route SyncRoute) Sets(d Dialect) bool {
	switch route {
	case UnstableSync:
		return d == Synapse || d == UnknownDialect
	case SlidingSync:
		return d == Tuwunel || d == UnknownDialect
	}
	return true
}

// Unbounded is how long a sync takes if no homeserver bounds it.
const Unbounded = time.Duration(math.MaxInt64 / 4)

// maxParameters is how many parameters of a query net/url reads for certain.
const maxParameters = 1000

// SyncQuery is what the query of a GET /sync says about presence, as a homeserver reads
// it.
type SyncQuery struct {
	// Sets is the state that it sets, or NoPresence: the homeserver makes nothing of
	// it, or refuses it.
	Sets Presence

	// Certain tells that Sets is what the homeserver makes of it. If not, the sync may
	// set anything.
	Certain bool

	// Timeout is for how long the homeserver may wait for news. It is Unbounded for a
	// sync that may take long to be answered whatever it says, because it asks for
	// everything, and if it is not sure how the homeserver reads it.
	Timeout time.Duration

	text       string
	given      bool // there is a value that counts
	start, end int  // of it, as it stands
	bare       bool // only its name is there, without "="
	split      bool // it stands between ";"
}

// ParseSyncQuery reads the raw query of a GET /sync as the homeserver does.
//
//   - Synapse: the first value counts (Twisted's parse_qs, parse_string). A parameter
//     without "=" is none. It splits at ";" too.
//   - Dendrite: the first value counts (Go's Request.FormValue). A pair with ";" or a bad
//     escape is none, a parameter without "=" is empty.
//   - tuwunel: two values are refused. A parameter without "=" is empty.
//
// For an unknown homeserver it is certain what all of these make the same of.
func ParseSyncQuery(d Dialect, rawQuery string) (q SyncQuery) {
	if d == UnknownDialect {
		q = ParseSyncQuery(Synapse, rawQuery)
		for _, other := range []Dialect{Dendrite, Tuwunel} {
			read := ParseSyncQuery(other, rawQuery)
			q.Certain = q.Certain && read.Certain && read.Sets == q.Sets
		}
		return q
	}
	q = SyncQuery{Certain: true, text: rawQuery}
	switch d {
	case Synapse:
		q.Certain = isASCII(rawQuery) // or it refuses the request
	case Dendrite:
		q.Certain = strings.Count(rawQuery, "&") < maxParameters
	}
	word, refused := "", false
	var timed, since, vague bool
	for p := range d.parameters(rawQuery) {
		switch {
		case p.name == "set_presence" && q.given:
			refused = d == Tuwunel
		case p.name == "set_presence":
			q.given, q.start, q.end, q.bare, q.split, word = true, p.start, p.end, p.bare, p.split, p.value
		case p.name == "full_state" && p.value != "false", p.split && (p.name == "since" || p.name == "timeout"):
			vague = true
		case p.name == "since":
			since = true
			vague = vague || p.value == "" // which asks for everything, as none does
		case p.name == "timeout" && !timed:
			timed = true
			milliseconds, err := strconv.ParseUint(p.value, 10, 32) // 49 days
			q.Timeout = time.Duration(milliseconds) * time.Millisecond
			vague = vague || err != nil
		}
	}
	if !since || vague || !q.Certain {
		q.Timeout = Unbounded
	}
	switch {
	case refused:
	case q.given:
		q.Sets = d.SyncPresence(word)
	default:
		q.Sets = Online
	}
	return q
}

// Set returns the query with another set_presence. Nothing else of it is changed: a value
// that counts is replaced where it stands, and if there is none the parameter comes last.
// It comes first if it isn't certain which one counts, or that is a matter of taste: not
// everybody splits at ";".
func (q SyncQuery) Set(value string) string {
	const name = "set_presence="
	switch {
	case q.text == "":
		return name + value
	case !q.Certain, q.split:
		return name + value + "&" + q.text
	case q.bare:
		return q.text[:q.end] + "=" + value + q.text[q.end:]
	case q.given:
		return q.text[:q.start] + value + q.text[q.end:]
	default:
		return q.text + "&" + name + value
	}
}

// parameter is one of a query, decoded.
type parameter struct {
	name, value string
	start, end  int  // of the value, as it stands
	bare        bool // it has no "="
	split       bool // it stands between ";"
}

// parameters returns those of a query that a homeserver reads, in order.
func (d Dialect) parameters(rawQuery string) iter.Seq[parameter] {
	return func(yield func(parameter) bool) {
		for start := 0; start <= len(rawQuery); {
			end := len(rawQuery)
			if i := strings.IndexByte(rawQuery[start:], '&'); i >= 0 {
				end = start + i
			}
			for p := range d.pairs(rawQuery[start:end], start) {
				if !yield(p) {
					return
				}
			}
			start = end + 1
		}
	}
}

// pairs returns what a homeserver sees in a pair of a query, which begins at start.
func (d Dialect) pairs(pair string, start int) iter.Seq[parameter] {
	return func(yield func(parameter) bool) {
		split := strings.Contains(pair, ";")
		switch {
		case d == Dendrite && split:
			return
		case d != Synapse || !split:
			if p, ok := d.parameter(pair, start); ok {
				yield(p)
			}
			return
		}
		for part := range strings.SplitSeq(pair, ";") {
			if p, ok := d.parameter(part, start); ok {
				p.split = true
				if !yield(p) {
					return
				}
			}
			start += len(part) + 1
		}
	}
}

func (d Dialect) parameter(pair string, start int) (p parameter, ok bool) {
	rawName, rawValue, isPair := strings.Cut(pair, "=")
	p = parameter{start: start + len(rawName) + 1, end: start + len(pair), bare: !isPair}
	if d == Dendrite {
		var errName, errValue error
		p.name, errName = url.QueryUnescape(rawName)
		p.value, errValue = url.QueryUnescape(rawValue)
		return p, pair != "" && errName == nil && errValue == nil
	}
	p.name, p.value = unescapeLoosely(rawName), unescapeLoosely(rawValue)
	return p, isPair || d == Tuwunel && pair != ""
}

// unescapeLoosely decodes a part of a query, and keeps a bad escape as it stands.
func unescapeLoosely(s string) string {
	if decoded, err := url.QueryUnescape(s); err == nil {
		return decoded
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 2
				continue
			}
		}
		if s[i] == '+' {
			b.WriteByte(' ')
		} else {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// SyncBody is the JSON body of a sliding sync, as tuwunel reads it.
type SyncBody struct {
	// Sets is the state that it sets, or NoPresence if tuwunel refuses it.
	Sets Presence

	text  string
	value members.Span // of the member, empty at the start of the object if there is none
	given bool
	more  bool // the object has other members
}

// ParseSyncBody reads a body. No body at all is taken for an empty object, and of a member
// that is given twice the last one counts. It reports false for what tuwunel refuses as
// a whole, or may read in another way: it takes arrays for objects.
func ParseSyncBody(body []byte) (b SyncBody, ok bool) {
	if len(body) == 0 {
		return SyncBody{Sets: Online, text: "{}", value: members.Span{Start: 1, End: 1}}, true
	}
	if !json.Valid(body) {
		return SyncBody{}, false
	}
	b = SyncBody{Sets: Online, text: string(body)}
	opening := len(b.text) - len(strings.TrimLeft(b.text, " \t\r\n"))
	if b.text[opening] != '{' {
		return SyncBody{}, false
	}
	b.value = members.Span{Start: opening + 1, End: opening + 1}
	for key, value := range members.Of(b.text) {
		b.more = true
		if key == "set_presence" {
			b.given, b.value = true, value
		}
	}
	if b.given {
		b.Sets = NoPresence
		var word *string // null leaves it nil
		if json.Unmarshal(body[b.value.Start:b.value.End], &word) == nil && word != nil {
			b.Sets = Tuwunel.SyncPresence(*word)
		}
	}
	return b, true
}

// Set returns the body with another set_presence, and everything else as it was.
func (b SyncBody) Set(value string) []byte {
	member := strconv.Quote(value) // the names of states are plain
	if !b.given {
		member = `"set_presence":` + member
		if b.more {
			member += ","
		}
	}
	return []byte(b.text[:b.value.Start] + member + b.text[b.value.End:])
}
