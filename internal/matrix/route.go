package matrix

import (
	"net/url"
	"strings"
	"unicode/utf8"
)

// ClientPrefix begins the path of every route that this package recognises
// in the client-server API. No other path needs a second look.
const ClientPrefix = "/_matrix/client/"

// MaxUserID is the longest user ID in bytes that the specification allows,
// sigil and server name included (appendices, "User identifiers").
const MaxUserID = 255

// versions are the prefixes under which Synapse serves presence: the v1=True
// patterns of synapse/rest/client/_base.py. Dendrite and tuwunel serve the
// common ones only and answer 404 to the others.
var versions = [...]struct {
	prefix string
	common bool
}{{"v3/", true}, {"r0/", true}, {"unstable/", false}, {"api/v1/", false}}

// PresenceRoute is what a path says about a request for a presence status.
type PresenceRoute struct {
	// UserID is the target: the path's user ID segment, percent-decoded once.
	// It may be anything that fits in a segment, the empty string included.
	UserID string

	// Canonical tells that every homeserver reads the path as the status of
	// UserID and nothing else. The spellings that only Synapse serves (two of
	// its prefixes, and up to 1.157 "…/statusfoo" and "…/status/x", because its
	// pattern had no end anchor) and segments that are no user ID are not
	// canonical: the answer to one must not be given to another.
	Canonical bool
}

// ParsePresenceRoute recognises /_matrix/client/{version}/presence/{userId}/status
// in an escaped path, as [net/url.URL.EscapedPath] returns it and as it goes
// upstream. It matches what Synapse matches or has matched,
//
//	^/_matrix/client/(api/v1|r0|v3|unstable)/presence/([^/]*)/status
//
// with the literal segments compared raw: homeservers answer 404 to
// "%70resence", to doubled slashes and to upper case, so those aren't ours.
func ParsePresenceRoute(escapedPath string) (PresenceRoute, bool) {
	rest, common, ok := cutVersion(escapedPath)
	if !ok {
		return PresenceRoute{}, false
	}
	if rest, ok = strings.CutPrefix(rest, "presence/"); !ok {
		return PresenceRoute{}, false
	}
	segment, rest, ok := strings.Cut(rest, "/")
	if !ok {
		return PresenceRoute{}, false
	}
	suffix, ok := strings.CutPrefix(rest, "status")
	if !ok {
		return PresenceRoute{}, false
	}
	userID, err := url.PathUnescape(segment)
	if err != nil {
		// Synapse keeps a bad escape as it is. net/http refuses such a
		// request before any handler sees it; another server may not.
		return PresenceRoute{UserID: segment}, true
	}
	return PresenceRoute{UserID: userID, Canonical: common && suffix == "" && isUserID(userID)}, true
}

// cutVersion removes /_matrix/client/{version}/ from the front of path, and
// reports whether it is a version that all homeservers have.
func cutVersion(path string) (rest string, common, ok bool) {
	path, ok = strings.CutPrefix(path, ClientPrefix)
	if !ok {
		return "", false, false
	}
	for _, version := range versions {
		if rest, ok = strings.CutPrefix(path, version.prefix); ok {
			return rest, version.common, true
		}
	}
	return "", false, false
}

// isUserID reports whether s has the shape that homeservers must accept
// (appendices, "Historical user IDs"): @localpart:domain without NUL.
// Bytes that aren't UTF-8 are left out because homeservers replace them
// differently.
func isUserID(s string) bool {
	return len(s) <= MaxUserID && strings.HasPrefix(s, "@") && strings.Contains(s, ":") &&
		!strings.Contains(s, "\x00") && utf8.ValidString(s)
}
