package matrix

import (
	"net/url"
	"strings"
)

// OwnRoute is a route that serves only the user whom its path names, so that a 200 from the
// homeserver says whose the request's token is.
type OwnRoute struct{ UserID string }

// ParseOwnRoute recognises by method and escaped path the requests that a homeserver serves only to
// the user in their path, in the spelling that all have:
//
//   - POST …/user/{userId}/filter and GET …/user/{userId}/filter/{filterId}
//   - GET and PUT …/user/{userId}/account_data/{type}
//   - GET and PUT …/user/{userId}/rooms/{roomId}/account_data/{type}
//
// Which homeserver does so is for [OwnRoute.Proves].
func ParseOwnRoute(method, escapedPath string) (OwnRoute, bool) {
	rest, common, ok := cutVersion(escapedPath)
	if !ok || !common || method != "GET" && method != "PUT" && method != "POST" {
		return OwnRoute{}, false
	}
	if rest, ok = strings.CutPrefix(rest, "user/"); !ok {
		return OwnRoute{}, false
	}
	segments := strings.Split(rest, "/")
	for _, segment := range segments {
		if segment == "" {
			return OwnRoute{}, false
		}
	}
	switch n := len(segments); {
	case n == 2 && segments[1] == "filter" && method == "POST",
		n == 3 && segments[1] == "filter" && method == "GET":
	case n == 3 && segments[1] == "account_data" && method != "POST",
		n == 5 && segments[1] == "rooms" && segments[3] == "account_data" && method != "POST":
	default:
		return OwnRoute{}, false
	}
	userID, err := url.PathUnescape(segments[0])
	if err != nil || !isUserID(userID) {
		return OwnRoute{}, false
	}
	return OwnRoute{strings.Clone(userID)}, true
}

// Proves tells whether a 200 from this homeserver says whose the token is, and that the user is no
// guest: to guests none of this is served. Synapse compares the
// user with the requester in each of these (rest/client/filter.py, account_data.py), and so does
// Dendrite (syncapi/routing/filter.go, clientapi/routing/account_data.go). tuwunel doesn't look at
// the user of a filter's path, and lets appservices have others' account data.
func (r OwnRoute) Proves(d Dialect) bool { return d == Synapse || d == Dendrite }

// IsWhoAmI recognises a GET /account/whoami by escaped path, in the spelling that all homeservers
// have.
func IsWhoAmI(escapedPath string) bool {
	rest, common, ok := cutVersion(escapedPath)
	return ok && common && rest == "account/whoami"
}
