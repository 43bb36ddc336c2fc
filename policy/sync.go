package policy

import (
	"encoding/json"
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

// Sets tells whether syncs of this route set a presence at the homeserver.
func (route SyncRoute) Sets(d Dialect) bool {
	switch route {
	case UnstableSync:
		return d == Synapse || d == UnknownDialect
	case SlidingSync:
		return d == Tuwunel
	}
	return true
}

// Unbounded is the time that a sync takes of which no homeserver says how long.
const Unbounded = time.Duration(math.MaxInt64 / 4)

// SyncQuery is what the query of a GET /sync says about presence.
type SyncQuery struct {
	// Presence is the value of set_presence: online if there is none.
	Presence string

	// Timeout is for how long the homeserver may wait for news. It is Unbounded for a
	// sync that may take long to be answered whatever it says, because it asks for
	// everything, and if homeservers read the timeout differently.
	Timeout time.Duration
}

// ParseSyncQuery reads the raw query of a GET /sync. It reports false if homeservers
// don't agree on its set_presence.
//
// Of several values the first one counts: for Synapse, by Twisted's parse_qs and
// parse_string, as for Dendrite, by Go's Request.FormValue.
func ParseSyncQuery(rawQuery string) (q SyncQuery, ok bool) {
	found, ok := findSync(rawQuery)
	if !ok {
		return SyncQuery{}, false
	}
	q = SyncQuery{Presence: "online", Timeout: found.timeout}
	if found.given {
		q.Presence = found.presence
	}
	if !found.since || found.vague {
		q.Timeout = Unbounded
	}
	return q, true
}

// SetSyncPresence returns the query with another set_presence, which every homeserver
// takes. Nothing else of it is changed: a value that counts is replaced where it
// stands, and if there is none the parameter comes last. It comes first if
// homeservers don't agree on those that there are.
func SetSyncPresence(rawQuery, value string) string {
	const name = "set_presence="
	found, ok := findSync(rawQuery)
	switch {
	case rawQuery == "":
		return name + value
	case !ok:
		return name + value + "&" + rawQuery
	case found.given:
		return rawQuery[:found.start] + value + rawQuery[found.end:]
	default:
		return rawQuery + "&" + name + value
	}
}

// syncParameters are those of a query that concern us.
type syncParameters struct {
	given      bool
	presence   string // decoded
	start, end int    // of its value, escaped

	timed   bool
	timeout time.Duration
	since   bool
	vague   bool // the answer may take longer
}

// findSync reports false if homeservers don't agree on set_presence.
func findSync(rawQuery string) (found syncParameters, ok bool) {
	if !isASCII(rawQuery) {
		return found, false // Synapse refuses the request
	}
	for start := 0; start <= len(rawQuery); {
		end := len(rawQuery)
		if i := strings.IndexByte(rawQuery[start:], '&'); i >= 0 {
			end = start + i
		}
		if !found.take(rawQuery[start:end], start) {
			return found, false
		}
		start = end + 1
	}
	return found, true
}

// take takes one pair, which begins at start.
func (p *syncParameters) take(pair string, start int) (ok bool) {
	if strings.Contains(pair, ";") {
		// Twisted splits here too, net/url drops the whole pair.
		for part := range strings.SplitSeq(pair, ";") {
			rawName, _, _ := strings.Cut(part, "=")
			switch unescape(rawName) {
			case "set_presence":
				if !p.given {
					return false
				}
			case "timeout", "since", "full_state":
				p.vague = true
			}
		}
		return true
	}
	rawName, rawValue, isPair := strings.Cut(pair, "=")
	name := unescape(rawName)
	switch name {
	case "set_presence", "timeout", "since", "full_state":
	default:
		return true
	}
	// Twisted leaves a name without "=" out and keeps a bad escape as it stands;
	// net/url takes the one for empty and leaves the other out.
	value, err := url.QueryUnescape(rawValue)
	certain := isPair && err == nil
	switch {
	case name == "set_presence":
		if p.given {
			return true
		}
		if !certain {
			return false
		}
		p.given, p.presence = true, value
		p.start = start + len(rawName) + 1
		p.end = start + len(pair)
	case !certain, name == "full_state":
		p.vague = true
	case name == "since":
		p.since = p.since || value != ""
	case !p.timed:
		p.timed = true
		milliseconds, err := strconv.ParseUint(value, 10, 32) // 49 days
		p.timeout = time.Duration(milliseconds) * time.Millisecond
		p.vague = p.vague || err != nil
	}
	return true
}

// SyncBody is the JSON body of a sliding sync.
type SyncBody struct {
	// Presence is the member set_presence: online if there is none.
	Presence string

	text  string
	value members.Span // of the member, empty at the start of the object if there is none
	given bool
	more  bool // the object has other members
}

// ParseSyncBody reads a body. It reports false for one that tuwunel refuses, or may
// read in another way.
func ParseSyncBody(body []byte) (b SyncBody, ok bool) {
	if !json.Valid(body) {
		return SyncBody{}, false
	}
	b = SyncBody{Presence: "online", text: string(body)}
	opening := len(b.text) - len(strings.TrimLeft(b.text, " \t\r\n"))
	if b.text[opening] != '{' {
		return SyncBody{}, false
	}
	b.value = members.Span{Start: opening + 1, End: opening + 1}
	for key, value := range members.Of(b.text) {
		b.more = true
		if key != "set_presence" {
			continue
		}
		if b.given || b.text[value.Start] != '"' || json.Unmarshal(body[value.Start:value.End], &b.Presence) != nil {
			return SyncBody{}, false
		}
		b.given, b.value = true, value
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
