package world_test

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/bubble"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/model"
)

// axis is one way in which worlds differ.
type axis[T any] struct {
	name   string
	values []value[T]
}

// value is a name and what it changes. The first of an axis is the plainest, to which a failure
// is reduced.
type value[T any] struct {
	name string
	set  func(T)
}

// The axes of a site.

var dialectAxis = axis[*plan]{"homeserver", func() (values []value[*plan]) {
	for _, d := range model.Dialects {
		values = append(values, value[*plan]{d.Name, func(p *plan) { p.dialect = d }})
	}
	return values
}()}

var profileAxis = axis[*site]{"profile", []value[*site]{
	{"default", func(s *site) {}},
	{"busy", func(s *site) {
		s.busy = true
		s.directives = append(s.directives, "repeat_writes absorb", "over_limit coalesce", "write_limit 2/1s burst 5",
			"sync limit", "sync_limit 1/2s burst 5", "preflight local")
		s.cache = append(s.cache, "stale_if_error 5m")
	}},
	{"stale", func(s *site) { s.stale = 5 * time.Minute; s.cache = append(s.cache, "stale_if_error 5m") }},
	{"hardly cached", func(s *site) {
		s.directives = append(s.directives, "read_limit off", "write_limit off")
		s.cache = append(s.cache, "ttl 1ms")
	}},
	{"limits off", func(s *site) { s.directives = append(s.directives, "write_limit off", "read_limit off") }},
	{"strict", func(s *site) {
		s.directives = append(s.directives, "write_limit 1/10s burst 1", "read_limit 1/1s burst 3")
	}},
	{"observe", func(s *site) { s.observe = true; s.directives = append(s.directives, "mode observe") }},
}}

// sitesAxis is which sites there are beside, and what their memories are called.
var sitesAxis = axis[*site]{"sites", []value[*site]{
	{"one name", func(s *site) { s.name = "name world" }},
	{"no names", func(s *site) {}},
	{"a staging copy", func(s *site) { s.staging = true }},
	{"a staging copy beside a name", func(s *site) { s.name, s.staging = "name world", true }},
}}

// handlersAxis is about what stands around matrix_presence.
var handlersAxis = axis[*site]{"handlers", []value[*site]{
	{"none", func(s *site) {}},
	{"passive health checks", func(s *site) { s.proxy = append(s.proxy, "fail_duration 20s", "max_fails 1") }},
	{"encode", func(s *site) { s.before = append(s.before, "encode gzip") }},
	{"request_header", func(s *site) { s.before = append(s.before, "request_header X-Site secret") }},
	{"header edits", func(s *site) {
		s.before = append(s.before, "header >Content-Type json JSON", "header >Access-Control-Allow-Origin https://a.example")
	}},
	{"gzip forced upstream", func(s *site) { s.proxy = append(s.proxy, "header_up Accept-Encoding gzip") }},
	{"handle blocks", func(s *site) { s.handle = true }},
}}

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
}}

var bodyAxis = axis[*call]{"body", []value[*call]{
	{"none", func(c *call) {}},
	{"of unknown length", func(c *call) { c.unknownLength = true }},
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
	{"none", func(c *call) { c.token = "" }},
}}

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
var hostileRoutes = axis[*call]{"route", []value[*call]{
	routeAxis.values[0], routeAxis.values[1], routeAxis.values[5], routeAxis.values[6], routeAxis.values[7], routeAxis.values[16], routeAxis.values[17], routeAxis.values[18],
	{"logout with a body that doesn't come", func(c *call) {
		c.method, c.path, c.stuck = "POST", "/_matrix/client/v3/logout", true
		c.patience = 500 * time.Millisecond
	}},
	{"login", func(c *call) { c.method, c.path, c.body = "POST", "/_matrix/client/v3/nologin", "{}" }},
	{"read at the staging site", func(c *call) { c.method, c.presence, c.staging = "GET", true, true }},
	{"write at the staging site", func(c *call) { c.method, c.presence, c.staging = "PUT", true, true }},
}}

// moodAxis is how a homeserver behaves for a while.
var moodAxis = axis[*mood]{"mood", []value[*mood]{
	{"well", func(m *mood) {}},
	{"slow whoami", func(m *mood) { m.whoami = model.Conduct{Before: 11 * time.Second} }},
	{"slow reads", func(m *mood) { m.presence = model.Conduct{Before: 6 * time.Second} }},
	{"late answers", func(m *mood) { m.presence = model.Conduct{After: 2 * time.Second}; m.whoami = m.presence }},
	{"presence fails", func(m *mood) { m.presence = model.Conduct{Fault: model.InternalError} }},
	{"presence fails at length", func(m *mood) { m.presence = model.Conduct{Fault: model.LargeError} }},
	{"down", func(m *mood) {
		m.presence = model.Conduct{Fault: model.Unreachable}
		m.whoami, m.other = m.presence, m.presence
	}},
	{"bad gateway", func(m *mood) {
		m.presence = model.Conduct{Fault: model.BadGateway}
		m.whoami, m.other = m.presence, m.presence
	}},
}}
