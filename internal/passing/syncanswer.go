package passing

import (
	"encoding/json"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/members"
)

// SyncAnswer reads the presences that the homeserver's answer to a GET /sync tells.
type SyncAnswer struct {
	scan      scanner
	presence  func(sender string, content []byte)
	roomsLast bool
	found     bool
}

// NewSyncAnswer reads an answer to a sync. It calls presence for each m.presence event that says
// of one user what their presence is; content is a JSON object, and good until that returns. What
// has been told so counts, whether the rest of the answer comes or not. If roomsLast says that the
// homeserver sends presences before rooms, it stops at those: they are the largest part.
func NewSyncAnswer(roomsLast bool, presence func(sender string, content []byte)) *SyncAnswer {
	a := &SyncAnswer{presence: presence, roomsLast: roomsLast}
	a.scan.visit = a
	return a
}

// Write goes on with the next bytes of the answer. It reports whether more are wanted.
func (a *SyncAnswer) Write(p []byte) (more bool) { return a.scan.write(p) }

func (a *SyncAnswer) member(depth int, key []byte) verdict {
	switch {
	case depth == 1 && string(key) == "presence":
		a.found = true
		return enter
	case depth == 1 && string(key) == "rooms" && a.roomsLast:
		return stop
	case depth == 2 && string(key) == "events":
		return enter
	}
	return skip
}

func (a *SyncAnswer) element(depth int) verdict {
	if depth != 3 {
		return fail // "presence" is an array
	}
	return take
}

func (a *SyncAnswer) value(_ int, text []byte) verdict {
	if sender, content, ok := presenceEvent(text); ok {
		a.presence(sender, content)
	}
	return skip
}

// end stops after the presences: there is one object of them.
func (a *SyncAnswer) end(depth int) verdict {
	if depth == 2 && a.found {
		return stop
	}
	return skip
}

// presenceEvent returns what an event says, if it is an m.presence and says each thing once.
func presenceEvent(text []byte) (sender string, content []byte, ok bool) {
	if !json.Valid(text) {
		return "", nil, false
	}
	var kind string
	var given [3]bool
	for key, span := range members.Of(string(text)) {
		value := text[span.Start:span.End]
		var field int
		switch key {
		case "type":
			word, ok := stringOf(value)
			if !ok {
				return "", nil, false
			}
			field, kind = 0, string(word)
		case "sender":
			user, ok := stringOf(value)
			if !ok {
				return "", nil, false
			}
			field, sender = 1, string(user)
		case "content":
			field, content = 2, value
		default:
			continue
		}
		if given[field] {
			return "", nil, false
		}
		given[field] = true
	}
	return sender, content, given == [3]bool{true, true, true} && kind == "m.presence" && content[0] == '{'
}
