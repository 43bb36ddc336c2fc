package matrix

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/quick"
	"unsafe"
)

// What each homeserver does, by its source (Synapse 1.160, Dendrite 0.13.8) or tried
// (tuwunel 1.6.1).
func TestRequestsThatRevokeTokens(t *testing.T) {
	const v3 = "/_matrix/client/v3/"
	token := Revocation{Scope: RevokesToken}
	own := Revocation{Scope: RevokesUser}
	login := Revocation{Scope: RevokesByLogin}
	refresh := Revocation{Scope: RevokesByRefresh}
	of := func(userID string) Revocation { return Revocation{Scope: RevokesOther, UserID: userID} }

	tests := []struct {
		method, path string
		want         Revocation
	}{
		// All three: the token, and on Synapse its device with all of its tokens.
		{"POST", v3 + "logout", token},
		{"POST", "/_matrix/client/r0/logout", token},
		{"POST", "/_matrix/client/unstable/logout", token},
		{"POST", "/_matrix/client/api/v1/logout", token},
		{"POST", v3 + "logout/", token},
		{"POST", v3 + "%6Cogout", token},
		{"POST", "/_matrix/client/%763/logout", token},
		// All three: all of the user's tokens.
		{"POST", v3 + "logout/all", own},
		{"POST", v3 + "logout/%61ll/", own},
		{"POST", "/_matrix/client/api/v1/logout/all", own},
		// All three: those of the devices, and with the password all but the requester's.
		{"POST", v3 + "delete_devices", own},
		{"POST", v3 + "delete_devices/x", own},
		{"POST", v3 + "account/password", own},
		{"POST", v3 + "account%2Fpassword", Revocation{}},
		{"POST", v3 + "account/deactivate", own},
		{"DELETE", v3 + "devices/ABC", own},
		{"DELETE", "/_matrix/client/r0/devices/ABC", own},
		{"DELETE", v3 + "devices/A/B", own},
		{"DELETE", v3 + "devices/A%2FB", own},

		// Dendrite (PerformDeviceCreation) and tuwunel: the token that the device had. Synapse
		// lets it live.
		{"POST", v3 + "login", login},
		{"POST", "/_matrix/client/r0/login", login},
		{"POST", "/_matrix/client/api/v1/login", login},
		// tuwunel: the token before, at once. Synapse: when the new one is first used, and what
		// Synapse itself remembers of it lives on. Dendrite: not served.
		{"POST", v3 + "refresh", refresh},
		{"POST", "/_matrix/client/v1/refresh", refresh},
		{"POST", "/_matrix/client/unstable/org.matrix.msc2918/refresh", refresh},
		{"POST", "/_tuwunel/oidc/token", refresh},
		{"POST", "/_tuwunel/oidc/revoke", Revocation{Scope: RevokesNamed}},
		{"POST", "/_tuwunel/oidc/%72evoke/", Revocation{Scope: RevokesNamed}},
		// matrix-authentication-service, where it is served by the same site.
		{"POST", "/oauth2/revoke", Revocation{Scope: RevokesNamed}},
		{"POST", "/oauth2/token", refresh},
		{"POST", "/auth/oauth2/revoke", Revocation{Scope: RevokesNamed}},
		{"POST", "/my/mas/oauth2/token/", refresh},
		{"POST", v3 + "register", Revocation{Scope: Registers}},

		{"PUT", "/_synapse/admin/v2/users/@a:b", of("@a:b")},
		{"PUT", "/_synapse/admin/v2/users/%40a%3ab", of("@a:b")},
		{"PUT", "/_synapse/admin/v2/users/%40team%2Fbob%3Ahs", of("@team/bob:hs")},
		{"DELETE", "/_synapse/admin/v2/users/@a:b/devices/ABC", of("@a:b")},
		{"DELETE", "/_synapse/admin/v2/users/%40team%2Fbob:hs:8448/devices/x%2Fdelete_devices", of("@team/bob:hs:8448")},
		{"POST", "/_synapse/admin/v2/users/@a:b/delete_devices", of("@a:b")},
		{"POST", "/_synapse/admin/v1/deactivate/@a:b", of("@a:b")},
		{"POST", "/_synapse/admin/v1/deactivate/%40a%2Fdevices%2Fb:hs", of("@a/devices/b:hs")},
		{"POST", "/_synapse/admin/v1/reset_password/@a:b/", of("@a:b")},
		{"POST", "/_dendrite/admin/resetPassword/@a:b", of("@a:b")},
		{"POST", "/_dendrite/admin/resetPassword/%40a%2Fb%3Ahs", of("@a/b:hs")},
		// By a proposal (MSC4323), a lock.
		{"PUT", "/_matrix/client/v1/admin/lock/%40a:b", of("@a:b")},
		{"PUT", "/_matrix/client/unstable/uk.timedout.msc4323/admin/lock/@a:b", of("@a:b")},
	}
	for _, tt := range tests {
		if got, ok := ParseRevocation(tt.method, tt.path); ok != (tt.want != Revocation{}) || got != tt.want {
			t.Errorf("ParseRevocation(%s %s) = %+v, %v, want %+v", tt.method, tt.path, got, ok, tt.want)
		}
	}
}

// Whatever characters an ID has, it is in one segment of the escaped path, and what is
// kept of it is no part of the request.
func TestAdminRevocationsNameTheUser(t *testing.T) {
	law := func(localpart, device []byte) bool {
		// Letters that make the words of the path likely.
		localparts := []string{"a", "/", "devices", "/devices/", "/delete_devices", "b", "%", "?"}
		userID, suffix := "@", "x"
		for _, b := range localpart[:min(len(localpart), 15)] {
			userID += localparts[int(b)%len(localparts)]
		}
		userID += ":hs"
		for _, b := range device {
			suffix += localparts[int(b)%len(localparts)]
		}
		got, ok := ParseRevocation("DELETE", "/_synapse/admin/v2/users/"+url.PathEscape(userID)+"/devices/"+url.PathEscape(suffix))
		return ok && got.UserID == userID
	}
	if err := quick.Check(law, nil); err != nil {
		t.Error(err)
	}
	path := "/_synapse/admin/v1/deactivate/@a:b"
	got, _ := ParseRevocation("POST", path)
	if unsafe.StringData(got.UserID) == unsafe.StringData(path[len(path)-4:]) {
		t.Error("the user ID is a part of the path")
	}
}

func TestRequestsThatRevokeNothing(t *testing.T) {
	tests := []struct{ method, path string }{
		{"GET", "/_matrix/client/v3/logout"},
		{"OPTIONS", "/_matrix/client/v3/logout"},
		{"DELETE", "/_matrix/client/v3/logout"},
		{"PUT", "/_matrix/client/v3/account/password"},
		{"GET", "/_matrix/client/v3/account/deactivate"},
		{"GET", "/_matrix/client/v3/devices/ABC"},
		{"PUT", "/_matrix/client/v3/devices/ABC"},
		{"POST", "/_matrix/client/v3/devices/ABC"},
		{"DELETE", "/_matrix/client/v3/devices"},
		{"GET", "/_matrix/client/v3/login"},
		{"POST", "/_matrix/client/v3/login/get_token"},
		{"POST", "/_matrix/client/unstable/org.matrix.msc3882/login/token"},
		{"GET", "/_matrix/client/v3/login/sso/redirect"},
		{"POST", "/_matrix/client/v3/register/email/requestToken"},
		{"POST", "/_tuwunel/oidc/revoke/x"},
		{"POST", "/oauth2/registration"},
		{"POST", "/oauth2"},
		{"GET", "/oauth2/revoke"},
		{"POST", "/_tuwunel/oidc/register"},
		{"GET", "/_tuwunel/oidc/token"},
		{"POST", "/_tuwunel/oidc"},
		{"POST", "/_matrix/client/v3/logouts"},
		{"POST", "/_matrix/client/v3/x/logout"},
		{"POST", "/_matrix/client/v2/logout"},
		{"POST", "/_matrix/federation/v1/logout"},
		{"POST", "/logout"},
		// It makes a token, and one more never ends another.
		{"POST", "/_synapse/admin/v1/users/@a:b/login"},
		{"POST", "/_synapse/admin/v2/users/@a:b"},
		{"PUT", "/_synapse/admin/v1/suspend/@a:b"},
		// What is no user ID is nobody's.
		{"POST", "/_synapse/admin/v1/deactivate/a"},
		{"POST", "/_synapse/admin/v1/deactivate/@a"},
		{"POST", "/_synapse/admin/v1/deactivate/@a:b%00"},
		{"POST", "/_synapse/admin/v1/deactivate/@a:b%ff"},
		{"POST", "/_synapse/admin/v1/deactivate/@team/bob:hs"},
		{"POST", "/_synapse/admin/v1/deactivate/@" + strings.Repeat("a", 254) + ":b"},
		{"PUT", "/_synapse/admin/v2/users/"},
		{"POST", "/_matrix/client"},
		{"POST", "/_matrix/client/"},
		{"POST", "/_matrix/client/api"},
		{"POST", "/_matrix/client/unstable"},
		{"POST", "_matrix/client/v3/logout"},
		{"POST", "//_matrix/client/v3/logout"},
		{"GET", "/_synapse/admin/v2/users/@a:b"},
		{"HEAD", "/_synapse/admin/v2/users/@a:b"},
		{"OPTIONS", "/_synapse/admin/v2/users/@a:b"},
		{"GET", "/_synapse/admin/v2/users/@a:b/devices/ABC"},
		{"POST", "/_synapse/admin/v1/purge_history/!r:b"},
		{"POST", "/_dendrite/admin/evacuateUser/@a:b"},
		{"POST", "/_matrix/media/v3/upload"},
		{"PUT", "/_matrix/client/v3/presence/@a:b/status"},
		{"", ""},
	}
	for _, tt := range tests {
		if got, ok := ParseRevocation(tt.method, tt.path); ok || got != (Revocation{}) {
			t.Errorf("ParseRevocation(%s %s) = %+v, %v, want none", tt.method, tt.path, got, ok)
		}
	}
}

// What ends may be named more than once, by JSON or by a form, and a client may make up as
// many members as it likes.
func TestNamedTokens(t *testing.T) {
	for _, tc := range []struct {
		body string
		want []string
	}{
		{`{"token":"a"}`, []string{"a"}},
		{`{"token":"a","other":"b","t\u006fken":"c"}`, []string{"a", "c"}},
		{`{"token":null,"nested":{"token":"b"}}`, nil},
		{`["token","a"]`, nil},
		{"token=a&token_type_hint=access_token&token=b%2B", []string{"a", "b+"}},
		{"", nil},
		{strings.Repeat("token=a&", 9), slices.Repeat([]string{"a"}, 8)},
	} {
		if got := NamedTokens([]byte(tc.body), "token"); !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %q, want %q", tc.body, got, tc.want)
		}
	}
}
