package matrix

import (
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// MemberListRoute is a GET of the members of a room.
type MemberListRoute struct {
	RoomID string

	// Events tells that the answer has the events of all members (…/members), and not only who is
	// joined (…/joined_members).
	Events bool
}

// MaxRoomID is the longest room ID in bytes that the specification allows.
const MaxRoomID = 255

// listParameters are those that a query may have for a list of members to say who is joined now.
// A list "at" another time doesn't. What is left out of a list is for the reader to notice: they
// must be in it themselves.
var listParameters = []string{
	"membership", "not_membership", "access_token", "user_id", "device_id", "org.matrix.msc3202.device_id",
}

// ParseMemberListRoute recognises a GET of a room's members by escaped path and raw query, in the
// spelling that all homeservers have. It must be told of no other method.
func ParseMemberListRoute(escapedPath, rawQuery string) (MemberListRoute, bool) {
	if !strings.HasSuffix(escapedPath, "members") {
		return MemberListRoute{}, false
	}
	rest, common, ok := cutVersion(escapedPath)
	if !ok || !common {
		return MemberListRoute{}, false
	}
	if rest, ok = strings.CutPrefix(rest, "rooms/"); !ok {
		return MemberListRoute{}, false
	}
	segment, list, _ := strings.Cut(rest, "/")
	roomID, err := url.PathUnescape(segment)
	if list != "members" && list != "joined_members" || err != nil || !IsRoomID(roomID) {
		return MemberListRoute{}, false
	}
	if _, ok := parseOnly(rawQuery, listParameters); !ok {
		return MemberListRoute{}, false
	}
	return MemberListRoute{RoomID: strings.Clone(roomID), Events: list == "members"}, true
}

// IsRoomID reports whether s may be the ID of a room. Those of newer versions of rooms have no
// server name.
func IsRoomID(s string) bool {
	return len(s) > 1 && len(s) <= MaxRoomID && s[0] == '!' && !strings.Contains(s, "\x00") && utf8.ValidString(s)
}

// parseOnly parses a query. It reports false unless it has no other parameters than these, each once,
// and all homeservers read it alike.
func parseOnly(rawQuery string, parameters []string) (values url.Values, ok bool) {
	if rawQuery == "" {
		return nil, true
	}
	values, err := url.ParseQuery(rawQuery)
	if err != nil || strings.Contains(rawQuery, ";") {
		return nil, false
	}
	for name, given := range values {
		if len(given) != 1 || !slices.Contains(parameters, name) {
			return nil, false
		}
	}
	return values, true
}

// syncParameters are those of a GET /sync.
var syncParameters = []string{
	"filter", "since", "full_state", "set_presence", "timeout", "use_state_after", "org.matrix.msc4222.use_state_after",
	"access_token", "user_id", "device_id", "org.matrix.msc3202.device_id",
}

// ParseSince returns from which batch on a GET /sync asks for news, or "" if it asks for all that
// there is. It reports false if homeservers may read the query in several ways.
func ParseSince(rawQuery string) (since string, ok bool) {
	values, ok := parseOnly(rawQuery, syncParameters)
	if !ok {
		return "", false
	}
	since = values.Get("since")
	return since, since != "" || !values.Has("since")
}

// EachSince returns from which batches on a GET /sync may ask Synapse for news, however it reads its query: names and values
// may be escaped, and ";" may separate them as "&" does. The first counts, and what has no "=" is none (Twisted's parse_qs).
func EachSince(rawQuery string) (values []string) {
	values = []string{""}
	for _, separators := range []string{"&", "&;"} {
		for pair := range strings.FieldsFuncSeq(rawQuery, func(c rune) bool { return strings.ContainsRune(separators, c) }) {
			name, value, isPair := strings.Cut(pair, "=")
			if !isPair || unescape(name) != "since" {
				continue
			}
			if value = unescape(value); !slices.Contains(values, value) {
				values = append(values, value)
			}
			break
		}
	}
	return values
}
