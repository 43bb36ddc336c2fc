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
// encoding/json for the keys) and Synapse doesn't. Further keys and any
// status_msg may stand, and of several spellings of a key one has to do.
func CheckPresenceBody(body []byte, values []string) error {
	if !json.Valid(body) {
		return &BodyError{"M_NOT_JSON", "The request body is not valid JSON."}
	}
	var content map[string]json.RawMessage
	if err := json.Unmarshal(body, &content); err != nil || content == nil {
		return &BodyError{"M_BAD_JSON", "The request body must be a JSON object."}
	}
	given := false
	for key, value := range content {
		if !strings.EqualFold(key, "presence") {
			continue
		}
		given = true
		var presence string
		if json.Unmarshal(value, &presence) != nil {
			continue
		}
		for _, allowed := range values {
			if strings.EqualFold(presence, allowed) {
				return nil
			}
		}
	}
	if !given {
		return &BodyError{"M_BAD_JSON", "The request body has no presence."}
	}
	return &BodyError{"M_BAD_JSON", fmt.Sprintf("The presence must be one of %s.", strings.Join(values, ", "))}
}
