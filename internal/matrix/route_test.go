package matrix

import (
	"net/url"
	"strings"
	"testing"
	"testing/quick"
	"unicode/utf8"
)

// userIDOf returns a user ID of so many bytes.
func userIDOf(length int) string {
	return "@" + strings.Repeat("a", length-len("@:hs.example")) + ":hs.example"
}

func TestPresenceRoutesAreThoseOfSynapse(t *testing.T) {
	const v3 = "/_matrix/client/v3/presence/"
	canonical := func(userID string) PresenceRoute { return PresenceRoute{UserID: userID, Canonical: true} }
	odd := func(userID string) PresenceRoute { return PresenceRoute{UserID: userID} }

	tests := []struct {
		name, path string
		want       PresenceRoute
	}{
		{"v3", v3 + "@a:b/status", canonical("@a:b")},
		{"r0", "/_matrix/client/r0/presence/@a:b/status", canonical("@a:b")},
		// Dendrite and tuwunel answer 404 to these two.
		{"unstable", "/_matrix/client/unstable/presence/@a:b/status", odd("@a:b")},
		{"api/v1", "/_matrix/client/api/v1/presence/@a:b/status", odd("@a:b")},

		{"escaped sigil and colon", v3 + "%40a%3Ab/status", canonical("@a:b")},
		{"lower-case escapes", v3 + "%40a%3ab/status", canonical("@a:b")},
		{"escaped slash stays in the ID", v3 + "@a%2Fx:b/status", canonical("@a/x:b")},
		{"decoded once, not twice", v3 + "@a%252Fx:b/status", canonical("@a%2Fx:b")},
		{"a plus is no space", v3 + "@a+b:c/status", canonical("@a+b:c")},
		{"an escaped space is one", v3 + "@a%20b:c/status", canonical("@a b:c")},
		{"upper case is kept", v3 + "@Alice:HS/status", canonical("@Alice:HS")},
		{"port in the server name", v3 + "@a:b:8448/status", canonical("@a:b:8448")},
		{"empty localpart", v3 + "@:b/status", canonical("@:b")},
		{"line break", v3 + "@a%0Ab:c/status", canonical("@a\nb:c")},
		{"UTF-8", v3 + "@%C3%A4:b/status", canonical("@ä:b")},
		{"dots inside the ID", v3 + "@..%2F..:b/status", canonical("@../..:b")},
		{"255 bytes", v3 + userIDOf(255) + "/status", canonical(userIDOf(255))},

		{"256 bytes", v3 + userIDOf(256) + "/status", odd(userIDOf(256))},
		{"trailing slash", v3 + "@a:b/status/", odd("@a:b")},
		{"something below", v3 + "@a:b/status/x/y", odd("@a:b")},
		{"longer word", v3 + "@a:b/statusfoo", odd("@a:b")},
		{"matrix parameter", v3 + "@a:b/status;x", odd("@a:b")},
		{"escaped question mark", v3 + "@a:b/status%3Fx", odd("@a:b")},
		{"escaped fragment", v3 + "@a:b/status%23f", odd("@a:b")},
		{"NUL behind it", v3 + "@a:b/status%00", odd("@a:b")},
		{"empty ID", v3 + "/status", odd("")},
		{"no sigil", v3 + "a:b/status", odd("a:b")},
		{"no colon", v3 + "@a/status", odd("@a")},
		{"a room", v3 + "!a:b/status", odd("!a:b")},
		{"NUL", v3 + "@a%00:b/status", odd("@a\x00:b")},
		{"no UTF-8", v3 + "@a%FF:b/status", odd("@a\xff:b")},
		{"half a character", v3 + "@a%C3:b/status", odd("@a\xc3:b")},
		{"bad escape", v3 + "@a%zz:b/status", odd("@a%zz:b")},
		{"cut escape", v3 + "@a:b%/status", odd("@a:b%")},
		{"user named list", v3 + "list/status", odd("list")},
		{"dot segment as the ID", v3 + "%2e%2e/status", odd("..")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, ok := ParsePresenceRoute(tt.path); !ok || got != tt.want {
				t.Errorf("ParsePresenceRoute(%q) = %+v, %v, want %+v, true", tt.path, got, ok, tt.want)
			}
		})
	}
}

func TestPathsThatHomeserversAnswerWith404AreNotOurs(t *testing.T) {
	for _, path := range []string{
		"", "/", "/_matrix/client/", "/_matrix/client/v3/presence/", "/_matrix/client/v3/presence/@a:b",
		"/_matrix/client/v3/presence/@a:b/", "/_matrix/client/v3/presence/@a:b/statu",
		"//_matrix/client/v3/presence/@a:b/status", "/_matrix//client/v3/presence/@a:b/status",
		"/_matrix/client//v3/presence/@a:b/status", "/_matrix/client/v3//presence/@a:b/status",
		"/_matrix/client/v3/presence//@a:b/status", "/_matrix/client/v3/presence/@a:b//status",
		"/_matrix/client/v3/%70resence/@a:b/status", "/_matrix/client/v3/presence/@a:b/%73tatus",
		"/%5Fmatrix/client/v3/presence/@a:b/status", "/_matrix/client/v3%2Fpresence/@a:b/status",
		"/_matrix/client/%763/presence/@a:b/status", "/_matrix/client/v3/presence/@a:b%2Fstatus",
		"/_MATRIX/client/v3/presence/@a:b/status", "/_matrix/client/V3/presence/@a:b/status",
		"/_matrix/client/v3/Presence/@a:b/status", "/_matrix/client/v3/presence/@a:b/Status",
		"/_matrix/client/v3/presence/list/@a:b", "/_matrix/client/v3/presence/list/@a:b/status",
		"/_matrix/client/v3/presence/%2e%2e/presence/@a:b/status", "/_matrix/client/v3/presence/a/b/status",
		"/_matrix/client/v3/./presence/@a:b/status", "/_matrix/client/v3/x/../presence/@a:b/status",
		"/_matrix/client/v1/presence/@a:b/status", "/_matrix/client/v2_alpha/presence/@a:b/status",
		"/_matrix/client/api/v3/presence/@a:b/status", "/_matrix/client/v33/presence/@a:b/status",
		"/x/_matrix/client/v3/presence/@a:b/status", "_matrix/client/v3/presence/@a:b/status",
		"/_matrix/client/v3/profile/@a:b/status", "/_matrix/client/v3/sync",
	} {
		if got, ok := ParsePresenceRoute(path); ok {
			t.Errorf("ParsePresenceRoute(%q) = %+v, want none", path, got)
		}
	}
}

func TestEscapedUserIDsComeBack(t *testing.T) {
	law := func(localpart, domain string, escapeAll bool) bool {
		userID := "@" + localpart + ":" + domain
		segment := url.PathEscape(userID)
		if escapeAll {
			segment = strings.NewReplacer("@", "%40", ":", "%3a").Replace(segment)
		}
		route, ok := ParsePresenceRoute("/_matrix/client/r0/presence/" + segment + "/status")
		possible := len(userID) <= 255 && utf8.ValidString(userID) && !strings.Contains(userID, "\x00")
		return ok && route.UserID == userID && route.Canonical == possible
	}
	if err := quick.Check(law, nil); err != nil {
		t.Error(err)
	}
}

func BenchmarkParsePresenceRoute(b *testing.B) {
	for _, bm := range []struct{ name, path string }{
		{"presence", "/_matrix/client/v3/presence/@alice:example.com/status"},
		{"escaped", "/_matrix/client/v3/presence/%40alice%3Aexample.com/status"},
		{"sync", "/_matrix/client/v3/sync"},
		{"media", "/_matrix/media/v3/download/example.com/abcdefghijkl"},
	} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ParsePresenceRoute(bm.path)
			}
		})
	}
}
