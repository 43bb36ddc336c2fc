package matrix

import "strings"

// IsActivity reports whether a request is one by which a homeserver takes its user for
// active, which may change a presence of "unavailable" or "offline" to "online":
//
//   - Synapse: an event of type m.room.message, which may be a state event, be delayed, or
//     be among the first of a room; a receipt, a read marker or typing (all callers of
//     bump_presence_active_time);
//   - tuwunel: a receipt, a read marker, typing or a change of the profile, which is also
//     served under the name of its proposal
//     (src/api/client/{typing,profile}.rs, read_marker/*.rs);
//   - Synapse, for the legacy GET /events (handlers/events.py).
//
// It compares the decoded segments of the escaped path, as homeservers do with event types,
// and may say yes where a homeserver has no such route.
func IsActivity(method, escapedPath string) bool {
	reads := method == "GET" || method == "HEAD"
	if reads && !strings.HasSuffix(strings.TrimRight(escapedPath, "/"), "events") {
		return false // nearly all
	}
	segments := splitPath(escapedPath)
	if len(segments) < 4 || segments[0] != "_matrix" || segments[1] != "client" {
		return false
	}
	segments = cutVersionSegments(segments[2:])
	if reads {
		return len(segments) == 1 && segments[0] == "events"
	}
	switch {
	case len(segments) == 0:
		return false
	case len(segments) < 3:
		return segments[0] == "createRoom" || segments[0] == "profile" || segments[0] == "delayed_events"
	}
	switch segments[0] {
	case "profile", "delayed_events":
		return true
	case "rooms":
		switch segments[2] {
		case "receipt", "read_markers", "typing":
			return true
		case "send", "state":
			return len(segments) > 3 && segments[3] == "m.room.message"
		}
	}
	return false
}
