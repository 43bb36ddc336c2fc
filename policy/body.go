package policy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/members"
)

// BodyError is a body of a presence write that no homeserver would take.
type BodyError struct {
	Errcode string // M_NOT_JSON or M_BAD_JSON
	Message string // for people, the "error" of the Matrix error object
}

func (e *BodyError) Error() string { return e.Errcode + ": " + e.Message }

// CheckPresenceBody returns a *[BodyError] if body is not a JSON object with
// a presence that is among values.
//
// What only some homeservers refuse is left to them. So keys and values are
// compared without case, as Dendrite does (syncapi/types/presence.go, and
// encoding/json for the keys) and Synapse doesn't. Further keys and any
// status_msg may stand, and of several spellings of a key one has to do.
func CheckPresenceBody(body []byte, values []string) error {
	if !json.Valid(body) {
		return &BodyError{"M_NOT_JSON", "The request body is not valid JSON."}
	}
	text := strings.TrimLeft(string(body), " \t\r\n")
	if text[0] != '{' {
		return &BodyError{"M_BAD_JSON", "The request body must be a JSON object."}
	}
	given := make(map[string]members.Span) // by spelling; of one given twice the last counts
	for key, value := range members.Of(text) {
		if strings.EqualFold(key, "presence") {
			given[key] = value
		}
	}
	for _, value := range given {
		var presence string
		if json.Unmarshal([]byte(text[value.Start:value.End]), &presence) != nil {
			continue
		}
		for _, allowed := range values {
			if strings.EqualFold(presence, allowed) {
				return nil
			}
		}
	}
	if len(given) == 0 {
		return &BodyError{"M_BAD_JSON", "The request body has no presence."}
	}
	return &BodyError{"M_BAD_JSON", fmt.Sprintf("The presence must be one of %s.", strings.Join(values, ", "))}
}

// BodyPresence returns the state that the body of a write sets, or NoPresence if that
// isn't certain. The body has been checked.
func BodyPresence(body []byte) Presence {
	state, _ := bodyPresence(body)
	return state
}

// SetBodyPresence returns the body of a write with another state, and everything else as it
// was. It returns it as it is if BodyPresence returns NoPresence.
func SetBodyPresence(body []byte, state Presence) []byte {
	was, value := bodyPresence(body)
	if was == NoPresence || was == state {
		return body
	}
	return slices.Concat(body[:value.Start], []byte(strconv.Quote(state.String())), body[value.End:])
}

func bodyPresence(body []byte) (state Presence, at members.Span) {
	given := false
	for key, value := range members.Of(string(body)) {
		if !strings.EqualFold(key, "presence") {
			continue
		}
		var text string
		if given || json.Unmarshal(body[value.Start:value.End], &text) != nil {
			return NoPresence, members.Span{}
		}
		state, at, given = ParsePresence(text), value, true
	}
	return state, at
}
