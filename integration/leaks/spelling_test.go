package leaks_test

import (
	"fmt"
	"net/url"
	"strings"

	"pgregory.net/rapid"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/bubble"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// pick draws one of some values. The first is the plainest, which a failure is
// reduced to, and a little likelier than the others.
func pick[T any](t *rapid.T, label string, values ...T) T {
	return rapid.SampledFrom(values).Draw(t, label)
}

// often draws true so many times of a hundred.
func often(t *rapid.T, label string, percent int) bool {
	return rapid.IntRange(0, 99).Draw(t, label) >= 100-percent
}

// Users come in pairs that somebody might take for one another.
var lookalikes = [][2]string{
	{"@alice:example.com", "@Alice:example.com"},
	{"@x/y:example.com", "@x%2Fy:example.com"},
	{"@j\u00fcrgen:example.com", "@ju\u0308rgen:example.com"}, // composed and decomposed
	{"@bob:example.com", "@bob:example.com:8448"},
	{"@u v:example.com", "@u+v:example.com"},
	{"@carol:example.com", "@carol:other.example.org"},
	{"@dan;x:example.com", "@dan:example.com"},
	{"@erin?q:example.com", "@erin:example.com"},
	{"@fay/status:example.com", "@fay:example.com"},
	{"@status:example.com", "@presence:example.com"},
}

const (
	admin      = "@admin:example.com"
	appservice = "@bridge:example.com" // the sender
	nobody     = "@nobody:example.com"
)

var bridged = []string{"@bridge_1:example.com", "@bridge_2:example.com"}

func isBridged(user string) bool { return strings.HasPrefix(user, "@bridge_") }

// Devices that some homeserver might read differently.
var devices = []string{"PHONE", "desk/top", "tab%2Flet", "web app"}

// escapeSegment spells a path segment so that it decodes to s.
func escapeSegment(t *rapid.T, s string) string {
	switch pick(t, "escaping", "least", "path", "all", "lower", "some", "twice") {
	case "least":
		return escapeIf(s, upper, needsEscape)
	case "path":
		return url.PathEscape(s)
	case "all":
		return escapeIf(s, upper, func(byte) bool { return true })
	case "lower":
		return escapeIf(s, lower, func(c byte) bool { return needsEscape(c) || c == '@' || c == ':' })
	case "some":
		bits := rapid.Uint64().Draw(t, "which")
		return escapeIf(s, upper, func(c byte) bool { return needsEscape(c) || bits>>(c%64)&1 == 1 })
	default: // decodes to another user
		return escapeIf(escapeIf(s, upper, needsEscape), upper, needsEscape)
	}
}

func needsEscape(c byte) bool {
	return c <= ' ' || c >= 0x7f || strings.IndexByte("/%?#", c) >= 0
}

// Escapes are of either case.
const upper, lower = "%%%02X", "%%%02x"

func escapeIf(s, format string, which func(c byte) bool) string {
	var b strings.Builder
	for i := range len(s) {
		if which(s[i]) {
			fmt.Fprintf(&b, format, s[i])
		} else {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// presencePath spells the path of a user's presence, mostly in a way that is served.
func presencePath(t *rapid.T, user string, plain bool) string {
	if plain {
		return "/_matrix/client/v3/presence/" + escapeIf(user, upper, needsEscape) + "/status"
	}
	odd := pick(t, "odd part", "none", "version", "status", "presence", "root", "prefix", "all")
	part := func(name, plain string, others ...string) string {
		if odd != name && odd != "all" {
			return plain
		}
		return pick(t, name, append([]string{plain}, others...)...)
	}
	prefix := part("prefix", "", "/", "http://example.com", "/.", "/x/..")
	path := part("root", "/_matrix/client/", "/%5Fmatrix/client/", "/_matrix//client/", "/_MATRIX/client/", "/_matrix%2Fclient/") +
		part("version", "v3", "r0", "unstable", "api/v1", "v1", "V3", "v3%2F") + "/" +
		part("presence", "presence/", "%70resence/", "presence//", "./presence/", "x/../presence/", "Presence/", "presence/%2e%2e/presence/") +
		escapeSegment(t, user) +
		part("status", "/status", "/status/", "/statusfoo", "/status/x/status", "/status;x=1", "/status%3Fx", "//status",
			"/%73tatus", "/status#f", "/Status", "%2Fstatus", "/./status", "/status/../status", "/", "")
	if strings.HasPrefix(prefix, "http:") {
		// Caddy's log filter takes what follows "#" in an absolute URL for a
		// fragment, with the query in it, which no server does.
		path = strings.ReplaceAll(path, "#", "%23")
	}
	return prefix + path
}

// credential is how a client shows who it is.
type credential struct {
	fields []string // of the header
	query  string
	plain  bool // by one header or one parameter, as the specification has it
}

// spellCredential shows a token, perhaps with those of others and with the
// parameters of an appservice.
func (m *machine) spellCredential(t *rapid.T, token string, plain bool) credential {
	bearer := func(token string) string { return "Authorization: Bearer " + token }
	how := "header"
	if !plain {
		how = pick(t, "credential", "header", "header", "query", "both", "two", "lower", "spaces", "semicolon", "parameters",
			"escaped", "empty", "basic", "none", "comma")
	}
	c := credential{plain: how == "header" || how == "query" || how == "escaped"}
	var query []string
	switch how {
	case "header":
		c.fields = []string{bearer(token)}
	case "query":
		query = []string{"access_token=" + token}
	case "both":
		c.fields, query = []string{bearer(m.anyToken(t))}, []string{"access_token=" + token}
	case "two":
		c.fields = []string{bearer(token), bearer(m.anyToken(t))}
	case "lower":
		c.fields = []string{"authorization: " + pick(t, "scheme", "bearer ", "BEARER ") + token}
	case "spaces":
		c.fields = []string{"Authorization: Bearer  " + token}
	case "semicolon":
		query = []string{"x=1;access_token=" + token, "access_token=" + m.anyToken(t)}
	case "parameters":
		query = []string{"access_token=" + token, "access_token=" + m.anyToken(t)}
	case "escaped":
		query = []string{pick(t, "name", "access_token", "access%5Ftoken", "%61ccess_token") + "=" + escapeIf(token, lower, func(byte) bool { return true })}
	case "empty":
		c.fields, query = []string{"Authorization:"}, []string{"access_token=" + token}
	case "basic":
		c.fields, query = []string{"Authorization: Basic " + token}, []string{"access_token=" + token}
	case "comma":
		c.fields = []string{bearer(token + ", Bearer " + m.anyToken(t))}
	}

	asAppservice := m.hs.now().sessions[token].appservice
	if asAppservice && often(t, "masquerade", 80) || often(t, "user_id", 15) {
		user := pick(t, "user", append([]string{bridged[0], bridged[1], appservice}, m.cast...)...)
		names := []string{"user_id"}
		if !plain {
			names = pick(t, "user parameter", names, names, []string{"user%5Fid"}, []string{"user_id", "user_id"}, []string{"x=1;user_id"})
		}
		for _, name := range names {
			query = append(query, name+"="+url.QueryEscape(user))
			user = pick(t, "second user", bridged...)
		}
		c.plain = c.plain && len(names) == 1 && !strings.Contains(names[0], ";")
	}
	if asAppservice && often(t, "as device", 30) || often(t, "device_id", 5) {
		names := pick(t, "device parameter", []string{"device_id"}, []string{"org.matrix.msc3202.device_id"}, []string{"device_id", "org.matrix.msc3202.device_id"})
		for _, name := range names {
			query = append(query, name+"="+url.QueryEscape(pick(t, "device", append([]string{"AS", "none"}, devices...)...)))
		}
		c.plain = c.plain && len(names) == 1
	}
	if !plain && often(t, "more query", 10) {
		query = append(query, pick(t, "more", "x", "&&", "x=%zz", "Access_Token=1", "user_id", "x=;"))
	}
	if len(query) > 0 {
		c.query = "?" + strings.Join(query, "&")
	}
	return c
}

// anyToken draws a token, alive or not, or one that never was, be it one that names a user.
func (m *machine) anyToken(t *rapid.T) string {
	localpart, _, _ := strings.Cut(strings.TrimPrefix(m.cast[0], "@"), ":")
	return pick(t, "token", append([]string{bubble.TokenMark + "none", testkit.NamedToken(localpart, bubble.TokenMark+"forged")}, m.tokens...)...)
}

// otherFields are what clients send besides.
func otherFields(t *rapid.T) (fields []string) {
	if often(t, "fields", 20) {
		fields = append(fields, pick(t, "field", `If-None-Match: *`, `If-None-Match: "x"`, "Range: bytes=0-3", "Origin: https://client.example",
			"Accept-Encoding: gzip", "If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT", "X-Forwarded-For: 198.51.100.7", "Cache-Control: only-if-cached",
			"X-HTTP-Method-Override: PUT", "Expect: 100-continue"))
	}
	return fields
}
