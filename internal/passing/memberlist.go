package passing

import "unicode/utf8"

// MemberList reads who is joined to a room, by the homeserver's answer to
// GET /rooms/{roomId}/joined_members or GET /rooms/{roomId}/members.
type MemberList struct {
	scan   scanner
	joined func(userID []byte)
	list   string // the member of the answer that has the list
	listed bool   // it was there

	// Of the event that is being read.
	field eventField
	given [eventFields]bool
	is    [eventFields]bool // it says what it says of somebody who is joined
	user  []byte
}

// eventField is a member of an m.room.member event that says who is what.
type eventField int

const (
	eventType eventField = iota
	eventStateKey
	eventContent
	eventMembership
	eventFields // how many there are
)

// NewJoinedMembers reads an answer to …/joined_members: {"joined":{userID:…}}. It calls joined for
// each user, whose ID is good until that returns. What it has been told counts only if the answer
// is [MemberList.Whole].
func NewJoinedMembers(joined func(userID []byte)) *MemberList {
	return newMemberList("joined", joined)
}

// NewMembers reads an answer to …/members: {"chunk":[…]} of m.room.member events, otherwise as
// [NewJoinedMembers].
func NewMembers(joined func(userID []byte)) *MemberList { return newMemberList("chunk", joined) }

func newMemberList(list string, joined func(userID []byte)) *MemberList {
	l := &MemberList{list: list, joined: joined}
	l.scan.visit = l
	return l
}

// Write goes on with the next bytes of the answer. It reports whether more are wanted.
func (l *MemberList) Write(p []byte) (more bool) { return l.scan.write(p) }

// Whole tells that the answer has ended, and was a list.
func (l *MemberList) Whole() bool { return l.scan.whole() && l.listed }

func (l *MemberList) member(depth int, key []byte) verdict {
	switch {
	case depth == 1 && string(key) == l.list:
		if l.listed {
			return fail
		}
		l.listed = true
		return enter
	case depth == 2:
		if l.list == "chunk" {
			return fail // it must be an array
		}
		if !utf8.Valid(key) {
			return fail
		}
		l.joined(key)
	case depth == 3 && string(key) == "type":
		return l.wants(eventType, take)
	case depth == 3 && string(key) == "state_key":
		return l.wants(eventStateKey, take)
	case depth == 3 && string(key) == "content":
		return l.wants(eventContent, enter)
	case depth == 4 && string(key) == "membership":
		return l.wants(eventMembership, take)
	}
	return skip
}

// wants notes that a field of an event follows, which must not have been there before.
func (l *MemberList) wants(field eventField, v verdict) verdict {
	if l.given[field] {
		return fail
	}
	l.field, l.given[field] = field, true
	return v
}

func (l *MemberList) element(depth int) verdict {
	if depth != 2 || l.list != "chunk" {
		return fail
	}
	l.given, l.is = [eventFields]bool{}, [eventFields]bool{}
	return enter
}

func (l *MemberList) value(_ int, text []byte) verdict {
	content, ok := stringOf(text)
	if !ok || !utf8.Valid(content) {
		return fail
	}
	switch l.field {
	case eventType:
		l.is[eventType] = string(content) == "m.room.member"
	case eventMembership:
		l.is[eventMembership] = string(content) == "join"
	case eventStateKey:
		l.is[eventStateKey], l.user = true, append(l.user[:0], content...)
	}
	return skip
}

func (l *MemberList) end(depth int) verdict {
	if depth == 3 && l.is[eventType] && l.is[eventStateKey] && l.is[eventMembership] {
		l.joined(l.user)
	}
	return skip
}
