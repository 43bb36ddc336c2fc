package matrix

import (
	"bufio"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// synapseRoute is the pattern of synapse/rest/client/presence.py up to 1.157, as
// client_patterns spells it out.
var synapseRoute = regexp.MustCompile(`^/_matrix/client/(api/v1|r0|v3|unstable)/presence/([^/]*)/status`)

// FuzzParsePresenceRoute compares what is recognised with Synapse's pattern.
func FuzzParsePresenceRoute(f *testing.F) {
	for _, path := range []string{
		"/_matrix/client/v3/presence/@a:b/status", "/_matrix/client/api/v1/presence/%40a%2Fx%3Ab/status",
		"/_matrix/client/r0/presence/@a%252F:b/status/", "/_matrix/client/unstable/presence//statusfoo",
		"/_matrix/client/v3/presence/@a%:b/status", "/_matrix/client/v3//presence/@a:b/status",
		"/_matrix/client/v3/presence/@\xff\n:b/status;x", "/_matrix/client/v3/presence/list/@a:b",
	} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		route, ok := ParsePresenceRoute(path)
		match := synapseRoute.FindStringSubmatch(path)
		if ok != (match != nil) {
			t.Fatalf("%q: recognised: %v, by Synapse's pattern: %v", path, ok, match != nil)
		}
		if !ok {
			if route != (PresenceRoute{}) {
				t.Fatalf("%q: not recognised but %+v", path, route)
			}
			return
		}
		userID, err := url.PathUnescape(match[2])
		if err != nil {
			userID = match[2]
		}
		if route.UserID != userID {
			t.Fatalf("%q: user ID %q, want %q", path, route.UserID, userID)
		}
		// The handler looks at the decoded path first.
		if decoded, err := url.PathUnescape(path); err == nil &&
			(!strings.HasPrefix(decoded, ClientPrefix) || !strings.Contains(decoded, "/presence/")) {
			t.Fatalf("%q: recognised, but decoded it is %q", path, decoded)
		}
		if !route.Canonical {
			return
		}
		switch {
		case err != nil:
			t.Fatalf("%q: canonical with a bad escape", path)
		case match[0] != path:
			t.Fatalf("%q: canonical with something behind it", path)
		case match[1] != "r0" && match[1] != "v3":
			t.Fatalf("%q: canonical, but not every homeserver has %s", path, match[1])
		case !strings.HasPrefix(userID, "@") || !strings.Contains(userID, ":") || len(userID) > 255 ||
			!utf8.ValidString(userID) || strings.ContainsRune(userID, 0):
			t.Fatalf("%q: canonical, but %q is no user ID", path, userID)
		}
	})
}

// FuzzRequestTarget sends a request target through net/http's parser and writer, as a
// proxy does, and compares what is recognised in it with what Synapse's
// pattern finds in what goes upstream: no spelling may turn into a presence route
// behind the recogniser's back.
func FuzzRequestTarget(f *testing.F) {
	for _, target := range []string{
		"/_matrix/client/v3/presence/@a:b/status", "http://hs/_matrix/client/v3/presence/@a:b/status?x",
		"http:x/_matrix/client/v3/presence/@a:b/status", "http:_matrix/client/v3/presence/@a:b/status",
		"//_matrix/client/v3/presence/@a:b/status", "/_matrix/client/v3/%70resence/@a|:b/status",
		"/_matrix/client/v3/presence/@a%2Fx\xff:b/status", "/_matrix/client/v3/presence/@a:b/status#f",
		"/_matrix/client/v3/presence/@a%3F:b/status?access_token=x;y", "http:///_matrix/client/r0/presence/%3f/status", "*", "?",
	} {
		f.Add(target)
	}
	f.Fuzz(func(t *testing.T, target string) {
		line := "PUT " + target + " HTTP/1.1\r\nHost: hs\r\n\r\n"
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(line)))
		if err != nil || r.Method != "PUT" {
			return
		}
		route, ok := ParsePresenceRoute(r.URL.EscapedPath())

		out := *r.URL
		out.Scheme, out.Host = "http", "upstream"
		path, query, _ := strings.Cut(out.RequestURI(), "?")
		match := synapseRoute.FindStringSubmatch(path)
		if ok != (match != nil) {
			t.Fatalf("%q goes upstream as %q: recognised: %v, by Synapse's pattern: %v", target, path, ok, match != nil)
		}
		if query != r.URL.RawQuery {
			t.Fatalf("%q goes upstream with the query %q, but %q was looked at", target, query, r.URL.RawQuery)
		}
		if !ok {
			return
		}
		userID, err := url.PathUnescape(match[2])
		if err != nil || route.UserID != userID {
			t.Fatalf("%q goes upstream as %q: user ID %q, want %q, %v", target, path, route.UserID, userID, err)
		}
		// The second server parses it as the first did.
		again, err := url.ParseRequestURI(out.RequestURI())
		if err != nil || again.EscapedPath() != r.URL.EscapedPath() {
			t.Fatalf("%q goes upstream as %q, which is read as %v, %v", target, path, again, err)
		}
	})
}
