package passing

import (
	"encoding/json"
	"unicode/utf8"
)

// SyncAnswer reads the presences that the homeserver's answer to a GET /sync tells.
type SyncAnswer struct {
	scan      scanner
	presence  func(sender string, content []byte)
	roomsLast bool
	found     bool

	// Of the event that is being read.
	field   presenceField
	given   [presenceFields]int // how often
	sender  string
	content []byte
	is      bool // it is an m.presence
}

// presenceField is a member of an m.presence event.
type presenceField int

const (
	presenceType presenceField = iota
	presenceSender
	presenceContent
	presenceFields // how many there are
)

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
	case depth == 4 && string(key) == "type":
		return a.takes(presenceType)
	case depth == 4 && string(key) == "sender":
		return a.takes(presenceSender)
	case depth == 4 && string(key) == "content":
		return a.takes(presenceContent)
	}
	return skip
}

// takes notes that a field of an event follows.
func (a *SyncAnswer) takes(field presenceField) verdict {
	a.field = field
	a.given[field]++
	return take
}

func (a *SyncAnswer) element(depth int) verdict {
	if depth != 3 {
		return fail // "presence", or an event, is an array
	}
	a.given, a.sender, a.content, a.is = [presenceFields]int{}, "", a.content[:0], false
	return enter
}

func (a *SyncAnswer) value(_ int, text []byte) verdict {
	if a.field == presenceContent {
		a.content = append(a.content[:0], text...)
		return skip
	}
	word, ok := stringOf(text)
	switch {
	case !ok || !utf8.Valid(word):
		a.given[a.field]++ // it is none
	case a.field == presenceSender:
		a.sender = string(word)
	default:
		a.is = string(word) == "m.presence"
	}
	return skip
}

// end tells of an event, if it is an m.presence and says each thing once, and stops after the
// presences: there is one object of them.
func (a *SyncAnswer) end(depth int) verdict {
	switch {
	case depth == 4 && a.is && a.given == [presenceFields]int{1, 1, 1} &&
		len(a.content) > 0 && a.content[0] == '{' && json.Valid(a.content):
		a.presence(a.sender, a.content)
	case depth == 2 && a.found:
		return stop
	}
	return skip
}
