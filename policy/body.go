package policy

import (
	"encoding/json"
	"fmt"
	"strings"
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
// encoding/json for the keys) and Synapse doesn't; further keys and any
// status_msg may stand.
func CheckPresenceBody(body []byte, values []string) error {
	if !json.Valid(body) {
		return &BodyError{"M_NOT_JSON", "The request body is not valid JSON."}
	}
	var content struct {
		Presence *json.RawMessage `json:"presence"`
	}
	if err := json.Unmarshal(body, &content); err != nil {
		return &BodyError{"M_BAD_JSON", "The request body must be a JSON object."}
	}
	if content.Presence == nil {
		return &BodyError{"M_BAD_JSON", "The request body has no presence."}
	}
	var presence string
	if err := json.Unmarshal(*content.Presence, &presence); err != nil {
		return &BodyError{"M_BAD_JSON", "The presence must be a string."}
	}
	for _, value := range values {
		if strings.EqualFold(presence, value) {
			return nil
		}
	}
	return &BodyError{"M_BAD_JSON", fmt.Sprintf("The presence must be one of %s.", strings.Join(values, ", "))}
}
