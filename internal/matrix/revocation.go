package matrix

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/members"
)

// RevocationScope tells whose access tokens a request may end.
type RevocationScope int

const (
	// RevokesToken is a logout: the request's own token.
	RevokesToken RevocationScope = iota + 1

	// RevokesUser may end any session of the requester: logout/all, device deletion,
	// password change, deactivation.
	RevokesUser

	// RevokesOther is a request to an admin API that may end any session of
	// the user whom its path names.
	RevokesOther

	// RevokesByLogin is a login. On Dendrite and tuwunel, one with the ID of a device that
	// is there ends that device's token. The answer says whose device it is.
	RevokesByLogin

	// RevokesByRefresh trades a refresh token for an access token, which may end the
	// one before: on tuwunel at once, on Synapse when the new one is used.
	RevokesByRefresh

	// RevokesNamed ends the token that the body names, whoever sends it (RFC 7009).
	RevokesNamed

	// Registers ends nothing. Its answer may say which refresh token belongs to which
	// access token, as a login's does.
	Registers
)

// Revocation is a request that, once it succeeds, may make tokens invalid.
type Revocation struct {
	Scope RevocationScope

	// UserID is set with RevokesOther.
	UserID string
}

// ParseRevocation recognises the requests by which tokens end on Synapse, Dendrite and
// tuwunel, by method and escaped path. The path is split raw, as homeservers do, and its
// segments are compared decoded. It may say yes to a request that no homeserver serves
// or that revokes nothing, which costs a lookup once it succeeds. Synapse's pattern for
// delete_devices had no end anchor.
//
// Tokens that end without such a request, by an authentication service, by
// expiry or by a password reset by mail, which names nobody, are for the lifetime
// of an identity to bound.
func ParseRevocation(method, escapedPath string) (Revocation, bool) {
	if method != "POST" && method != "PUT" && method != "DELETE" {
		return Revocation{}, false
	}
	switch segments := splitPath(escapedPath); {
	case method == "POST" && len(segments) >= 2 && segments[len(segments)-2] == "oauth2":
		return parseAuthentication(segments[len(segments)-1:])
	case len(segments) < 3:
		return Revocation{}, false
	case segments[0] == "_matrix" && segments[1] == "client":
		return parseClientRevocation(method, cutVersionSegments(segments[2:]))
	case (segments[0] == "_synapse" || segments[0] == "_dendrite") && segments[1] == "admin":
		return parseAdminRevocation(method, segments[0], segments[2:])
	case method == "POST" && segments[0] == "_tuwunel" && segments[1] == "oidc":
		return parseAuthentication(segments[2:])
	}
	return Revocation{}, false
}

// maxSegments is how many segments of a path are looked at. The longest path that counts
// has eight.
const maxSegments = 10

// splitPath returns the decoded segments of an escaped path, without a slash at its end.
func splitPath(escapedPath string) []string {
	path, ok := strings.CutPrefix(escapedPath, "/")
	if !ok {
		return nil
	}
	segments := strings.SplitN(strings.TrimRight(path, "/"), "/", maxSegments)
	for i, segment := range segments {
		if decoded, err := url.PathUnescape(segment); err == nil {
			segments[i] = decoded
		}
	}
	return segments
}

// cutVersionSegments removes the version from the front of the segments after
// /_matrix/client, and the name of a proposal after "unstable". It returns nil if there is
// no version.
func cutVersionSegments(segments []string) []string {
	switch segments[0] {
	case "v1", "v3", "r0":
		return segments[1:]
	case "api":
		if len(segments) > 1 && segments[1] == "v1" {
			return segments[2:]
		}
	case "unstable":
		if len(segments) > 1 && strings.Contains(segments[1], ".msc") {
			return segments[2:]
		}
		return segments[1:]
	}
	return nil
}

// parseAuthentication is for the routes of an authentication service: tuwunel has one
// below /_tuwunel/oidc, matrix-authentication-service has its own below /oauth2, which may
// be below a prefix of its own.
func parseAuthentication(segments []string) (Revocation, bool) {
	switch {
	case slices.Equal(segments, []string{"revoke"}):
		return Revocation{Scope: RevokesNamed}, true
	case slices.Equal(segments, []string{"token"}):
		return Revocation{Scope: RevokesByRefresh}, true
	}
	return Revocation{}, false
}

func parseClientRevocation(method string, segments []string) (Revocation, bool) {
	is := func(words ...string) bool { return slices.Equal(segments, words) }
	switch {
	case len(segments) == 0:
	case method == "POST" && is("logout"):
		return Revocation{Scope: RevokesToken}, true
	case method == "POST" && (is("logout", "all") || is("account", "password") || is("account", "deactivate") ||
		strings.HasPrefix(segments[0], "delete_devices")):
		return Revocation{Scope: RevokesUser}, true
	case method == "DELETE" && segments[0] == "devices" && len(segments) > 1:
		return Revocation{Scope: RevokesUser}, true
	case method == "POST" && is("login"):
		return Revocation{Scope: RevokesByLogin}, true
	case method == "POST" && is("refresh"):
		return Revocation{Scope: RevokesByRefresh}, true
	case method == "POST" && is("register"):
		return Revocation{Scope: Registers}, true
	case method == "PUT" && len(segments) == 3 && segments[0] == "admin" && segments[1] == "lock":
		return revocationOf(segments[2])
	}
	return Revocation{}, false
}

// parseAdminRevocation is for the routes of the admin APIs that end other users' sessions:
// on Synapse v1/deactivate/{id}, v1/reset_password/{id}, v2/users/{id} (PUT),
// v2/users/{id}/devices/{device} and v2/users/{id}/delete_devices, on Dendrite
// resetPassword/{id}.
func parseAdminRevocation(method, server string, segments []string) (Revocation, bool) {
	switch {
	case server == "_dendrite" && len(segments) == 2 && segments[0] == "resetPassword":
		return revocationOf(segments[1])
	case server == "_dendrite" || len(segments) < 3:
	case segments[1] == "deactivate" || segments[1] == "reset_password":
		return revocationOf(segments[2])
	case segments[1] != "users":
	case method == "PUT" && len(segments) == 3, len(segments) == 5 && segments[3] == "devices",
		len(segments) == 4 && segments[3] == "delete_devices":
		return revocationOf(segments[2])
	}
	return Revocation{}, false
}

// revocationOf is that of a user whom a path names. What is no user ID has no sessions.
func revocationOf(userID string) (Revocation, bool) {
	if !isUserID(userID) {
		return Revocation{}, false
	}
	return Revocation{Scope: RevokesOther, UserID: strings.Clone(userID)}, true
}

// maxNamedTokens is how many tokens of a body are looked at.
const maxNamedTokens = 8

// NamedTokens returns the tokens that a member of a body may name: a JSON object's, or a
// form's. It may be given more than once, and homeservers don't all take the same one.
func NamedTokens(body []byte, member string) (tokens []string) {
	if json.Valid(body) {
		for key, span := range members.Of(string(body)) {
			if key != member {
				continue
			}
			if token, ok := DecodeString(string(body[span.Start:span.End])); ok {
				tokens = append(tokens, token)
			}
		}
	} else {
		form, _ := url.ParseQuery(string(body)) // as much of it as can be read
		tokens = form[member]
	}
	return tokens[:min(len(tokens), maxNamedTokens)]
}
