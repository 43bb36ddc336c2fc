package policy

import "strings"

// IsActivity reports whether a request is one by which a homeserver takes its user for
// active, which may change a presence of "unavailable" or "offline" to "online":
//
//   - Synapse: a message, a receipt, a read marker or typing (all callers of
//     bump_presence_active_time);
//   - tuwunel: a receipt, a read marker, typing or a change of the profile
//     (src/api/client/{typing,profile}.rs, read_marker/*.rs);
//   - Synapse, for the legacy GET /events (handlers/events.py).
//
// It compares the escaped path in few steps and may say yes where a homeserver has no
// such route.
func IsActivity(method, escapedPath string) bool {
	rest, _, ok := cutVersion(escapedPath)
	if !ok || method == "GET" || method == "HEAD" {
		return ok && rest == "events"
	}
	switch kind, rest, _ := strings.Cut(rest, "/"); kind {
	case "profile":
		return true
	case "rooms":
		_, rest, _ = strings.Cut(rest, "/") // past the room
		switch kind, rest, _ := strings.Cut(rest, "/"); kind {
		case "receipt", "read_markers", "typing":
			return true
		case "send":
			return strings.HasPrefix(rest+"/", "m.room.message/")
		}
	}
	return false
}
