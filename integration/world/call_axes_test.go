package world_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/bubble"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/model"
)

// The axes of a request.

var protocolAxis = axis[*call]{"protocol", func() (values []value[*call]) {
	for _, p := range bubble.Protocols {
		values = append(values, value[*call]{string(p), func(c *call) { c.protocol = p }})
	}
	return values
}()}

var headAxis = axis[*call]{"head", []value[*call]{
	{"plain", func(c *call) {}},
	{"16.5 KB in one field", func(c *call) { c.field("X-Large", strings.Repeat("x", 16896)) }},
	{"200 fields", func(c *call) {
		for i := range 200 {
			c.field(fmt.Sprintf("X-Field-%d", i), "x")
		}
	}},
	{"a large User-Agent", func(c *call) { c.field("User-Agent", strings.Repeat("u", 17000)) }},
	{"a large X-Forwarded-For", func(c *call) { c.field("X-Forwarded-For", strings.Repeat("192.0.2.9, ", 1600)+"192.0.2.9") }},
	{"cookies", func(c *call) { c.field("Cookie", "a="+strings.Repeat("c", 17000)) }},
	{"Range", func(c *call) { c.field("Range", "bytes=0-3") }},
	{"conditions", func(c *call) {
		c.field("If-None-Match", "*")
		c.field("If-Modified-Since", "Sat, 01 Jan 2000 00:00:00 GMT")
	}},
	{"gzip", func(c *call) { c.field("Accept-Encoding", "gzip") }},
	{"an origin", func(c *call) { c.field("Origin", "https://client.example") }},
	{"an empty value", func(c *call) { c.field("X-Empty", "") }},
	{"only-if-cached", func(c *call) { c.field("Cache-Control", "only-if-cached") }},
	{"method override", func(c *call) { c.field("X-HTTP-Method-Override", "PUT") }},
	{"64 KB in one field", func(c *call) { c.field("X-Larger", strings.Repeat("y", 64<<10)) }},
	{"Connection names another field", func(c *call) {
		c.http1 = true
		c.field("Connection", "X-Named")
		c.field("X-Named", "gone")
	}},
	{"Connection names Authorization", func(c *call) {
		c.http1, c.hopByHop = true, true
		c.field("Connection", "Authorization")
	}},
	{"an upgrade", func(c *call) {
		c.http1 = true
		for _, field := range [][2]string{{"Connection", "Upgrade"}, {"Upgrade", "websocket"}, {"Sec-WebSocket-Version", "13"}, {"Sec-WebSocket-Key", "AQIDBAUGBwgJCgsMDQ4PEA=="}} {
			c.field(field[0], field[1])
		}
	}},
	{"the same twice", func(c *call) { c.field("Accept", "application/json"); c.field("Accept", "*/*") }},
	{"Accept", func(c *call) { c.field("Accept", "text/html;q=0.1") }},
	{"identity refused", func(c *call) { c.field("Accept-Encoding", "br, identity;q=0") }},
	{"any encoding", func(c *call) { c.field("Accept-Encoding", "*") }},
	{"no-cache", func(c *call) { c.field("Cache-Control", "no-cache, max-age=0"); c.field("Pragma", "no-cache") }},
	{"If-Match", func(c *call) {
		c.field("If-Match", `"x"`)
		c.field("If-Unmodified-Since", "Sat, 01 Jan 2000 00:00:00 GMT")
	}},
	{"other addresses", func(c *call) { c.field("X-Real-IP", "198.51.100.7"); c.field("Forwarded", "for=198.51.100.7") }},
	{"another host", func(c *call) { c.field("X-Forwarded-Host", "other.example"); c.field("X-Forwarded-Proto", "https") }},
	{"bytes that are no ASCII", func(c *call) { c.field("X-Odd", "caf\xe9 \xff") }},
	{"a query beside", func(c *call) { c.ask("a=1;b=2&%zz=3&user_ID=x") }},
	{"at another name", func(c *call) { c.elsewhere = true }},
}}

var bodyAxis = axis[*call]{"body", []value[*call]{
	{"none", func(c *call) {}},
	{"of unknown length", func(c *call) { c.unknownLength = true }},
	{"slow", func(c *call) { c.slow = true }},
	{"cut off", func(c *call) { c.cutOff = true }},
	{"length 0", func(c *call) { c.zeroLength = true }},
	{"100-continue", func(c *call) { c.expects = true; c.field("Expect", "100-continue") }},
	{"trailers", func(c *call) { c.trailers = true }},
}}

// credentialAxis is how a token is shown. What follows comes after it.
var credentialAxis = axis[*call]{"credential", []value[*call]{
	{"header", func(c *call) {
		c.field("Authorization", "Bearer "+c.token)
		if c.as != "" {
			c.ask("user_id=" + url.QueryEscape(c.as))
		}
	}},
	{"query", func(c *call) { c.ask("access_token=" + c.token) }},
	{"user_id of oneself", func(c *call) {
		c.field("Authorization", "Bearer "+c.token)
		c.ask("user_id=" + url.QueryEscape(c.user))
	}},
	{"a long user_id", func(c *call) {
		c.field("Authorization", "Bearer "+c.token)
		c.ask("user_id=@" + strings.Repeat("x@", 3000) + ":example.com")
	}},
	{"an empty user_id", func(c *call) { c.field("Authorization", "Bearer "+c.token); c.ask("user_id=") }},
	{"two headers", func(c *call) {
		c.field("Authorization", "Bearer "+c.token)
		c.field("Authorization", "Bearer "+c.token)
	}},
	{"none", func(c *call) {}},
	{"header and query", func(c *call) { c.field("Authorization", "Bearer "+c.token); c.ask("access_token=" + c.token) }},
	{"header and another's in the query", func(c *call) {
		c.field("Authorization", "Bearer "+c.token)
		c.ask("access_token=" + c.others())
	}},
	{"header and an empty query", func(c *call) { c.field("Authorization", "Bearer "+c.token); c.ask("access_token=") }},
	{"two in the query", func(c *call) { c.ask("access_token=" + c.token); c.ask("access_token=" + c.others()) }},
	{"lower-case bearer", func(c *call) { c.field("Authorization", "bearer "+c.token) }},
	{"two spaces", func(c *call) { c.field("Authorization", "Bearer  "+c.token) }},
	{"Basic", func(c *call) { c.field("Authorization", "Basic "+c.token); c.ask("access_token=" + c.token) }},
	{"as a stranger", func(c *call) {
		c.field("Authorization", "Bearer "+c.token)
		c.ask("user_id=" + url.QueryEscape(stranger))
	}},
	{"as somebody", func(c *call) { c.field("Authorization", "Bearer "+c.token); c.ask("user_id=%40alice%3Aexample.com") }},
	{"as itself", func(c *call) { c.field("Authorization", "Bearer "+c.token); c.ask("user_id=" + c.who.user) }},
	{"device_id", func(c *call) { c.field("Authorization", "Bearer "+c.token); c.ask("device_id=LAPTOP") }},
}}

// others is somebody else's token. Who has no account has none of those.
func (c *call) others() string {
	if c.who.hostile {
		return bubble.TokenMark + "-made-up-4"
	}
	return tokenOf(actors[1], "PHONE")
}

var targetAxis = axis[*call]{"target", []value[*call]{
	{"somebody", func(c *call) {}},
	{"oneself", func(c *call) { c.target = c.user }},
	{"a stranger", func(c *call) { c.target = stranger }},
	{"unknown", func(c *call) { c.target = "@nobody:example.com" }},
	{"no user ID", func(c *call) { c.target = "nonsense" }},
	{"255 bytes", func(c *call) { c.target = "@" + strings.Repeat("l", 242) + ":example.com" }},
	{"20,000 bytes", func(c *call) { c.target = "@" + strings.Repeat("l", 20000) + ":example.com" }},
	{"with a slash", func(c *call) { c.target = "@x/y:example.com" }},
	{"upper case", func(c *call) { c.target = strings.ToUpper(c.target) }},
	{"remote", func(c *call) { c.target = "@friend:elsewhere.example" }},
	{"100,000 bytes", func(c *call) { c.target = "@" + strings.Repeat("l", 100_000) + ":example.com" }},
	{"empty", func(c *call) { c.target = "" }},
}}

// formAxis is how the path of a presence is written.
var formAxis = axis[*call]{"form", []value[*call]{
	{"v3", func(c *call) {}},
	{"r0", func(c *call) { c.form = strings.NewReplacer("/v3/", "/r0/") }},
	{"api/v1", func(c *call) { c.form = strings.NewReplacer("/v3/", "/api/v1/") }},
	{"unstable", func(c *call) { c.form = strings.NewReplacer("/v3/", "/unstable/") }},
	{"v1", func(c *call) { c.form = strings.NewReplacer("/v3/", "/v1/") }},
	{"more at the end", func(c *call) { c.form = strings.NewReplacer("/status", "/status/x") }},
	{"a slash at the end", func(c *call) { c.form = strings.NewReplacer("/status", "/status/") }},
	{"two slashes", func(c *call) { c.form = strings.NewReplacer("/_matrix/", "//_matrix/") }},
	{"escaped letters", func(c *call) { c.form = strings.NewReplacer("/presence/", "/%70resence/") }},
	{"escaped in part", func(c *call) { c.form = strings.NewReplacer("%40a", "%40%61", "alice", "%61lic%65") }},
	{"not escaped", func(c *call) { c.form = strings.NewReplacer("%40", "@", "%3A", ":") }},
	{"small hexadecimals", func(c *call) { c.form = strings.NewReplacer("%3A", "%3a") }},
}}

// wordAxis is what a write says.
var wordAxis = axis[*call]{"word", []value[*call]{
	{"online", func(c *call) { c.body = `{"presence":"online"}` }},
	{"unavailable with a text", func(c *call) { c.body = `{"presence":"unavailable","status_msg":"lunch"}` }},
	{"offline", func(c *call) { c.body = `{"presence":"offline"}` }},
	{"other case", func(c *call) { c.body = `{"presence":"ONLINE"}` }},
	{"unknown", func(c *call) { c.body = `{"presence":"foo"}` }},
	{"empty", func(c *call) { c.body = `{"presence":""}` }},
	{"missing", func(c *call) { c.body = `{}` }},
	{"twice", func(c *call) { c.body = `{"presence":"online","presence":"offline"}` }},
	{"a number", func(c *call) { c.body = `{"presence":1}` }},
	{"busy", func(c *call) { c.body = `{"presence":"busy"}` }},
	{"unstable busy", func(c *call) { c.body = `{"presence":"org.matrix.msc3026.busy"}` }},
	{"a text that is null", func(c *call) { c.body = `{"presence":"online","status_msg":null}` }},
	{"a text that is a number", func(c *call) { c.body = `{"presence":"online","status_msg":1}` }},
	{"null", func(c *call) { c.body = `{"presence":null}` }},
	{"one more member", func(c *call) { c.body = `{"presence":"online","currently_active":true}` }},
	{"a long text", func(c *call) { c.body = `{"presence":"online","status_msg":"` + strings.Repeat("t", 5000) + `"}` }},
	{"larger than is read", func(c *call) { c.body = `{"presence":"online","status_msg":"` + strings.Repeat("t", 70_000) + `"}` }},
	{"no JSON", func(c *call) { c.body = `{"presence":` }},
	{"no body", func(c *call) { c.body = "" }},
}}

// syncAxis is what a sync says.
var syncAxis = axis[*call]{"set_presence", []value[*call]{
	{"missing", func(c *call) {}},
	{"online", func(c *call) { c.ask("set_presence=online") }},
	{"unavailable", func(c *call) { c.ask("set_presence=unavailable") }},
	{"offline", func(c *call) { c.ask("set_presence=offline") }},
	{"other case", func(c *call) { c.ask("set_presence=ONLINE") }},
	{"unknown", func(c *call) { c.ask("set_presence=foo") }},
	{"empty", func(c *call) { c.ask("set_presence=") }},
}}

// routeAxis is what is asked for. The path of a presence is made of the target later.
var routeAxis = axis[*call]{"route", []value[*call]{
	{"read", func(c *call) { c.method, c.presence = "GET", true }},
	{"write", func(c *call) { c.method, c.presence = "PUT", true }},
	{"read by HEAD", func(c *call) { c.method, c.presence = "HEAD", true }},
	{"sync", func(c *call) {
		c.method, c.path, c.syncs = "GET", "/_matrix/client/v3/sync", true
		c.ask("timeout=3000")
	}},
	{"long poll", func(c *call) {
		c.method, c.path, c.syncs = "GET", "/_matrix/client/v3/sync", true
		c.ask("timeout=30000")
	}},
	{"logout", func(c *call) { c.method, c.path = "POST", "/_matrix/client/v3/logout" }},
	{"logout/all", func(c *call) { c.method, c.path = "POST", "/_matrix/client/v3/logout/all" }},
	{"delete a device", func(c *call) { c.method, c.path = "DELETE", "/_matrix/client/v3/devices/LAPTOP" }},
	{"delete devices", func(c *call) {
		c.method, c.path, c.body = "POST", "/_matrix/client/v3/delete_devices", `{"devices":["LAPTOP"]}`
	}},
	{"whoami", func(c *call) { c.method, c.path = "GET", "/_matrix/client/v3/account/whoami" }},
	{"message", func(c *call) {
		c.method, c.path, c.body = "PUT", "/_matrix/client/v3/rooms/!r:example.com/send/m.room.message/1", "{}"
	}},
	{"escaped message", func(c *call) {
		c.method, c.path, c.body = "PUT", "/_matrix/client/v3/rooms/!r:example.com/send/m%2Eroom.message/1", "{}"
	}},
	{"typing", func(c *call) {
		c.method, c.path, c.body = "PUT", "/_matrix/client/v3/rooms/!r:example.com/typing/@a:example.com", "{}"
	}},
	{"login", func(c *call) {
		c.method, c.path = "POST", "/_matrix/client/v3/login"
		c.body = fmt.Sprintf(`{"user":%q,"device_id":%q,"token":%q}`, c.who.user, c.device, secondToken(c.who, c.device))
	}},
	{"refresh", func(c *call) {
		c.method, c.path = "POST", "/_matrix/client/v3/refresh"
		c.body = fmt.Sprintf(`{"refresh_token":%q,"token":%q}`, model.RefreshOf(c.token), secondToken(c.who, c.device))
	}},
	{"receipt", func(c *call) {
		c.method, c.path, c.body = "POST", "/_matrix/client/v3/rooms/!r:example.com/receipt/m.read/$e", "{}"
	}},
	{"sliding sync", func(c *call) {
		c.method, c.path, c.body = "POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", `{"set_presence":"unavailable"}`
	}},
	{"events", func(c *call) { c.method, c.path = "GET", "/_matrix/client/v3/events" }},
	{"presence list", func(c *call) { c.method, c.path = "GET", "/_matrix/client/v3/presence/list/@alice:example.com" }},
	{"delete a presence", func(c *call) { c.method, c.presence = "DELETE", true }},
	{"post a presence", func(c *call) { c.method, c.presence, c.body = "POST", true, `{"presence":"online"}` }},
	{"admin deletes devices", func(c *call) {
		c.method, c.path, c.body = "POST", "/_synapse/admin/v2/users/"+url.PathEscape(c.target)+"/delete_devices", `{"devices":["PHONE"]}`
	}},
	{"media", func(c *call) { c.method, c.path = "GET", "/_matrix/media/v3/download/example.com/x" }},
	{"upload", func(c *call) {
		c.method, c.path, c.body = "POST", "/_matrix/media/v3/upload", strings.Repeat("m", 8_000)
	}},
	{"federation", func(c *call) { c.method, c.path, c.body = "PUT", "/_matrix/federation/v1/send/1", "{}" }},
	{"admin deactivates", func(c *call) {
		c.method, c.path = "POST", "/_synapse/admin/v1/deactivate/"+url.PathEscape(c.target)
	}},
	{"admin deactivates a long name", func(c *call) {
		c.method, c.path = "POST", "/_synapse/admin/v1/deactivate/"+strings.Repeat("x", 15000)
	}},
	{"oidc revoke", func(c *call) {
		c.method, c.path, c.body = "POST", "/_tuwunel/oidc/revoke", "token="+c.token
		c.field("Content-Type", "application/x-www-form-urlencoded")
	}},
	{"preflight", func(c *call) {
		c.method, c.presence = "OPTIONS", true
		c.field("Origin", "https://client.example")
		c.field("Access-Control-Request-Method", "GET")
	}},
	{"versions", func(c *call) { c.method, c.path = "GET", "/_matrix/client/versions" }},
}}

// hostileRoutes are what somebody without an account tries most.
var hostileRoutes = axis[*call]{"route", append(named(routeAxis,
	"read", "write", "logout", "logout/all", "delete a device", "refresh", "admin deactivates", "admin deactivates a long name", "oidc revoke", "sync", "typing",
), []value[*call]{
	{"logout with a body that doesn't come", func(c *call) {
		c.method, c.path, c.stuck = "POST", "/_matrix/client/v3/logout", true
		c.patience = 500 * time.Millisecond
	}},
	{"no login", func(c *call) { c.method, c.path, c.body = "POST", "/_matrix/client/v3/nologin", "{}" }},
	{"read at the staging site", func(c *call) { c.method, c.presence, c.staging = "GET", true, true }},
	{"write at the staging site", func(c *call) { c.method, c.presence, c.staging = "PUT", true, true }},
}...)}

// named are some of the values of an axis.
func named[T any](from axis[T], names ...string) (values []value[T]) {
	for _, name := range names {
		i := slices.IndexFunc(from.values, func(v value[T]) bool { return v.name == name })
		values = append(values, from.values[i])
	}
	return values
}
