package caddymodule

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// routeJSON is a route as it stands in a configuration.
type routeJSON struct {
	Group    string                       `json:"group,omitempty"`
	Match    []map[string]json.RawMessage `json:"match,omitempty"`
	Handle   []handlerJSON                `json:"handle,omitempty"`
	Terminal bool                         `json:"terminal,omitempty"`
}

// handlerJSON is a handler as it stands in a configuration.
type handlerJSON map[string]json.RawMessage

// name returns the name of the handler's module.
func (h handlerJSON) name() (name string) {
	_ = json.Unmarshal(h["handler"], &name) // what isn't there is no name
	return name
}

// routes returns the routes of a subroute.
func (h handlerJSON) routes() (routes []routeJSON) {
	if h.name() == "subroute" {
		_ = json.Unmarshal(h["routes"], &routes) // what can't be read fails when it is provisioned
	}
	return routes
}

// readRoutes returns routes as they stand in the configuration, while that is being
// provisioned.
func readRoutes(routes caddyhttp.RouteList) []routeJSON {
	read := make([]routeJSON, len(routes))
	for i := range routes {
		read[i] = readRoute(&routes[i])
	}
	return read
}

// readRoute reads a route. Caddy drops the JSON of matchers and handlers once all of a
// route are provisioned, so that of a server's own matchers, and of the handlers before ours,
// has to be made anew. It lacks what a module has loaded itself, but for "not" and "subroute".
func readRoute(route *caddyhttp.Route) routeJSON {
	read := routeJSON{Group: route.Group, Terminal: route.Terminal}
	for _, set := range route.MatcherSetsRaw {
		read.Match = append(read.Match, set)
	}
	for _, set := range route.MatcherSets {
		read.Match = append(read.Match, remakeMatchers(set))
	}
	for _, raw := range route.HandlersRaw {
		var handler handlerJSON
		_ = json.Unmarshal(raw, &handler) // as in routes
		read.Handle = append(read.Handle, handler)
	}
	for _, handler := range route.Handlers {
		read.Handle = append(read.Handle, remakeHandler(handler))
	}
	return read
}

// remakeMatchers returns the JSON of matchers that are provisioned.
func remakeMatchers(set caddyhttp.MatcherSet) map[string]json.RawMessage {
	remade := make(map[string]json.RawMessage)
	for _, matcher := range set {
		name := "unknown"
		if module, ok := matcher.(caddy.Module); ok {
			name = module.CaddyModule().ID.Name()
		}
		var about any = matcher
		if not, ok := matcher.(*caddyhttp.MatchNot); ok {
			var sets []map[string]json.RawMessage
			for _, set := range not.MatcherSets {
				sets = append(sets, remakeMatchers(set))
			}
			about = sets
		}
		remade[name], _ = json.Marshal(about)
	}
	return remade
}

// remakeHandler returns the JSON of a handler that is provisioned.
func remakeHandler(handler caddyhttp.MiddlewareHandler) handlerJSON {
	remade := make(handlerJSON)
	if raw, err := json.Marshal(handler); err == nil {
		_ = json.Unmarshal(raw, &remade) // an object, or nothing that we could use
	}
	if module, ok := handler.(caddy.Module); ok {
		remade["handler"], _ = json.Marshal(module.CaddyModule().ID.Name())
	}
	if subroute, ok := handler.(*caddyhttp.Subroute); ok {
		remade["routes"], _ = json.Marshal(readRoutes(subroute.Routes))
	}
	return remade
}

// verdict tells whether a request matches.
type verdict int

const (
	no verdict = iota
	maybe
	yes
)

func verdictOf(matches bool) verdict {
	if matches {
		return yes
	}
	return no
}

// question is a request of ours, as far as routing depends on it: GET of a path.
type question struct {
	path  string   // or "" if it was rewritten
	hosts []string // that it may be for; none: any
}

// deciders are what a verdict depends on, besides the question: what may differ between the
// sites of a handler.
type deciders int

const (
	byHost   deciders = 1 << iota
	byServer          // where the server listens: its port, or whether that is HTTPS
)

// match tells whether the question matches one of the sets, and what may make a difference.
func (q *question) match(sets []map[string]json.RawMessage) (matches verdict, by deciders) {
	if len(sets) == 0 {
		return yes, 0
	}
	for _, set := range sets {
		all := yes
		for name, raw := range set {
			one, some := q.matchOne(name, raw)
			all, by = min(all, one), by|some
		}
		matches = max(matches, all)
	}
	if matches != maybe {
		by = 0
	}
	return matches, by
}

// matchOne tells whether the question matches a matcher.
func (q *question) matchOne(name string, raw json.RawMessage) (matches verdict, by deciders) {
	switch name {
	case "path":
		var patterns caddyhttp.MatchPath
		if q.path == "" || json.Unmarshal(raw, &patterns) != nil || hasPlaceholder(patterns) {
			return maybe, 0
		}
		return q.matchPath(patterns), 0
	case "path_regexp":
		var about struct{ Pattern string }
		if q.path == "" || json.Unmarshal(raw, &about) != nil {
			return maybe, 0
		}
		pattern, err := regexp.Compile(about.Pattern)
		if err != nil {
			return maybe, 0
		}
		return verdictOf(pattern.MatchString(q.path)), 0
	case "method":
		var methods []string
		if json.Unmarshal(raw, &methods) != nil {
			return maybe, 0
		}
		return verdictOf(slices.Contains(methods, http.MethodGet)), 0
	case "host":
		var hosts []string
		if json.Unmarshal(raw, &hosts) != nil {
			return maybe, byHost
		}
		return q.matchHosts(hosts)
	case "not":
		var sets []map[string]json.RawMessage
		if json.Unmarshal(raw, &sets) != nil || len(sets) == 0 {
			return maybe, byHost | byServer
		}
		matches, by = q.match(sets)
		return yes - matches, by
	}
	// Such as an expression. It may be about the host, or the port, if it says so.
	text := name + strings.ToLower(string(raw))
	if strings.Contains(text, "host") || strings.Contains(text, "server_name") {
		by |= byHost
	}
	if aboutServer.MatchString(text) {
		by |= byServer
	}
	return maybe, by
}

// aboutServer finds what a matcher says about where a server listens. A Host field has the port.
var aboutServer = regexp.MustCompile(`^(protocol|tls|local_ip)|\bprotocol\(|["']host\\?["']|` +
	`http\.request\.(port|scheme|local|tls|hostport|proto\b|header\.host\b)`)

func (q *question) matchPath(patterns caddyhttp.MatchPath) verdict {
	if patterns.Provision(caddy.Context{}) != nil {
		return maybe
	}
	ctx := context.WithValue(context.Background(), caddy.ReplacerCtxKey, caddy.NewReplacer())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, (&url.URL{Path: q.path}).String(), nil)
	if err != nil {
		return maybe
	}
	matches, err := patterns.MatchWithError(r)
	if err != nil {
		return maybe
	}
	return verdictOf(matches)
}

// matchHosts tells whether all hosts that the question may be for are among those of a
// matcher.
func (q *question) matchHosts(patterns []string) (matches verdict, by deciders) {
	if len(q.hosts) == 0 || hasPlaceholder(patterns) {
		return maybe, byHost
	}
	in := 0
	for _, host := range q.hosts {
		switch {
		case slices.ContainsFunc(patterns, func(pattern string) bool { return coversHost(pattern, host) }):
			in++
		case slices.ContainsFunc(patterns, func(pattern string) bool { return coversHost(host, strings.ToLower(pattern)) }):
			return maybe, byHost // some that a wildcard of ours stands for
		}
	}
	switch in {
	case 0:
		return no, 0
	case len(q.hosts):
		return yes, 0
	}
	return maybe, byHost
}

// coversHost tells whether a pattern of Caddy's host matcher, in which "*" stands for one
// label, matches all hosts that another does.
func coversHost(pattern, host string) bool {
	labels, others := strings.Split(strings.ToLower(pattern), "."), strings.Split(host, ".")
	return len(labels) == len(others) && !slices.ContainsFunc(labels, func(label string) bool {
		other := others[0]
		others = others[1:]
		return label != "*" && label != other
	})
}

// hostsOf returns the hosts of a route's matchers, in lower case, or none if it is for all.
func hostsOf(sets []map[string]json.RawMessage) (hosts []string) {
	for _, set := range sets {
		var some []string
		if json.Unmarshal(set["host"], &some) != nil || len(some) == 0 {
			return nil
		}
		for _, host := range some {
			hosts = append(hosts, strings.ToLower(host))
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

func hasPlaceholder(values []string) bool {
	return slices.ContainsFunc(values, func(value string) bool { return strings.Contains(value, "{") })
}
