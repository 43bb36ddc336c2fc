package matrix

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// writtenOnSynapse does as synapse/rest/client/presence.py: returns the presence
// that a body sets, which may be none that Synapse knows.
func writtenOnSynapse(body []byte) (presence string, ok bool) {
	if !utf8.Valid(body) {
		return "", false
	}
	var content map[string]any // of a key given twice the last one counts, as in Python
	if json.Unmarshal(body, &content) != nil {
		return "", false
	}
	presence, ok = content["presence"].(string)
	delete(content, "presence")
	if message, given := content["status_msg"]; given {
		_, isString := message.(string)
		ok = ok && isString
		delete(content, "status_msg")
	}
	return presence, ok && len(content) == 0
}

// writtenOnDendrite does as clientapi/routing/presence.go: keys without case, and
// a null is as good as nothing.
func writtenOnDendrite(body []byte) (presence string, ok bool) {
	var content struct {
		Presence  string  `json:"presence"`
		StatusMsg *string `json:"status_msg,omitempty"`
	}
	ok = utf8.Valid(body) && json.Unmarshal(body, &content) == nil
	return content.Presence, ok
}

// FuzzCheckPresenceBody compares the check with what the homeservers take: a body
// that one of them takes passes. The other way round, a body that passes has
// a presence that is allowed.
func FuzzCheckPresenceBody(f *testing.F) {
	for _, body := range []string{
		`{"presence":"online","status_msg":"\"presence\":1"}`, `{"PRESENCE":"Busy"}`, `{"presence":null}`,
		`{"presence":"x","presence":"online"}`, `[{"presence":"online"}]`, `null`, `{"presence":"online"`, ``,
		`{"pre\u017fence":"online"}`, "{\"presence\":\"online\",\"status_msg\":\"\xff\"}",
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		kept := slices.Clone(body)
		err := CheckPresenceBody(body, nil, UnknownDialect)
		if !slices.Equal(body, kept) {
			t.Fatalf("%q was changed to %q", kept, body)
		}
		var refusal *BodyError
		if err != nil && !errors.As(err, &refusal) {
			t.Fatalf("%q: %v is no *BodyError", body, err)
		}
		if notJSON := refusal != nil && refusal.Errcode == "M_NOT_JSON"; notJSON == (json.Valid(body) && utf8.Valid(body)) {
			t.Fatalf("%q: JSON: %v, but %v", body, json.Valid(body), err)
		}
		if refusal != nil && refusal.Errcode != "M_NOT_JSON" && refusal.Errcode != "M_BAD_JSON" {
			t.Fatalf("%q: errcode %s", body, refusal.Errcode)
		}

		// The model: every key that reads as presence without case, by its value.
		var content map[string]any
		_ = json.Unmarshal(body, &content)
		allowed, null := false, false
		for key, value := range content {
			if strings.EqualFold(key, "presence") {
				word, isString := value.(string)
				allowed = allowed || isString && ParsePresence(word) != NoPresence
				null = null || value == nil
			}
		}
		if allowed = allowed && utf8.Valid(body); (err == nil) != allowed && !null {
			t.Fatalf("%q: %v, but an allowed presence: %v", body, err, allowed)
		}

		if presence, ok := writtenOnSynapse(body); ok && slices.Contains(presenceValues, presence) && err != nil {
			t.Fatalf("%q: %v, but Synapse takes it", body, err)
		}
		if presence, ok := writtenOnDendrite(body); ok && err != nil && slices.Contains(presenceValues, strings.ToLower(presence)) {
			t.Fatalf("%q: %v, but Dendrite takes it", body, err)
		}
	})
}
