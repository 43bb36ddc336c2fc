package caddymodule

import (
	"encoding/json"
	"net/http"
	"net/textproto"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// siteFields are the request header fields that the handlers around us name. A request of
// ours carries those of them that the client's request has when it comes to us: a handler
// before us may have set one, and one after us may look at it. At that moment nobody can
// tell a field that the site has set from one that the client sent, so the names are taken
// from the configuration. What a plugin sets without its name in there isn't known.
type siteFields struct {
	set []string // by handlers
	// logged are those that handlers look at for the log only.
	logged []string
	read   []string // by matchers, placeholders and load balancing; the client may choose these

	// proxies tells that there is a reverse_proxy, so that an answer that none has
	// brought is the site's own.
	proxies bool

	// authenticates tells that there is a forward_auth, which is one as well: a refusal
	// that speaks no Matrix is its.
	authenticates bool
}

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
	own := &siteFields{proxies: f.proxies, authenticates: f.authenticates}
	if i := routeInProgress(server); i >= 0 {
		own.route(&server.Routes[i])
	}
	for _, name := range f.set {
		add(&own.set, name)
	}
	for _, name := range f.read {
		add(&own.read, name)
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
		for name, raw := range set {
			f.raw(json.RawMessage(`{"` + name + `":` + string(raw) + `}`))
		}
	}
	for _, handler := range route.Handlers {
		f.handler(handler)
	}
	for _, set := range route.MatcherSets {
		for _, matcher := range set {
			f.matcher(matcher)
		}
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
		f.proxies = true
		for _, response := range handler.HandleResponse { // forward_auth's copy_headers
			f.routes(response.Routes)
		}
	}
}

func (f *siteFields) headerOps(ops *headers.HeaderOps) {
	for name := range ops.Set {
		add(&f.set, name)
	}
	for name := range ops.Add {
		add(&f.set, name)
	}
	for name := range ops.Replace {
		add(&f.read, name)
	}
}

func (f *siteFields) matcher(matcher any) {
	switch matcher := matcher.(type) {
	case *caddyhttp.MatchHeader:
		for name := range *matcher {
			add(&f.read, name)
		}
	case *caddyhttp.MatchHeaderRE:
		for name := range *matcher {
			add(&f.read, name)
		}
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
			for _, name := range logged.read {
				add(&f.logged, name)
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
		addKeys(&f.set, request["set"])
		addKeys(&f.set, request["add"])
		addKeys(&f.read, request["replace"])
	case "reverse_proxy":
		f.proxies = true
		ops, _ := object["headers"].(map[string]any)
		request, _ := ops["request"].(map[string]any)
		addKeys(&f.read, request["replace"])
		if rewrite, _ := object["rewrite"].(map[string]any); rewrite["method"] == "GET" {
			f.authenticates = true
			add(&f.read, "Cookie") // it judges by these
		}
	}
	switch object["policy"] { // of load balancing
	case "header":
		if field, ok := object["field"].(string); ok {
			add(&f.read, field)
		}
	case "cookie":
		add(&f.read, "Cookie")
	}
	addKeys(&f.read, object["header"])
	addKeys(&f.read, object["header_regexp"])
}

var (
	headerPlaceholder = regexp.MustCompile(`\{(?:http\.request\.)?header\.([A-Za-z0-9_-]+)`)
	quotedName        = regexp.MustCompile("[\"'`]([A-Za-z][A-Za-z0-9_-]*)[\"'`]")
)

// text adds what the placeholders in a text name, and what a CEL expression does.
func (f *siteFields) text(text string) {
	for _, match := range headerPlaceholder.FindAllStringSubmatch(text, -1) {
		add(&f.read, match[1])
	}
	if strings.Contains(text, "{http.request.cookie.") || strings.Contains(text, "{cookie.") {
		add(&f.read, "Cookie")
	}
	if strings.Contains(text, "header(") || strings.Contains(text, "header_regexp(") {
		for _, match := range quotedName.FindAllStringSubmatch(text, -1) {
			add(&f.read, match[1])
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
	if name == "" || strings.ContainsAny(name, "*{}") || slices.Contains(*names, name) || isOurs(name) {
		return
	}
	*names = append(*names, name)
}

// names returns all of them, those that the site sets first.
func (f *siteFields) names() []string {
	names := slices.Clone(f.set)
	for _, name := range slices.Concat(f.read, f.logged) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// reads reports whether a handler may treat a request differently by a field that the
// client chooses.
func (f *siteFields) reads(name string) bool {
	return (slices.Contains(f.read, name) || slices.Contains(f.logged, name)) && !slices.Contains(f.set, name)
}

// readsAny reports whether a request has such a field. Those of a preflight that its kind
// tells apart don't count.
func (f *siteFields) readsAny(header http.Header) bool {
	return slices.ContainsFunc(f.read, func(name string) bool {
		return header[name] != nil && !strings.HasPrefix(name, requestPrefix)
	})
}
