package cache

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"
)

// MaxBody is the size in bytes above which the body of an answer is not kept.
// A usual one has about 100. Synapse takes status messages of a megabyte, so
// without a bound a few users could fill any memory.
const MaxBody = 4 << 10

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
}

// errNotPresence says that a body is no presence, so it can't be re-aged.
var errNotPresence = errors.New("not a presence")

// ParseAnswer finds in a body what changes with time. It returns an error if
// the body isn't a JSON object with a presence, or if it is one in which that
// can't be told for sure, such as with a last_active_ago given twice: such an
// answer can be passed on but not kept.
func ParseAnswer(body []byte, fields []Field) (*Answer, error) {
	answer := &Answer{Body: string(body), Fields: fields}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if token, err := dec.Token(); err != nil || token != json.Delim('{') {
		return nil, errNotPresence
	}
	seen := make(map[string]bool, 4)
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errNotPresence, err)
		}
		key, _ := token.(string)
		if seen[key] {
			return nil, fmt.Errorf("%w: %q given twice", errNotPresence, key)
		}
		seen[key] = true
		if err := answer.parseMember(dec, key); err != nil {
			return nil, fmt.Errorf("%w: %q: %w", errNotPresence, key, err)
		}
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return nil, fmt.Errorf("%w: %w", errNotPresence, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("%w: something follows the object", errNotPresence)
	}
	if !seen["presence"] {
		return nil, errNotPresence
	}
	return answer, nil
}

// parseMember reads the value of the member whose key was the decoder's last token.
func (a *Answer) parseMember(dec *json.Decoder, key string) error {
	switch key {
	case "last_active_ago":
		var number json.Number
		if err := dec.Decode(&number); err != nil {
			return err
		}
		ago, err := strconv.ParseUint(number.String(), 10, 62)
		if err != nil {
			return fmt.Errorf("%s is not a count of milliseconds", number)
		}
		a.ago = int64(ago)
		a.agoEnd = int(dec.InputOffset())
		a.agoStart = a.agoEnd - len(number)
		if a.Body[a.agoStart:a.agoEnd] != number.String() {
			return errors.New("not written as a plain number")
		}
		return nil
	case "currently_active":
		return dec.Decode(&a.currentlyActive)
	case "presence":
		var presence *string
		if err := dec.Decode(&presence); err != nil || presence == nil {
			return errors.New("not a string")
		}
		return nil
	default:
		var value json.RawMessage
		return dec.Decode(&value)
	}
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
