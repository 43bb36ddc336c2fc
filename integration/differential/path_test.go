package differential_test

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
)

// grammar spells requests. All that it knows about homeservers is what theirs look
// like; that nobody serves most of what it makes is the point.
type grammar struct{ *rand.Rand }

// pick returns one of several.
func pick[T any](g grammar, from ...T) T { return from[g.IntN(len(from))] }

// chance is true once in so many times.
func (g grammar) chance(in int) bool { return g.IntN(in) == 0 }

// versions are the prefixes of paths that some homeserver has or has had, or that look
// like one.
var versions = []string{
	"v3", "r0", "unstable", "api/v1",
	"v1", "v2", "v2_alpha", "api/v3", "api/r0", "V3", "R0", "v3.0", "v33", "3", "Unstable", "api%2Fv1", "api//v1", "v3;x=1", "",
}

// target returns the target of a request for a user's presence, spelled somehow.
func (g grammar) target(userID string) string {
	version := pick(g, "v3", "v3", "v3", "r0", "r0", "unstable", "api/v1", pick(g, versions...))
	path := "/_matrix/client/" + version + "/presence/" + g.userID(userID) + "/status"
	// Half is left as it is, and what is mangled is mangled a little.
	for range pick(g, 0, 0, 0, 1, 1, 2) {
		path = g.mangle(path)
	}
	return path + g.query(userID)
}

// userID spells a user ID as one segment, mostly one that means this user.
func (g grammar) userID(userID string) string {
	escaped := func(in int, upper bool) string {
		var b strings.Builder
		for i := range len(userID) {
			if c := userID[i]; c == '/' || c == '?' || c == '%' || g.chance(in) {
				b.WriteString(escape(c, upper))
			} else {
				b.WriteByte(c)
			}
		}
		return b.String()
	}
	switch g.IntN(12) {
	case 0, 1, 2:
		return url.QueryEscape(userID) // as browsers do
	case 3, 4:
		return url.PathEscape(userID)
	case 5, 6:
		return escaped(2+g.IntN(4), g.chance(2))
	case 7:
		return escaped(1, g.chance(2)) // every byte
	case 8:
		return strings.ReplaceAll(escaped(4, true), "%", "%25") // twice
	case 9:
		return url.PathEscape(g.otherUserID(userID))
	case 10:
		return userID // with its slash, if it has one
	default:
		return strings.NewReplacer("@", "%40", ":", "%3a", "/", pick(g, "%2F", "%2f", "/")).Replace(userID)
	}
}

// otherUserID is nearly the same, or nobody's.
func (g grammar) otherUserID(userID string) string {
	local, domain, _ := strings.Cut(strings.TrimPrefix(userID, "@"), ":")
	return pick(g,
		strings.ToUpper(userID), "@"+strings.ToUpper(local)+":"+domain, "@"+local+":"+strings.ToUpper(domain),
		userID+" ", " "+userID, userID+":443", userID+".", "@"+local, local+":"+domain, "@@"+local+":"+domain, "@"+local+"::"+domain,
		"!"+local+":"+domain, userID+"\x00", userID+"\n", userID+"/", userID+"/..", "./"+userID, "../"+userID, "", ".", "..", "@:", ":",
		"@"+local+"\u200b:"+domain, "@"+local+":"+domain+"\ufeff", strings.Replace(userID, "s", "\u017f", 1), strings.Replace(userID, ":", "\uff1a", 1),
		"@"+local+"\xff:"+domain, strings.ReplaceAll(userID, "-", "+"), strings.ReplaceAll(userID, "-", " "),
		"@"+strings.Repeat("a", g.IntN(6000))+":"+domain, "list", userID+","+userID, userID+"?", userID+"#", userID+";x=1", userID+"%",
	)
}

func escape(c byte, upper bool) string {
	if upper {
		return fmt.Sprintf("%%%02X", c)
	}
	return fmt.Sprintf("%%%02x", c)
}

// odd are bytes, escapes and segments that servers and proxies have made much of.
var odd = []string{
	" ", "\t", "\x00", "\x7f", "\x80", "\xff", "\"", "<", ">", "\\", "^", "`", "{", "}", "|", "#", "?", "%", "+", ";", ",", "=", "&",
	"[", "]", "~", "!", "*", "'", "(", ")", "$", ":", "@", ".", "..", "/", "//", "ä", "\u017f", "\u212a", "\uff0f", "\u202e", "\xc0\xaf", "\xed\xa0\x80",
	"%00", "%01", "%09", "%0A", "%0d%0a", "%20", "%22", "%23", "%25", "%252F", "%25%32%46", "%26", "%2B", "%2b", "%2C", "%2E", "%2e%2e", "%2F", "%2f",
	"%3A", "%3b", "%3D", "%3F", "%40", "%5B", "%5c", "%5C..", "%7C", "%7f", "%80", "%c0%af", "%C3%A4", "%e2%80%ae", "%ed%a0%80", "%EF%BC%8F", "%ff",
	"%", "%2", "%zz", "%u002f", "%%32f", "/.", "/..", "/./", "/../", "/x/..", "/%2e/", "/%2e%2e/", "/;/", "/..;/", ";x=1", ";", ";/", "/;x",
}

// suffixes follow the last word.
var suffixes = []string{
	"/", "//", "/.", "/..", "/x", "/x/y", "/../status", "/status", "foo", "s", ".", ".json", ";", ";x", ";x=1", "%00", "%0a", "%20", "%2F", "%2f", "%3Fx", "%23f",
	"#", "#f", "#/status", " ", "\t", "+", "&x", "=", "%", "%2", "\\", "\xff", "ä", "|", "*", "$", "~", ":",
}

// prefixes come before the path.
var prefixes = []string{
	"http://127.0.0.1", "http://127.0.0.1/", "HTTP://127.0.0.1", "https://127.0.0.1", "http://user@127.0.0.1", "http:", "http:x", "http:/", "http://", "http:///",
	"ws://127.0.0.1", "x:", "mailto:x", "/", "//", "//127.0.0.1", "/.", "/./", "/..", "/x/..", "/%2e%2e", "\\", "/\\", "*", ".", "..", "?", "#", ";", "/;", "_", " ", "%2F", "/%2F", "\x00",
}

// mangle changes a path in one way.
func (g grammar) mangle(path string) string {
	if path == "" {
		return "/"
	}
	at := g.IntN(len(path))
	slash := g.slash(path)
	switch g.IntN(19) {
	case 0, 1: // an escape where none is needed
		return path[:at] + escape(path[at], g.chance(2)) + path[at+1:]
	case 2: // a run of them
		end := min(len(path), at+1+g.IntN(8))
		var run strings.Builder
		for i := at; i < end; i++ {
			run.WriteString(escape(path[i], g.chance(2)))
		}
		return path[:at] + run.String() + path[end:]
	case 3: // twice
		return path[:at] + strings.Replace(escape(path[at], g.chance(2)), "%", "%25", 1) + path[at+1:]
	case 4: // an escaped slash
		return path[:slash] + pick(g, "%2F", "%2f", "%252F", "\\", "%5C", "/%2F", "%2F/", ";/", "\uff0f", "%c0%af") + path[slash+1:]
	case 5: // another case
		c := path[at]
		if 'a' <= c|0x20 && c|0x20 <= 'z' {
			c ^= 0x20
		}
		return path[:at] + string(c) + path[at+1:]
	case 6: // a segment in another case
		end := slash + 1 + len(path[slash+1:])
		if next := strings.IndexByte(path[slash+1:], '/'); next >= 0 {
			end = slash + 1 + next
		}
		return path[:slash] + strings.ToUpper(path[slash:end]) + path[end:]
	case 7: // dots
		return path[:slash] + pick(g, "/.", "/..", "/x/..", "/%2e", "/%2E%2e", "/.%2e", "/x/%2e%2e", "/...", "/.;") + path[slash:]
	case 8: // slashes
		return path[:slash] + pick(g, "/", "//", "/%2F", "/\\") + path[slash:]
	case 9, 10:
		return path + pick(g, suffixes...)
	case 11:
		return path[:slash] + pick(g, ";", ";x", ";x=1", ";x=1;y=2", ";/", ";jsessionid=1") + path[slash:]
	case 12, 13:
		return path[:at] + pick(g, odd...) + path[at:]
	case 14:
		return pick(g, prefixes...) + path
	case 15: // very long
		return path[:at] + strings.Repeat(pick(g, "a", "/", "/.", "%41", ";", "%2F"), 1+g.IntN(3000)) + path[at:]
	case 16: // a byte less
		return path[:at] + path[at+1:]
	case 17: // a segment less, or one twice
		segments := strings.Split(path, "/")
		i := g.IntN(len(segments))
		if g.chance(2) {
			return strings.Join(slices.Delete(segments, i, i+1), "/")
		}
		return strings.Join(slices.Insert(segments, i, segments[i]), "/")
	default: // cut
		return path[:at+1]
	}
}

// slash returns the index of some slash, or of the first byte.
func (g grammar) slash(path string) int {
	var at []int
	for i := range len(path) {
		if path[i] == '/' {
			at = append(at, i)
		}
	}
	if at == nil {
		return 0
	}
	return pick(g, at...)
}

// query is a query that has nothing to say about a credential, except for a
// user_id that means nothing with an ordinary token.
func (g grammar) query(userID string) string {
	if !g.chance(3) {
		return ""
	}
	return pick(g, "?", "??", "?x", "?a=b&c=d", "?;", "?a;b", "?%", "?%zz", "?a=%", "?#f", "?/status", "?/../../x", "?=", "?&", "?&&;;", "?\xff", "?ä", "?+", "?a b",
		"?_method=GET", "?a[]=1", "?"+strings.Repeat("a=b&", g.IntN(1000)), "?"+strings.Repeat("x", g.IntN(5000)),
		"?user_id="+url.QueryEscape(userID), "?user_id=@someone:hs.test", "?User_Id=x", "?device_id=X", "?user_id=", "?set_presence=online", "?status")
}

// method is usually the one that is asked for.
func (g grammar) method(usual string) string {
	if !g.chance(8) {
		return usual
	}
	return pick(g, "GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "put", "Put", "PUT\t", "PROPFIND", "QUERY", "PUTX")
}

// overrides are header lines by which some frameworks take another method, path or
// host than that of the request line.
func (g grammar) overrides(target string) []string {
	if !g.chance(6) {
		return nil
	}
	return []string{pick(g,
		"X-HTTP-Method-Override: PUT", "X-HTTP-Method: PUT", "X-Method-Override: PUT", "X-HTTP-Method-Override: GET",
		"X-Original-URL: "+statusPath("@someone:hs.test"), "X-Rewrite-URL: /_matrix/client/versions", "X-Forwarded-Prefix: /x", "X-Forwarded-Host: example.com",
		"Connection: Authorization", "Connection: close, authorization", "Connection: x-forwarded-for", "Upgrade: websocket", "Connection: Upgrade",
		"Expect: x", "Content-Encoding: gzip", "Content-Type: text/plain", "Accept-Encoding: gzip", "Range: bytes=0-1", "If-None-Match: *", "Cache-Control: only-if-cached",
		"Forwarded: for=127.0.0.1;host=x", "X-Forwarded-For: 10.0.0.1", "TE: trailers", "Origin: null", "X-Forwarded-Proto: https",
	)}
}
