package policy

import "strings"

// RevocationScope tells how far a successful request revokes access tokens.
type RevocationScope int

const (
	// RevokesToken is a logout: the request's own token.
	RevokesToken RevocationScope = iota + 1

	// RevokesUser may end any session of a user: logout/all, device deletion,
	// password change, deactivation.
	RevokesUser
)

// Revocation is a request that, once it succeeds, makes tokens invalid.
type Revocation struct {
	Scope RevocationScope

	// UserID is set where the path of an admin API names the user whose
	// sessions end. Otherwise they are the requester's own.
	UserID string
}

// ParseRevocation recognises the requests of the client API and of the admin APIs
// by which tokens are revoked on Synapse, Dendrite and tuwunel, by method and
// decoded path. It may say yes to a request that revokes nothing, which costs a
// lookup. Synapse's pattern for delete_devices has no end anchor.
//
// Tokens that end without such a request, by an authentication service or by
// expiry, are for the lifetime of an identity to bound.
func ParseRevocation(method, path string) (Revocation, bool) {
	switch {
	case strings.HasPrefix(path, ClientPrefix):
		return parseClientRevocation(method, path)
	case strings.HasPrefix(path, "/_synapse/admin/"), strings.HasPrefix(path, "/_dendrite/admin/"):
		return parseAdminRevocation(method, path)
	}
	return Revocation{}, false
}

func parseClientRevocation(method, path string) (Revocation, bool) {
	rest, _, ok := cutVersion(path)
	if !ok {
		return Revocation{}, false
	}
	switch method {
	case "POST":
		switch strings.TrimSuffix(rest, "/") {
		case "logout":
			return Revocation{Scope: RevokesToken}, true
		case "logout/all", "account/password", "account/deactivate":
			return Revocation{Scope: RevokesUser}, true
		}
		if strings.HasPrefix(rest, "delete_devices") {
			return Revocation{Scope: RevokesUser}, true
		}
	case "DELETE":
		if strings.HasPrefix(rest, "devices/") {
			return Revocation{Scope: RevokesUser}, true
		}
	}
	return Revocation{}, false
}

// adminRevocations are the admin routes that end other users' sessions, by
// what stands before the user ID in their path.
var adminRevocations = [...]string{
	"/_synapse/admin/v1/deactivate/",
	"/_synapse/admin/v1/reset_password/",
	"/_synapse/admin/v2/users/", // PUT, …/devices/{id}, …/delete_devices
	"/_dendrite/admin/resetPassword/",
}

func parseAdminRevocation(method, path string) (Revocation, bool) {
	if method == "GET" || method == "HEAD" || method == "OPTIONS" {
		return Revocation{}, false
	}
	for _, prefix := range adminRevocations {
		rest, ok := strings.CutPrefix(path, prefix)
		if !ok {
			continue
		}
		// A localpart may hold slashes, and so may what follows the ID; a server
		// name has none.
		if colon := strings.IndexByte(rest, ':'); colon >= 0 {
			if slash := strings.IndexByte(rest[colon:], '/'); slash >= 0 {
				rest = rest[:colon+slash]
			}
		}
		return Revocation{Scope: RevokesUser, UserID: rest}, true
	}
	return Revocation{}, false
}
