package matrix

import (
	"testing"
	"unsafe"
)

// Whatever a path is, who is named by it has a user ID that a homeserver may have, and a
// copy of it.
func FuzzParseRevocation(f *testing.F) {
	for _, path := range []string{
		"/_matrix/client/v3/logout", "/_matrix/client/unstable/org.matrix.msc2918/refresh", "/_matrix/client/api/v1/login",
		"/_synapse/admin/v2/users/%40a%3Ab/devices/x", "/_synapse/admin/v1/deactivate/@a:b", "/_dendrite/admin/resetPassword/@a:b/",
		"/_tuwunel/oidc/revoke", "/oauth2/token", "/%5Fmatrix/client/v3/logout/all", "//", "/", "", "/%", "/_matrix/client/unstable//",
		"/_matrix/client/v3/rooms/!r/send/m%2Eroom.message/1", "/_matrix/client/unstable/uk.tcpip.msc4133/profile/@a:b/tz",
	} {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE"} {
			f.Add(method, path)
		}
	}
	f.Fuzz(func(t *testing.T, method, path string) {
		IsActivity(method, path)
		got, ok := ParseRevocation(method, path)
		if ok != (got.Scope != 0) || (got.UserID != "") != (got.Scope == RevokesOther) {
			t.Errorf("%s %q: %+v, %v", method, path, got, ok)
		}
		if got.UserID == "" {
			return
		}
		if !isUserID(got.UserID) {
			t.Errorf("%s %q names %q", method, path, got.UserID)
		}
		start, end := uintptr(unsafe.Pointer(unsafe.StringData(path))), uintptr(unsafe.Pointer(unsafe.StringData(got.UserID)))
		if end >= start && end < start+uintptr(len(path)) {
			t.Errorf("%s %q: the user ID is a part of the path", method, path)
		}
	})
}
