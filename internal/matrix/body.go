package matrix

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/members"
)

// BodyError is a body of a presence write that no homeserver would take.
type BodyError struct {
	Errcode string // M_NOT_JSON or M_BAD_JSON
	Message string // for people, the "error" of the Matrix error object
}

func (e *BodyError) Error() string { return e.Errcode + ": " + e.Message }

// CheckPresenceBody returns a *[BodyError] if body is not a JSON object with a presence
// that is among values, or without values one that the homeserver may take.
//
// What only some homeservers refuse is left to them: further keys and any status_msg may
// stand, and a key may be spelled in another case, as Dendrite reads it. Of several
// spellings of a key one has to do; all of them if there are values, so that none is a way
// around these.
func CheckPresenceBody(body []byte, values []string, d Dialect) error {
	// encoding/json takes text that is no UTF-8, homeservers don't.
	if !utf8.Valid(body) || !json.Valid(body) {
		return &BodyError{"M_NOT_JSON", "The request body is not valid JSON."}
	}
	text := strings.TrimLeft(string(body), " \t\r\n")
	var words []string
	given := false
	switch {
	case text[0] == '{':
		words, given = presenceWords(text)
	case text[0] == '[' && d == Tuwunel:
		if word, ok := firstWord(text); ok {
			words, given = []string{word}, true
		}
	default:
		return &BodyError{"M_BAD_JSON", "The request body must be a JSON object."}
	}
	good := 0
	for _, word := range words {
		if allows(values, word, d) {
			good++
		}
	}
	if good > 0 && (good == len(words) || len(values) == 0) {
		return nil
	}
	if !given {
		return &BodyError{"M_BAD_JSON", "The request body has no presence."}
	}
	if len(values) == 0 {
		values = d.presenceWords()
	}
	return &BodyError{"M_BAD_JSON", fmt.Sprintf("The presence must be one of %s.", strings.Join(values, ", "))}
}

// presenceWords returns what an object says for a presence, one word for each spelling of
// the key, and whether it has the key at all.
func presenceWords(text string) (words []string, given bool) {
	last := make(map[string]members.Span) // of a spelling that is given twice the last counts
	for key, value := range members.Of(text) {
		if !strings.EqualFold(key, "presence") {
			continue
		}
		if given = true; text[value.Start] != 'n' { // to Dendrite a null is as good as nothing
			last[key] = value
		}
	}
	for _, value := range last {
		if word, ok := DecodeString(text[value.Start:value.End]); ok {
			words = append(words, word)
		}
	}
	return words, given
}

// firstWord returns the first element of an array, which tuwunel takes for the presence.
func firstWord(text string) (word string, ok bool) {
	var elements []json.RawMessage
	if json.Unmarshal([]byte(text), &elements) != nil || len(elements) == 0 {
		return "", false
	}
	return DecodeString(string(elements[0]))
}

// DecodeString decodes a JSON value, if it is a string.
func DecodeString(value string) (text string, ok bool) {
	if value[0] != '"' {
		return "", false
	}
	return text, json.Unmarshal([]byte(value), &text) == nil
}

// allows tells whether a word is among values, or without values one that the homeserver
// may take. Values are compared without case, but not where another case is another state.
func allows(values []string, word string, d Dialect) bool {
	if len(values) == 0 {
		_, taken := d.writePresence(word)
		return taken != notTaken
	}
	return slices.ContainsFunc(values, func(value string) bool {
		return word == value || strings.EqualFold(word, value) && (d != Tuwunel || word == strings.ToLower(value))
	})
}

// taken is how sure it is that a homeserver takes a body.
type taken int

const (
	notTaken     taken = iota
	perhapsTaken       // by its configuration, or it isn't known
	surelyTaken
)

// bodyReading is what a homeserver makes of a body.
type bodyReading struct {
	taken taken
	State Presence // that it sets if it is taken, or NoPresence if that isn't certain

	// Status is the JSON string that becomes the status message, or "" if the body gives none:
	// then Synapse clears the user's and tuwunel the device's, and Dendrite keeps it.
	Status string
}

// BodyPresence returns the state that the body of a write sets at a homeserver that has
// taken it, or NoPresence if that isn't certain.
func BodyPresence(body []byte, d Dialect) Presence { return d.read(body).State }

// TakesBody tells that a homeserver surely takes the body of a write. Of one that isn't
// recognised that is certain if all of them do and make the same of it.
func TakesBody(body []byte, d Dialect) bool { return d.read(body).taken == surelyTaken }

// writePresence returns the state that a PUT with this word sets, and whether it is
// taken. By homeserver:
//
//	              known   other case  unknown, empty  "busy"  "org.matrix.msc3026.busy"
//	Synapse       200     400         400             400     400, or 200 with msc3026_enabled
//	Dendrite      200     200         400             400     400
//	tuwunel       200     offline     offline         200     offline
func (d Dialect) writePresence(word string) (state Presence, is taken) {
	switch d {
	case Synapse: // synapse/handlers/presence.py, VALID_PRESENCE
		switch word {
		case "online", "unavailable", "offline":
			return ParsePresence(word), surelyTaken
		case "org.matrix.msc3026.busy":
			return Busy, perhapsTaken
		}
		return NoPresence, notTaken
	case Dendrite: // syncapi/types/presence.go, PresenceFromString
		switch word = strings.ToLower(word); word {
		case "online", "unavailable", "offline":
			return ParsePresence(word), surelyTaken
		}
		return NoPresence, notTaken
	case Tuwunel:
		return ruma(word), surelyTaken
	}
	// As long as it isn't recognised: what some homeserver takes for what it says.
	if state = ParsePresence(word); state == NoPresence {
		return NoPresence, notTaken
	}
	return state, perhapsTaken
}

// presenceWords names what a homeserver may take for a presence.
func (d Dialect) presenceWords() []string {
	words := []string{"online", "unavailable", "offline"}
	switch d {
	case Synapse:
		return append(words, "org.matrix.msc3026.busy")
	case Dendrite:
		return words
	}
	return append(words, "busy", "org.matrix.msc3026.busy")
}

var homeservers = [...]Dialect{Synapse, Dendrite, Tuwunel}

// read returns what a homeserver makes of a body.
func (d Dialect) read(body []byte) bodyReading {
	if d == UnknownDialect {
		return ReadEach(body)[d]
	}
	if !utf8.Valid(body) || !json.Valid(body) {
		return bodyReading{}
	}
	text := strings.TrimLeft(string(body), " \t\r\n")
	switch {
	case text[0] == '{':
	case text[0] == '[' && d == Tuwunel:
		return readArray(text)
	default:
		return bodyReading{}
	}

	presences, statuses, further := d.memberValues(text)
	r := bodyReading{taken: surelyTaken}
	if d != Dendrite {
		// encoding/json minds each, Python and serde_json the last only, as long as they can
		// read the others: neither takes any depth, number or half a pair.
		if slices.ContainsFunc(slices.Concat(presences, statuses), isHardToRead) {
			r.taken = perhapsTaken
		}
		presences, statuses = last(presences), last(statuses)
	}
	word, given := "", false
	for _, value := range presences {
		if value == "null" && d == Dendrite {
			continue // as if it weren't there, whatever stood before
		}
		if word, given = DecodeString(value); !given {
			return bodyReading{}
		}
	}
	for _, value := range statuses {
		switch {
		case value[0] == '"':
			r.Status = value
		case value == "null" && d != Synapse:
			r.Status = ""
		default:
			return bodyReading{}
		}
	}
	switch {
	case !given, further && d == Synapse:
		return bodyReading{}
	case further && d == Tuwunel:
		r.taken = perhapsTaken // as serde_json takes the value or doesn't
	}
	return r.withWord(d, word)
}

// memberValues returns the values of the members that a homeserver knows, and whether there
// are further ones.
func (d Dialect) memberValues(text string) (presences, statuses []string, further bool) {
	same := func(key, name string) bool { return key == name || d == Dendrite && strings.EqualFold(key, name) }
	for key, value := range members.Of(text) {
		switch value := text[value.Start:value.End]; {
		case same(key, "presence"):
			presences = append(presences, value)
		case same(key, "status_msg"):
			statuses = append(statuses, value)
		default:
			further = true
		}
	}
	return presences, statuses, further
}

// isHardToRead tells of a JSON value that some parsers refuse, though it is valid.
func isHardToRead(value string) bool {
	switch value[0] {
	case '"':
		text, _ := DecodeString(value)
		return !isPlain(text)
	case 't', 'f', 'n': // true, false, null
		return false
	}
	_, err := strconv.ParseInt(value, 10, 32)
	return err != nil
}

func last(values []string) []string { return values[max(0, len(values)-1):] }

// withWord completes a reading by the word for the presence.
func (r bodyReading) withWord(d Dialect, word string) bodyReading {
	var is taken
	if r.State, is = d.writePresence(word); is == notTaken {
		return bodyReading{}
	}
	// Text that is no Unicode, by an escape, and control characters homeservers, or the
	// databases and queues behind them, take or don't.
	message := ""
	if r.Status != "" {
		message, _ = DecodeString(r.Status)
	}
	if !isPlain(word) || !isPlain(message) {
		is = perhapsTaken
	}
	r.taken = min(r.taken, is)
	return r
}

func isPlain(text string) bool {
	return !strings.ContainsFunc(text, func(c rune) bool {
		return c == utf8.RuneError || c < ' ' && c != '\t' && c != '\n' && c != '\r' || c == 0x7f
	})
}

// readArray is for tuwunel, which takes an array for presence and status_msg.
func readArray(text string) bodyReading {
	var elements []json.RawMessage
	word, ok := firstWord(text)
	if !ok || json.Unmarshal([]byte(text), &elements) != nil || len(elements) != 2 {
		return bodyReading{}
	}
	r := bodyReading{taken: perhapsTaken}
	switch status := string(elements[1]); {
	case status[0] == '"':
		r.Status = status
	case status != "null":
		return bodyReading{}
	}
	return r.withWord(Tuwunel, word)
}

// ReadEach returns what each homeserver makes of a body, and for the unknown one what is
// certain whichever it is.
func ReadEach(body []byte) (each [Tuwunel + 1]bodyReading) {
	all := bodyReading{taken: surelyTaken}
	takers := 0
	for _, d := range homeservers {
		r := d.read(body)
		each[d] = r
		all.taken = min(all.taken, r.taken)
		if r.taken == notTaken {
			continue
		}
		if takers++; takers == 1 {
			all.State, all.Status = r.State, r.Status
		} else if r.State != all.State {
			all.State = NoPresence
		}
	}
	if takers == 1 {
		// One of the others takes it too, if presence is turned off there.
		all.State = NoPresence
	}
	if takers > 0 {
		if takers < len(homeservers) || all.State == NoPresence {
			all.taken = perhapsTaken
		}
		each[UnknownDialect] = all
	}
	return each
}

// ReadShown reads the body of a presence that a homeserver shows. It reports false if that is none.
func ReadShown(answer []byte) (state Presence, message string, ok bool) {
	var shown struct {
		Presence  string `json:"presence"`
		StatusMsg string `json:"status_msg"`
	}
	ok = json.Unmarshal(answer, &shown) == nil
	return ParsePresence(shown.Presence), shown.StatusMsg, ok
}
