package world_test

import (
	"net/http"
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/bubble"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/model"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// The axes of a site.

var dialectAxis = axis[*plan]{"homeserver", func() (values []value[*plan]) {
	for _, d := range model.Dialects {
		values = append(values, value[*plan]{d.Name, func(p *plan) { p.dialect = d }})
	}
	return values
}()}

// waysAxis is what else differs between homeservers.
var waysAxis = axis[*plan]{"ways", []value[*plan]{
	{"plain", func(p *plan) {}},
	{"compresses", func(p *plan) { p.gzip = true }},
	{"its clock is an hour ahead", func(p *plan) { p.ahead = hour }},
	{"its clock is an hour behind", func(p *plan) { p.ahead = -hour }},
}}

var profileAxis = axis[*site]{"profile", []value[*site]{
	{"default", func(s *site) {}},
	{"busy", func(s *site) {
		s.directives = append(s.directives, "repeat_writes absorb", "over_limit coalesce", "write_limit 2/1s burst 5",
			"sync_presence limit", "sync_limit 1/2s burst 5", "preflight local")
		s.cache = append(s.cache, "stale_if_error 5m")
	}},
	{"stale", func(s *site) { s.cache = append(s.cache, "stale_if_error 5m") }},
	{"hardly cached", func(s *site) {
		s.directives = append(s.directives, "read_limit off", "write_limit off")
		s.cache = append(s.cache, "ttl 1ms")
	}},
	{"limits off", func(s *site) { s.directives = append(s.directives, "write_limit off", "read_limit off") }},
	{"strict", func(s *site) {
		s.directives = append(s.directives, "write_limit 1/10s burst 1", "read_limit 1/1s burst 3")
	}},
	{"observe", func(s *site) { s.directives = append(s.directives, "mode observe") }},
	{"absorbing", func(s *site) { s.directives = append(s.directives, "repeat_writes absorb", "write_limit off") }},
	{"coalescing", func(s *site) {
		s.directives = append(s.directives, "over_limit coalesce", "write_limit 1/5s burst 1")
	}},
	{"one may wait", func(s *site) {
		s.directives = append(s.directives, "over_limit coalesce", "write_limit 1/2s burst 1")
		s.coalesce = append(s.coalesce, "pending 1", "max_age 3s")
	}},
	{"cache off", func(s *site) { s.cache = append(s.cache, "off") }},
	{"per viewer", func(s *site) { s.cache = append(s.cache, "per_viewer") }},
	{"nothing is refused from memory", func(s *site) {
		s.cache = append(s.cache, "forbidden_ttl 0", "settle 0")
		s.identity = append(s.identity, "rejected_ttl 0", "rejected_limit off")
	}},
	{"few made-up tokens", func(s *site) { s.identity = append(s.identity, fewMadeUp...) }},
	{"generous", func(s *site) {
		s.directives = append(s.directives, "write_limit 10/1s burst 10", "read_limit 100/1s burst 100")
	}},
	{"short identities", func(s *site) { s.identity = append(s.identity, "ttl 1s", "timeout 1s", "rejected_ttl 1ms") }},
	{"small tables", func(s *site) { s.states, s.permissions, s.tokens = 2, 8, 2 }},
	{"small tables, busy", func(s *site) {
		s.states, s.permissions, s.tokens = 1, 1, 1
		s.directives = append(s.directives, "repeat_writes absorb", "over_limit coalesce", "write_limit 2/1s burst 5", "sync_presence limit")
	}},
	{"syncs limited hard", func(s *site) {
		s.directives = append(s.directives, "sync_presence limit", "sync_limit 1/30s burst 1", "refresh 1s")
	}},
	{"small bodies", func(s *site) { s.directives = append(s.directives, "max_body 30") }},
	{"learning", func(s *site) { s.directives = append(s.directives, "learn on") }},
	{"learning, busy", func(s *site) {
		s.directives = append(s.directives, "learn on", "repeat_writes absorb", "sync_presence limit")
		s.identity = append(s.identity, "ttl 1s")
	}},
	{"giving way", func(s *site) { s.directives = append(s.directives, "brown_out on") }},
	{"giving way, busy", func(s *site) {
		s.directives = append(s.directives, "brown_out on", "learn on", "repeat_writes absorb", "over_limit coalesce", "sync_presence limit")
		s.cache = append(s.cache, "stale_if_error 5m")
	}},
	{"words are named", func(s *site) { s.directives = append(s.directives, "presence_values online unavailable offline") }},
}}

var fewMadeUp = []string{"rejected_limit 1/1h"}

// sitesAxis is which sites there are beside, and what their memories are called.
var sitesAxis = axis[*site]{"sites", []value[*site]{
	{"one name", func(s *site) { s.name = "name world" }},
	{"no names", func(s *site) {}},
	{"a staging copy", func(s *site) { s.staging = true }},
	{"a staging copy beside a name", func(s *site) { s.name, s.staging = "name world", true }},
}}

// shapeAxis is how the site is written.
var shapeAxis = axis[*site]{"shape", []value[*site]{
	{"plain", func(s *site) {}},
	{"handle blocks", func(s *site) {
		s.place = "PRESENCE\nhandle /_matrix/* {\nPROXY\n}\nhandle {\nrespond \"nothing here\" 200\n}"
	}},
	{"handle around both", func(s *site) {
		s.name = "name world" // which two of them need
		s.place = "handle /_matrix/* {\nPRESENCE\nPROXY\n}\nhandle {\nPRESENCE\nPROXY\n}"
	}},
	{"a route", func(s *site) { s.place = "route {\nPRESENCE\nPROXY\n}" }},
	{"a named route", func(s *site) {
		s.name = "name world" // which it needs
		// Caddy 2.11 adapts only the first of two directives without matchers.
		s.top, s.place = "&(matrix) {\nroute {\nPRESENCE\nPROXY\n}\n}", "invoke matrix"
	}},
	{"a snippet", func(s *site) { s.top, s.place = "(matrix) {\nPRESENCE\nPROXY\n}", "import matrix" }},
	{"handle_path around both", func(s *site) { s.prefix, s.place = "/hs", "handle_path /hs/* {\nPRESENCE\nPROXY\n}" }},
	{"strip_prefix", func(s *site) {
		s.prefix, s.place = "/hs", "route {\nuri strip_prefix /hs\nPRESENCE\nPROXY\n}"
	}},
	{"two names", func(s *site) { s.other = "alias.example.com" }},
	{"two ports", func(s *site) { s.other = "example.com:8448" }},
	{"a wildcard", func(s *site) { s.host, s.other = "*.example.com", "example.com" }},
}}

// upstreamAxis is how Caddy speaks to the homeserver.
var upstreamAxis = axis[*site]{"upstream", []value[*site]{
	{"direct", func(s *site) {}},
	{"HTTP/1.1", func(s *site) { s.transport = "transport wire" }},
	{"closed each time", func(s *site) { s.transport = "transport wire {\nkeepalive off\n}" }},
	{"h2c", func(s *site) {
		s.transport = "transport wire {\nversions h2c\n}"
		if testkit.Race { // Caddy 2.11 has one: reverseproxy.bodyNopCloserIfNotRead is read while it is closed
			s.transport = "transport wire"
		}
	}},
	{"not compressed", func(s *site) { s.transport = "transport wire {\ncompression off\n}" }},
	{"a Unix socket", func(s *site) { s.upstreams, s.transport = "unix/"+socket, "transport wire" }},
	{"two ways", func(s *site) { s.upstreams += " localhost:8018" }},
	{"two ways in turn, and retries", func(s *site) {
		s.upstreams += " localhost:8018"
		s.proxy, s.answers = append(s.proxy, "lb_policy round_robin", "lb_retries 1"), true
	}},
	{"gzip forced", func(s *site) { s.proxy = append(s.proxy, "header_up Accept-Encoding gzip") }},
	{"passive health checks", func(s *site) {
		s.proxy, s.answers = append(s.proxy, "fail_duration 20s", "max_fails 1"), true
	}},
	{"active health checks", func(s *site) {
		s.proxy, s.answers = append(s.proxy, "health_uri /_matrix/client/versions", "health_interval 7s", "health_status 404"), true
	}},
	{"buffers", func(s *site) { s.proxy = append(s.proxy, "request_buffers 4KiB", "response_buffers 4KiB") }},
	{"flushes at once", func(s *site) { s.proxy = append(s.proxy, "flush_interval -1") }},
}}

// socket is where a homeserver listens, too.
const socket = "/run/homeserver.sock"

// doorAxis is by which way clients come.
var doorAxis = axis[*site]{"door", []value[*site]{
	{"the Internet", func(s *site) {}},
	{"PROXY protocol", func(s *site) { s.door = bubble.ProxyProtocol }},
	{"X-Forwarded-For", func(s *site) { s.door = bubble.Forwarded }},
	{"a Unix socket", func(s *site) { s.door = bubble.Unix }},
}}

// handlersAxis is about what stands around matrix_presence.
var handlersAxis = axis[*site]{"handlers", []value[*site]{
	{"none", func(s *site) {}},
	{"encode", around("encode gzip")},
	{"request_header", around("request_header X-Site secret")},
	{"header edits", around("header >Content-Type json JSON", "header >Access-Control-Allow-Origin https://a.example")},
	{"a ban by address", instead("@ban client_ip 2001:db8::1", "respond @ban 403")},
	{"a ban by a field", instead("@ban header User-Agent *uuuu*", "error @ban \"begone\" 403")},
	{"an error by address", instead("@ban client_ip 2001:db8::1", "error @ban \"begone\" 403")},
	{"abort for one path", around("abort /_matrix/media/*")},
	{"error for one path", instead("error /_matrix/federation/* 418")},
	{"forward_auth", instead("forward_auth localhost:8010 {\nuri /auth\ntransport model\n}")},
	{"basic_auth of admins", around("basic_auth /_synapse/* {\nroot $2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG\n}")},
	{"intercept", instead("intercept {\n@broken status 5xx\nhandle_response @broken {\nrespond \"later\" 503\n}\n}")},
	{"request_body", around("request_body {\nmax_size 4KB\n}")},
	{"handle_errors", instead("handle_errors {\nrespond \"sorry\" {err.status_code}\n}")},
	{"log_skip", around("log_skip /_matrix/client/v3/presence/*")},
	{"log_append", around("log_append agent {header.User-Agent}", "log_append presence {http.vars.matrix_presence.decision}")},
	{"vars and map", around("vars who {header.Cookie}", "map {path} {kind} {\n~presence presence\ndefault other\n}")},
	{"tracing", around("tracing {\nspan presence\n}")},
}}

func around(directives ...string) func(s *site) {
	return func(s *site) { s.before = append(s.before, directives...) }
}

// instead are directives that may answer in the homeserver's place.
func instead(directives ...string) func(s *site) {
	return func(s *site) { around(directives...)(s); s.answers = true }
}

// reloadAxis is what a reload changes beside the profile.
var reloadAxis = axis[*site]{"reload", []value[*site]{
	{"the profile", func(s *site) {}},
	{"a failure", func(s *site) {
		s.broken = "http://example.com:" + bubble.Taken + " {\nbind pipe/site\nrespond \"never\"\n}\n"
	}},
	{"an alias", func(s *site) {
		if s.other == "" {
			s.other = "alias.example.com"
		}
	}},
	{"the limits are lower", func(s *site) {
		s.option("write_limit 1/20s burst 1")
		s.option("read_limit 1/1m burst 1")
		s.coalesce = nil // a max_age of 3s is too short for that
	}},
	{"the limits are off", func(s *site) {
		s.option("write_limit off")
		s.option("read_limit off")
		s.option("over_limit reject") // there is nothing to coalesce
		s.coalesce = nil
	}},
	{"a class for alice", func(s *site) {
		s.directives = append(s.directives, "class staff {\nmatch @alice:example.com\nwrite_limit off\nread_limit off\nover_limit reject\n}")
	}},
	{"a strict class for all", func(s *site) {
		s.directives = append(s.directives, "class all {\nmatch *\nwrite_limit 1/20s burst 1\nread_limit 1/10s burst 2\n}")
		s.coalesce = nil
	}},
	{"bob is exempt", func(s *site) { s.directives = append(s.directives, "exempt @bob:example.com") }},
	{"smaller tables", func(s *site) { s.states, s.permissions, s.tokens = 1, 1, 1 }},
}}

// gatekeeper is what forward_auth asks: who shows no credential may not in.
type gatekeeper struct{}

func (gatekeeper) RoundTrip(r *http.Request) (*http.Response, error) {
	status := http.StatusUnauthorized
	if r.Header.Get("Authorization") != "" || strings.Contains(r.Header.Get("X-Forwarded-Uri"), "access_token=") {
		status = http.StatusNoContent
	}
	return &http.Response{
		StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Content-Type": {"text/plain"}}, Body: http.NoBody,
	}, nil
}
