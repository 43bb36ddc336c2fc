package caddymodule

import (
	"encoding/json"
	"net/textproto"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

// siteFields finds the header fields that the handlers of a server name. They are taken from
// the configuration: what a plugin sets without its name in there isn't known.
type siteFields struct{ gateway.SiteFields }

// newSiteFields looks through what is known of a server's configuration while a handler of
// it is provisioned.
func newSiteFields(server *caddyhttp.Server) *siteFields {
	f := new(siteFields)
	if server == nil {
		return f
	}
	f.routes(server.Routes)
	for _, route := range server.NamedRoutes {
		f.route(route)
	}
	return f
}

// in returns the fields of a server as a handler in one of its routes has them. Its own site
// comes first: of too many fields in a request the last are left out.
func (f *siteFields) in(server *caddyhttp.Server) *siteFields {
	own := &siteFields{gateway.SiteFields{Proxies: f.Proxies, Authenticates: f.Authenticates}}
	if i := routeInProgress(server); i >= 0 {
		own.route(&server.Routes[i])
	}
	for _, name := range f.Set {
		add(&own.Set, name)
	}
	for _, name := range f.Read {
		add(&own.Read, name)
	}
	return own
}

// routes adds what the handlers of some routes name.
func (f *siteFields) routes(routes caddyhttp.RouteList) {
	for i := range routes {
		f.route(&routes[i])
	}
}

// route adds what the handlers of a route name, those that are provisioned and those that
// will be. Caddy drops the JSON of the first.
func (f *siteFields) route(route *caddyhttp.Route) {
	for _, raw := range route.HandlersRaw {
		f.raw(raw)
	}
	for _, set := range route.MatcherSetsRaw {
		f.matchers(set)
	}
	for _, handler := range route.Handlers {
		f.handler(handler)
	}
	for _, set := range route.MatcherSets {
		f.matchers(remakeMatchers(set))
	}
}

func (f *siteFields) handler(handler caddyhttp.MiddlewareHandler) {
	switch handler := handler.(type) {
	case *caddyhttp.Subroute:
		f.routes(handler.Routes)
	case *headers.Handler:
		if handler.Request != nil {
			f.headerOps(handler.Request)
		}
	case *reverseproxy.Handler:
		f.Proxies = true
		for _, response := range handler.HandleResponse { // forward_auth's copy_headers
			f.routes(response.Routes)
		}
	}
}

func (f *siteFields) headerOps(ops *headers.HeaderOps) {
	for name := range ops.Set {
		add(&f.Set, name)
	}
	for name := range ops.Add {
		add(&f.Set, name)
	}
	for name := range ops.Replace {
		add(&f.Read, name)
	}
}

func (f *siteFields) matchers(set map[string]json.RawMessage) {
	for name, raw := range set {
		f.raw(json.RawMessage(`{"` + name + `":` + string(raw) + `}`))
	}
}

// raw adds what a handler or a matcher names that is still JSON.
func (f *siteFields) raw(raw json.RawMessage) {
	var value any
	if json.Unmarshal(raw, &value) == nil { // else Caddy will say so
		f.walk(value)
	}
}

func (f *siteFields) walk(value any) {
	switch value := value.(type) {
	case string:
		f.text(value)
	case []any:
		for _, element := range value {
			f.walk(element)
		}
	case map[string]any:
		if value["handler"] == "log_append" {
			var logged siteFields // which changes no answer
			logged.walk(value["value"])
			for _, name := range logged.Read {
				add(&f.Logged, name)
			}
			return
		}
		f.object(value)
		for key, member := range value {
			f.text(key) // such as the placeholder of a vars matcher
			f.walk(member)
		}
	}
}

// object adds what an object names by its shape.
func (f *siteFields) object(object map[string]any) {
	switch object["handler"] {
	case "headers":
		request, _ := object["request"].(map[string]any)
		addKeys(&f.Set, request["set"])
		addKeys(&f.Set, request["add"])
		addKeys(&f.Read, request["replace"])
	case "reverse_proxy":
		f.Proxies = true
		ops, _ := object["headers"].(map[string]any)
		request, _ := ops["request"].(map[string]any)
		addKeys(&f.Read, request["replace"])
		if rewrite, _ := object["rewrite"].(map[string]any); rewrite["method"] == "GET" {
			f.Authenticates = true
			add(&f.Read, "Cookie") // it judges by these
		}
	}
	switch object["policy"] { // of load balancing
	case "header":
		if field, ok := object["field"].(string); ok {
			add(&f.Read, field)
		}
	case "cookie":
		add(&f.Read, "Cookie")
	}
	addKeys(&f.Read, object["header"])
	addKeys(&f.Read, object["header_regexp"])
}

var (
	headerPlaceholder = regexp.MustCompile(`\{(?:http\.request\.)?header\.([A-Za-z0-9_-]+)`)
	quotedName        = regexp.MustCompile("[\"'`]([A-Za-z][A-Za-z0-9_-]*)[\"'`]")
)

// text adds what the placeholders in a text name, and what a CEL expression does.
func (f *siteFields) text(text string) {
	for _, match := range headerPlaceholder.FindAllStringSubmatch(text, -1) {
		add(&f.Read, match[1])
	}
	if strings.Contains(text, "{http.request.cookie.") || strings.Contains(text, "{cookie.") {
		add(&f.Read, "Cookie")
	}
	if strings.Contains(text, "header(") || strings.Contains(text, "header_regexp(") {
		for _, match := range quotedName.FindAllStringSubmatch(text, -1) {
			add(&f.Read, match[1])
		}
	}
}

// addKeys adds the members of an object as names.
func addKeys(names *[]string, object any) {
	members, _ := object.(map[string]any)
	for name := range members {
		add(names, name)
	}
}

// add adds a name, unless requests of ours have that field anyway, or must not have it.
func add(names *[]string, name string) {
	name = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name))
	if name == "" || strings.ContainsAny(name, "*{}") || slices.Contains(*names, name) || gateway.IsOurs(name) {
		return
	}
	*names = append(*names, name)
}
