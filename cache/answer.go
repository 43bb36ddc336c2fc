package cache

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/members"
)

// MaxBody is the size in bytes above which the body of an answer is not kept.
// A usual one has about 100. Synapse takes status messages of a megabyte, so
// without a bound a few users could fill any memory.
const MaxBody = 4 << 10

// maxFields is the size in bytes of the header fields above which an answer is not
// kept. Usual ones have some 300, and many answers share them.
const maxFields = 2 << 10

// Fits tells that a body and the header fields with it are small enough to be kept.
func Fits(body string, fields []Field) bool {
	size := 0
	for i := range fields {
		size += len(fields[i].Name)
		for _, value := range fields[i].Values {
			size += len(value)
		}
	}
	return len(body) <= MaxBody && size <= maxFields
}

// Field is a header field of an answer that is kept with it.
type Field struct {
	Name   string // in canonical form
	Values []string
}

// Answer is what a homeserver sent with status 200 to a presence read. It is
// immutable once it has been parsed.
type Answer struct {
	Body   string
	Fields []Field

	// agoStart and agoEnd delimit the digits of last_active_ago in Body. They
	// are equal if there is none.
	agoStart, agoEnd int
	ago              int64 // last_active_ago in milliseconds
	currentlyActive  bool
	resting          bool
}

// Resting tells that the user is offline or unavailable: last_active_ago of such a user grows
// with time until their state changes.
func (a *Answer) Resting() bool { return a.resting }

// errNotPresence says that a body is no presence, so it can't be re-aged.
var errNotPresence = errors.New("not a presence")

// ParseAnswer finds in a body what changes with time. It returns an error if
// the body isn't a JSON object with a presence, or if it is one in which that
// can't be told for sure, such as with a last_active_ago given twice: such an
// answer can be passed on but not kept.
func ParseAnswer(body []byte, fields []Field) (*Answer, error) {
	if !json.Valid(body) {
		return nil, fmt.Errorf("%w: no JSON", errNotPresence)
	}
	answer := &Answer{Body: string(body), Fields: fields}
	var seen struct{ presence, ago, active bool }
	twice := func(seen *bool) (before bool) { before, *seen = *seen, true; return before }
	for key, value := range members.Of(answer.Body) {
		text := answer.Body[value.Start:value.End]
		bad := false
		switch key {
		case "presence":
			bad = twice(&seen.presence) || text[0] != '"'
			answer.resting = text == `"offline"` || text == `"unavailable"`
		case "currently_active":
			bad = twice(&seen.active) || text != "true" && text != "false" && text != "null"
			answer.currentlyActive = text == "true"
		case "last_active_ago":
			ago, err := strconv.ParseUint(text, 10, 62)
			bad = twice(&seen.ago) || err != nil
			answer.ago, answer.agoStart, answer.agoEnd = int64(ago), value.Start, value.End
		}
		if bad {
			return nil, fmt.Errorf("%w: %s is given twice or as %.20s", errNotPresence, key, text)
		}
	}
	if !seen.presence {
		return nil, errNotPresence
	}
	return answer, nil
}

// The age of a user's last activity at which a homeserver ceases to call them
// currently active: Synapse after last_active_granularity, which is a minute
// unless configured (synapse/config/server.py), Dendrite after five
// (syncapi/types/presence.go).
const (
	activeSynapse  = time.Minute
	activeDendrite = 5 * time.Minute
)

// truthful returns for how long after the answer's departure its
// currently_active stays true: forever if it isn't active or doesn't say when it
// last was, and not at all if that was longer ago than any homeserver allows.
func (a *Answer) truthful() time.Duration {
	if !a.currentlyActive || a.agoStart == a.agoEnd {
		return math.MaxInt64
	}
	for _, limit := range [...]time.Duration{activeSynapse, activeDendrite} {
		if left := limit - time.Duration(min(a.ago, limit.Milliseconds()))*time.Millisecond; left > 0 {
			return left
		}
	}
	return 0
}

// AppendBody appends the body as it reads elapsed after it was true, with
// last_active_ago grown by so many milliseconds and not another byte changed.
func (a *Answer) AppendBody(dst []byte, elapsed time.Duration) []byte {
	if a.agoStart == a.agoEnd {
		return append(dst, a.Body...)
	}
	dst = append(dst, a.Body[:a.agoStart]...)
	dst = strconv.AppendInt(dst, a.ago+elapsed.Milliseconds(), 10)
	return append(dst, a.Body[a.agoEnd:]...)
}
