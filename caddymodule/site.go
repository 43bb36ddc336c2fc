package caddymodule

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// whoAmIPath is where homeservers tell whose an access token is.
const whoAmIPath = matrix.ClientPrefix + "v3/account/whoami"

// site is where a handler stands in a configuration, and which homeserver it fronts: the
// one that tells whose access tokens are whose. So presence writers, other workers and
// other services of the site make no difference.
type site struct {
	server *caddyhttp.Server // another one in each configuration
	route  int               // the server's, or -1 if the handler is in none
	listen []string
	hosts  []string // sorted, in lower case; none: any

	// name is the handler's cache name, or empty.
	name string

	// homeserver is where a whoami of the handler goes, and what it says on the way
	// there. Told reports whether that is known; else it is a digest of the site, which is
	// good for nothing but to see whether the site has changed.
	homeserver string
	told       bool

	// portable tells that all of that digest is the same on whatever server the site stands.
	portable bool

	// trouble says why the handler needs a cache name, or is empty.
	trouble string

	// refusal says why the handler can't stand where it does, whatever its name, or is empty.
	refusal string

	// dialect is the homeserver that the handler's configuration names.
	dialect string

	// store is the name of the store that the handler gets.
	store string
}

// title is what an admin would know the site by.
func (s *site) title() string {
	if len(s.hosts) > 0 {
		return strings.Join(s.hosts, " ")
	}
	return strings.Join(s.listen, " ")
}

// meets tells in how many hosts two sites meet: of two servers, or of two configurations. Sites
// for all hosts meet if it is known where they lead to, else only in an address.
func (s *site) meets(other *site) int {
	switch {
	case len(s.hosts) > 0 || len(other.hosts) > 0:
		return common(s.hosts, other.hosts)
	case s.told && other.told:
		return 1
	}
	return common(s.listen, other.listen)
}

// mayFollow tells that requests which came to another site may come to this one.
func (s *site) mayFollow(other *site) bool {
	if len(s.hosts) == 0 || len(other.hosts) == 0 {
		return true
	}
	return slices.ContainsFunc(s.hosts, func(host string) bool {
		return slices.ContainsFunc(other.hosts, func(was string) bool { return coversHost(host, was) || coversHost(was, host) })
	})
}

// comesFrom tells that some requests which come to the site have come to other ones until now, and not to those
// whose store it has.
func (s *site) comesFrom(elsewhere, here []*site) bool {
	came := func(to []*site, host string) bool {
		return slices.ContainsFunc(to, func(was *site) bool {
			return host != "" && slices.ContainsFunc(was.hosts, func(pattern string) bool { return coversHost(pattern, host) }) ||
				len(was.hosts) == 0 && common(s.listen, was.listen) > 0
		})
	}
	hosts := s.hosts
	if len(hosts) == 0 {
		hosts = []string{""} // any
	}
	return slices.ContainsFunc(hosts, func(host string) bool { return came(elsewhere, host) && !came(here, host) })
}

// isSame tells that two sites lead to the same place, although it isn't known which.
func (s *site) isSame(other *site) bool {
	return s.portable && other.portable && s.homeserver == other.homeserver
}

// common returns how many elements two lists have in common.
func common(a, b []string) (n int) {
	for _, one := range a {
		if slices.Contains(b, one) {
			n++
		}
	}
	return n
}

// overlap tells in how many hosts two sites of the same homeserver meet, or 0 if it may not be
// the same. By another host, a proxy behind this one may lead to another one.
func (s *site) overlap(other *site) int {
	if s.told != other.told || s.homeserver != other.homeserver {
		return 0
	}
	return s.meets(other)
}

// findSites returns the sites of all matrix_presence handlers of a server.
func findSites(server *caddyhttp.Server) (sites []*site) {
	listen := slices.Sorted(slices.Values(server.Listen))
	routes := readRoutes(server.Routes)
	named := make(map[string]routeJSON)
	for name, route := range server.NamedRoutes {
		named[name] = readRoute(route)
	}
	for i := range routes {
		standings := standingsIn(routes[i : i+1])
		for _, standing := range standings {
			s := &site{server: server, route: i, listen: listen, name: standing.name, dialect: standing.dialect}
			s.follow(routes, named, standing)
			sites = append(sites, s)
		}
	}
	elsewhere := func(standing standing, trouble string) *site {
		s := &site{
			server: server, route: -1, listen: listen, name: standing.name, dialect: standing.dialect,
			trouble: trouble,
		}
		sites = append(sites, s)
		return s
	}
	var errors []routeJSON
	if server.Errors != nil {
		errors = readRoutes(server.Errors.Routes)
	}
	for _, name := range slices.Sorted(maps.Keys(named)) {
		for _, standing := range standingsIn([]routeJSON{named[name]}) {
			elsewhere(standing, inNamedRoute).followNamed(slices.Concat(routes, errors), named, name, standing)
		}
	}
	for i := range errors {
		for _, standing := range standingsIn(errors[i : i+1]) {
			elsewhere(standing, inErrors).hosts = hostsOf(errors[i].Match)
		}
	}
	return sites
}

// What an admin is told who has to give a cache name.
const (
	twoHandlers = "two matrix_presence handlers for %[1]s: give each a cache name, " +
		"the same one if they front the same homeserver, " + suchAs
	inNamedRoute = "a matrix_presence handler in a named route of %[1]s may stand before several homeservers: " +
		"if all sites that invoke it front the same one, give it a cache name, " + suchAs + "; " +
		"else give each site a matrix_presence of its own"
	inErrors = "a matrix_presence handler in handle_errors of %[1]s may stand before another homeserver than the site: " +
		"take it out, or give it and the site's a cache name, the same one if it is the same homeserver, " + suchAs
	untoldHomeserver = "it can't be told whether the matrix_presence handlers for %[1]s on %[2]s front the same homeserver: " +
		"give each a cache name, the same one if they do, " + suchAs
	outsideHTTP = "a matrix_presence handler that is in no site needs a cache name, " + suchAs

	// setsCredential is about fields of a request by which one client could have another's token
	// remembered as its own.
	setsCredential = "a handler after matrix_presence for %[1]s sets the credential by which the homeserver is asked " +
		"(Authorization, access_token, user_id or device_id), so matrix_presence can't tell whose a request is: " +
		"set it before, such as by a request_header in front of matrix_presence in a route"

	// suchAs is no one-liner in braces: a Caddyfile takes none.
	suchAs = "such as 'name example.com' in a 'cache' block"
)

// manyHomeservers is the same, where something decides.
func manyHomeservers(decider string) string {
	return "the matrix_presence handler for %[1]s may stand before several homeservers, because the " + decider +
		" decides where requests are proxied to: if there is only one, give it a cache name, " + suchAs +
		", or put it into the handle block of that; else give each homeserver a site with a matrix_presence of its own"
}

// standing is a matrix_presence handler in a list of routes.
type standing struct {
	name, dialect string

	// trail leads to it by turns to a route and to a handler, or is nil if it is not
	// in a route or a subroute, but within another handler.
	trail []int
}

// standingsIn finds the handlers in some routes.
func standingsIn(routes []routeJSON) (found []standing) {
	for i, route := range routes {
		for j, handler := range route.Handle {
			nested := handler.routes()
			if handler.name() == "matrix_presence" || nested == nil {
				within(map[string]json.RawMessage(handler), func(s standing) {
					if handler.name() == "matrix_presence" {
						s.trail = []int{i, j}
					}
					found = append(found, s)
				})
				continue
			}
			within(handler["errors"], func(s standing) { found = append(found, s) })
			for _, s := range standingsIn(nested) {
				if s.trail != nil {
					s.trail = append([]int{i, j}, s.trail...)
				}
				found = append(found, s)
			}
		}
	}
	return found
}

// within calls f with each matrix_presence handler in a JSON value.
func within(value any, f func(standing)) {
	raw, err := json.Marshal(value)
	if err != nil || !strings.Contains(string(raw), "matrix_presence") {
		return
	}
	var object map[string]json.RawMessage
	var list []json.RawMessage
	switch {
	case json.Unmarshal(raw, &object) == nil:
		if handlerJSON(object).name() == "matrix_presence" {
			var options struct {
				Homeserver string
				Cache      struct{ Name string }
			}
			_ = json.Unmarshal(raw, &options) // what can't be read fails when it is provisioned
			f(standing{name: options.Cache.Name, dialect: options.Homeserver})
			return
		}
		for _, name := range slices.Sorted(maps.Keys(object)) {
			within(object[name], f)
		}
	case json.Unmarshal(raw, &list) == nil:
		for _, element := range list {
			within(element, f)
		}
	}
}

// follow finds out which homeserver a handler fronts, by following a whoami of its.
func (s *site) follow(routes []routeJSON, named map[string]routeJSON, standing standing) {
	trail := slices.Clone(standing.trail)
	w := &walk{
		question: question{path: whoAmIPath, hosts: hostsOf(routes[s.route].Match)}, named: named,
		groups: make(map[string]bool), hostNames: make(map[string]bool), found: make(map[string]bool),
	}
	if trail != nil {
		trail[0] = s.route
		w.routes(routes, trail)
	}
	s.hosts = w.hosts
	s.refusal = w.refusal()
	keys := slices.Sorted(maps.Keys(w.found))
	by := w.untoldBy
	if len(keys) > 1 {
		by |= w.chosenBy
	}
	switch {
	case by&byHost != 0 && !hasOneHost(s.hosts):
		s.trouble = manyHomeservers("host")
		s.homeserver = digest(routes, s, named)
	case by&byServer != 0 && len(s.listen) > 1:
		s.trouble = manyHomeservers("port")
		s.homeserver = digest(routes, s, named)
	case len(keys) == 0 || w.untold || by&byServer != 0:
		s.homeserver = digest(routes, s, named)
		s.portable = len(s.hosts) > 0 && s.isAlone(routes) && isPortable(text(routes, s, named))
	default:
		s.homeserver, s.told = strings.Join(keys, " "), true
	}
}

// hasOneHost tells that all requests of a site are for one host, so that it decides nothing.
func hasOneHost(hosts []string) bool {
	return len(hosts) == 1 && !strings.ContainsAny(hosts[0], "*{")
}

// followNamed finds out which homeserver a handler in a named route fronts. It does so only if
// all is said in there: whoever invokes the route changes nothing in the request before, and all
// requests end at the same upstreams within it.
func (s *site) followNamed(routes []routeJSON, named map[string]routeJSON, name string, standing standing) {
	if standing.trail == nil {
		return
	}
	w := &walk{
		question: question{path: whoAmIPath}, named: named,
		groups: make(map[string]bool), hostNames: make(map[string]bool), found: make(map[string]bool),
	}
	for _, other := range slices.Sorted(maps.Keys(named)) {
		if other != name {
			w.before(named[other].Handle, false)
		}
	}
	everywhere := false
	for _, route := range routes {
		raw, err := json.Marshal(route)
		if err != nil || !strings.Contains(string(raw), `"invoke"`) {
			continue
		}
		w.before(route.Handle, true)
		hosts := hostsOf(route.Match)
		s.hosts, everywhere = append(s.hosts, hosts...), everywhere || hosts == nil
	}
	if slices.Sort(s.hosts); everywhere {
		s.hosts = nil
	}
	s.hosts = slices.Compact(s.hosts)
	if w.edits != nil || !w.routes([]routeJSON{named[name]}, slices.Clone(standing.trail)) || w.untold || len(w.found) != 1 {
		return
	}
	s.refusal = w.refusal()
	s.homeserver, s.told, s.trouble = slices.Collect(maps.Keys(w.found))[0], true, ""
}

// ofListener finds what depends on where a server listens, or may: placeholders, matchers, functions of an
// expression, the Host field in either.
var ofListener = regexp.MustCompile(`(?i:http\.request\.(port|scheme|local|tls|hostport|proto|header\.host)|` +
	`"(protocol|tls|local_ip|dynamic_upstreams)":|\bprotocol\(|'host'|\\"host\\"|"header":\{[^{}]*"host":)|"Host":`)

// isAlone tells that no other route of the server is for requests of the site, as those aren't
// that come after one where they end, such as Caddy's own redirects to HTTPS.
func (s *site) isAlone(routes []routeJSON) bool {
	requests := question{path: whoAmIPath, hosts: s.hosts}
	for i, route := range routes {
		if i > s.route && routes[s.route].Terminal {
			break
		}
		if matches, _ := requests.match(route.Match); i != s.route && matches != no {
			return false
		}
	}
	return true
}
