package policy

import (
	"testing"
	"testing/quick"
)

func TestRequestsThatRevokeTokens(t *testing.T) {
	const v3 = "/_matrix/client/v3/"
	token := Revocation{Scope: RevokesToken}
	own := Revocation{Scope: RevokesUser}
	of := func(userID string) Revocation { return Revocation{Scope: RevokesUser, UserID: userID} }

	tests := []struct {
		method, path string
		want         Revocation
	}{
		{"POST", v3 + "logout", token},
		{"POST", "/_matrix/client/r0/logout", token},
		{"POST", "/_matrix/client/unstable/logout", token},
		{"POST", "/_matrix/client/api/v1/logout", token},
		{"POST", v3 + "logout/", token},
		{"POST", v3 + "logout/all", own},
		{"POST", "/_matrix/client/api/v1/logout/all", own},
		{"POST", v3 + "delete_devices", own},
		{"POST", v3 + "account/password", own},
		{"POST", v3 + "account/deactivate", own},
		{"DELETE", v3 + "devices/ABC", own},
		{"DELETE", "/_matrix/client/r0/devices/ABC", own},
		{"DELETE", v3 + "devices/A/B", own},

		{"PUT", "/_synapse/admin/v2/users/@a:b", of("@a:b")},
		{"DELETE", "/_synapse/admin/v2/users/@a:b/devices/ABC", of("@a:b")},
		{"POST", "/_synapse/admin/v2/users/@a:b/delete_devices", of("@a:b")},
		{"POST", "/_synapse/admin/v1/deactivate/@a:b", of("@a:b")},
		{"POST", "/_synapse/admin/v1/reset_password/@a:b", of("@a:b")},
		{"POST", "/_dendrite/admin/resetPassword/@a:b", of("@a:b")},
	}
	for _, tt := range tests {
		if got, ok := ParseRevocation(tt.method, tt.path); !ok || got != tt.want {
			t.Errorf("ParseRevocation(%s %s) = %+v, %v, want %+v, true", tt.method, tt.path, got, ok, tt.want)
		}
	}
}

// A slash is a legal character of a localpart, and a client may name its device
// as it likes, so the words of the path may occur in both. What can't hold a slash
// is the server name, which follows the first colon.
func TestAdminRevocationsFindTheUserAmongSlashes(t *testing.T) {
	tests := []struct{ name, method, path, want string }{
		{"slash in the localpart", "PUT", "/_synapse/admin/v2/users/@team/bob:hs", "@team/bob:hs"},
		{"and a device", "DELETE", "/_synapse/admin/v2/users/@team/bob:hs/devices/ABC", "@team/bob:hs"},
		{"and devices", "POST", "/_synapse/admin/v2/users/@team/bob:hs:8448/delete_devices", "@team/bob:hs:8448"},
		{"device named delete_devices", "DELETE", "/_synapse/admin/v2/users/@a:hs/devices/delete_devices", "@a:hs"},
		{"device named x/delete_devices", "DELETE", "/_synapse/admin/v2/users/@a:hs/devices/x/delete_devices", "@a:hs"},
		{"device named x/devices/y", "DELETE", "/_synapse/admin/v2/users/@a:hs/devices/x/devices/y", "@a:hs"},
		{"localpart a/devices/b, deactivated", "POST", "/_synapse/admin/v1/deactivate/@a/devices/b:hs", "@a/devices/b:hs"},
		{"localpart a/delete_devices, deactivated", "POST", "/_synapse/admin/v1/deactivate/@a/delete_devices:hs", "@a/delete_devices:hs"},
		{"localpart a/devices/b, on Dendrite", "POST", "/_dendrite/admin/resetPassword/@a/devices/b:hs", "@a/devices/b:hs"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := Revocation{Scope: RevokesUser, UserID: tt.want}
			if got, ok := ParseRevocation(tt.method, tt.path); !ok || got != want {
				t.Errorf("ParseRevocation(%s %s) = %+v, %v, want %+v, true", tt.method, tt.path, got, ok, want)
			}
		})
	}
}

func TestAdminRevocationsNameTheUser(t *testing.T) {
	law := func(localpart, device []byte) bool {
		// Letters that make the words of the path likely.
		localparts := []string{"a", "/", "devices", "/devices/", "/delete_devices", "b"}
		userID, suffix := "@", ""
		for _, b := range localpart {
			userID += localparts[int(b)%len(localparts)]
		}
		userID += ":hs"
		for _, b := range device {
			suffix += localparts[int(b)%len(localparts)]
		}
		got, ok := ParseRevocation("DELETE", "/_synapse/admin/v2/users/"+userID+"/devices/"+suffix)
		return ok && got.UserID == userID
	}
	if err := quick.Check(law, nil); err != nil {
		t.Error(err)
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
		{"POST", "/_matrix/client/v3/login"},
		{"POST", "/_matrix/client/v3/logouts"},
		{"POST", "/_matrix/client/v3/x/logout"},
		{"POST", "/_matrix/client/v2/logout"},
		{"POST", "/_matrix/federation/v1/logout"},
		{"POST", "/logout"},
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
