package matrix

import (
	"encoding/json"
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/members"
)

// MembershipScope tells whose membership of a room a request may change.
type MembershipScope int

const (
	// ChangesSender: its sender joins or leaves a room, or makes one.
	ChangesSender MembershipScope = iota + 1
	// ChangesUser: the user whom its path names.
	ChangesUser
	// ChangesNamed: the user whom its body names, see [NamedUsers].
	ChangesNamed
	// ChangesAll: any number of users.
	ChangesAll
)

// MembershipChange is a request that, once it succeeds, may have changed a membership.
type MembershipChange struct {
	Scope  MembershipScope
	UserID string // with ChangesUser
	Admin  bool   // it is a request to an admin API
}

// ParseMembershipChange recognises the requests of clients and admins by which memberships change,
// by method and escaped path. It may say yes to a request that no homeserver serves, or that
// changes none, which costs a question once it succeeds.
//
// Memberships that change without such a request, of remote users, by restricted rooms or by a
// server's own jobs, are for a permission's lifetime to bound.
func ParseMembershipChange(method, escapedPath string) (MembershipChange, bool) {
	if method != "POST" && method != "PUT" && method != "DELETE" {
		return MembershipChange{}, false
	}
	segments := splitPath(escapedPath)
	switch {
	case len(segments) < 3:
		return MembershipChange{}, false
	case segments[0] == "_matrix" && segments[1] == "client":
		return parseClientMembership(method, cutVersionSegments(segments[2:]))
	case (segments[0] == "_synapse" || segments[0] == "_dendrite") && segments[1] == "admin":
		change, ok := parseAdminMembership(method, segments[2:])
		change.Admin = ok
		return change, ok
	}
	return MembershipChange{}, false
}

func parseClientMembership(method string, segments []string) (MembershipChange, bool) {
	sender := MembershipChange{Scope: ChangesSender}
	switch n := len(segments); {
	case n == 0:
	case method == "POST" && (segments[0] == "createRoom" || n >= 2 && (segments[0] == "join" || segments[0] == "knock")),
		n == 2 && segments[0] == "account" && segments[1] == "deactivate" && method == "POST":
		return sender, true
	case segments[0] != "rooms" || n < 3:
	case method == "POST" && (segments[2] == "join" || segments[2] == "leave" || segments[2] == "forget" || segments[2] == "upgrade"):
		return sender, true
	case method == "POST" && (segments[2] == "kick" || segments[2] == "ban" || segments[2] == "unban" || segments[2] == "invite"):
		return MembershipChange{Scope: ChangesNamed}, true
	case method != "DELETE" && n >= 5 && segments[2] == "state" && segments[3] == "m.room.member":
		// A user ID may have slashes, which stand escaped.
		return membershipOf(segments[4])
	}
	return MembershipChange{}, false
}

// parseAdminMembership is for the routes of the admin APIs: on Synapse v1/join/{room}, rooms/{room}
// (DELETE, or POST …/delete), v1/deactivate/{user}, v2/users/{user}; on Dendrite
// evacuateRoom/{room}, evacuateUser/{user}, purgeRoom/{room}.
func parseAdminMembership(method string, segments []string) (MembershipChange, bool) {
	switch n := len(segments); {
	case n == 2 && segments[0] == "evacuateUser":
		return membershipOf(segments[1])
	case n == 2 && (segments[0] == "evacuateRoom" || segments[0] == "purgeRoom"):
		return MembershipChange{Scope: ChangesAll}, true
	case n < 3:
	case segments[1] == "join" && method == "POST":
		return MembershipChange{Scope: ChangesNamed}, true
	case segments[1] == "rooms" && (method == "DELETE" || n == 4 && segments[3] == "delete"):
		return MembershipChange{Scope: ChangesAll}, true
	case segments[1] == "deactivate", segments[1] == "users" && method == "PUT" && n == 3:
		return membershipOf(segments[2])
	}
	return MembershipChange{}, false
}

// membershipOf is that of a user whom a path names.
func membershipOf(userID string) (MembershipChange, bool) {
	if !isUserID(userID) {
		return MembershipChange{}, false
	}
	return MembershipChange{Scope: ChangesUser, UserID: strings.Clone(userID)}, true
}

// NamedUsers returns the users whom a body's "user_id" names. It may be given more than once, and
// homeservers don't all take the same one.
func NamedUsers(body []byte) (users []string) {
	if !json.Valid(body) {
		return nil
	}
	for key, span := range members.Of(string(body)) {
		if !strings.EqualFold(key, "user_id") || len(users) == maxNamedTokens {
			continue
		}
		if userID, ok := DecodeString(string(body[span.Start:span.End])); ok && isUserID(userID) {
			users = append(users, userID)
		}
	}
	return users
}
