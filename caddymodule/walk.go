package caddymodule

import (
	"encoding/json"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// walk follows a request from a handler on to where it is proxied to.
type walk struct {
	question
	named map[string]routeJSON

	passed bool     // the handler has been passed
	around deciders // of whether the request has come into the routes around
	groups map[string]bool
	edits  []string // what was changed in the request on the way
	depth  int      // of named routes

	// hostNames are placeholders whose values depend on the host.
	hostNames map[string]bool

	found    map[string]bool // where it may be proxied to
	chosenBy deciders        // what chooses between these

	untold   bool // a placeholder decides
	untoldBy deciders

	setsCredential bool // whose a request is may be changed once the handler has been passed
}

// maxInvokes is how deep named routes may invoke each other before that is given up.
const maxInvokes = 8

// routes follows a request through routes and reports whether it ends there for sure. As
// long as the handler is not passed, the trail leads there.
func (w *walk) routes(routes []routeJSON, trail []int) (over bool) {
	for i, route := range routes {
		if !w.passed && i == trail[0] {
			if hosts := hostsOf(route.Match); hosts != nil {
				w.hosts = hosts
			}
			w.groups[route.Group] = route.Group != ""
			if w.handlers(route.Handle, trail[1:]) || route.Terminal {
				return true
			}
			continue
		}
		if !w.passed && route.Terminal || w.groups[route.Group] {
			continue // where it ends, nothing comes to ours: so end all other sites of a Caddyfile
		}
		matches, by := w.match(route.Match)
		if matches == no {
			continue
		}
		if !w.passed {
			w.before(route.Handle, by&byHost != 0)
			continue
		}
		w.groups[route.Group] = route.Group != "" && matches == yes
		if w.branch(route.Handle, matches, by) || matches == yes && route.Terminal {
			return true
		}
	}
	return false
}

// branch follows a request into a route that it may match.
func (w *walk) branch(handlers []handlerJSON, matches verdict, by deciders) (over bool) {
	edits, path, around := w.edits, w.path, w.around
	w.around |= by
	over = w.handlers(handlers, nil)
	w.around = around
	if over {
		// Who comes further was not here.
		w.edits, w.path = edits, path
	}
	return over && matches == yes
}

// before notes what is changed in requests before they come to the handler, and whether that
// depends on the host.
func (w *walk) before(handlers []handlerJSON, hostly bool) {
	for _, handler := range handlers {
		w.prepare(handler, hostly)
		for _, route := range handler.routes() {
			if matches, by := w.match(route.Match); matches != no {
				w.before(route.Handle, hostly || by&byHost != 0)
			}
		}
	}
}

// prepare notes what a handler changes in a request that it passes on, perhaps for some hosts only.
func (w *walk) prepare(handler handlerJSON, hostly bool) {
	switch handler.name() {
	case "headers":
		w.edit(handler["request"])
	case "vars":
		for name := range handler {
			if hostly || strings.Contains(string(handler[name]), "{http.request.host") {
				w.hostNames["http.vars."+name] = true
			}
		}
	case "map":
		var destinations []string
		_ = json.Unmarshal(handler["destinations"], &destinations) // what can't be read fails when it is provisioned
		for _, destination := range destinations {
			if hostly || handler["mappings"] != nil && strings.Contains(string(handler["source"]), "{http.request.host") {
				w.hostNames[strings.Trim(destination, "{}")] = true
			}
		}
	}
}

// handlers follows a request through the handlers of a route.
func (w *walk) handlers(handlers []handlerJSON, trail []int) (over bool) {
	for i, handler := range handlers {
		switch {
		case w.passed:
			if w.handler(handler) {
				return true
			}
		case i != trail[0]:
			w.before(handlers[i:i+1], false)
		case len(trail) == 1:
			w.passed = true
		default:
			if w.routes(handler.routes(), trail[1:]) {
				return true
			}
		}
	}
	return false
}

// handler follows a request into a handler.
func (w *walk) handler(handler handlerJSON) (over bool) {
	switch handler.name() {
	case "subroute":
		return w.routes(handler.routes(), nil)
	case "invoke":
		var name string
		_ = json.Unmarshal(handler["name"], &name) // no route has no name
		route, ok := w.named[name]
		if !ok || w.depth >= maxInvokes {
			return false
		}
		w.depth++
		defer func() { w.depth-- }()
		return w.routes([]routeJSON{route}, nil)
	case "rewrite":
		raw, _ := json.Marshal(handler)
		w.edits = append(slices.Clip(w.edits), string(raw))
		w.path = ""
		w.judge(asRewrite, string(raw))
		w.setsCredential = w.setsCredential || credentialParameter.Match(raw)
	case "reverse_proxy":
		return w.proxy(handler)
	case "static_response", "error":
		return true
	}
	w.prepare(handler, w.around&byHost != 0)
	return false
}

// proxyJSON is what decides where reverse_proxy sends a request to.
type proxyJSON struct {
	Upstreams []struct {
		Dial string `json:"dial"`
	} `json:"upstreams"`
	DynamicUpstreams json.RawMessage `json:"dynamic_upstreams"`
	Transport        json.RawMessage `json:"transport"`
	Headers          struct {
		Request json.RawMessage `json:"request"`
	} `json:"headers"`
	Rewrite        json.RawMessage   `json:"rewrite"`
	HandleResponse []json.RawMessage `json:"handle_response"`
}

// proxy notes where a proxy sends the request to.
func (w *walk) proxy(handler handlerJSON) (over bool) {
	raw, _ := json.Marshal(handler)
	var p proxyJSON
	if json.Unmarshal(raw, &p) != nil {
		w.untold = true
		return true
	}
	if p.Rewrite != nil && p.HandleResponse != nil {
		w.setsCredential = w.setsCredential || slices.ContainsFunc(p.HandleResponse, setsAuthorization)
		return false // forward_auth asks somebody else whether a request may go on
	}
	edits := w.edits
	w.edit(p.Headers.Request)

	var dials []string
	for _, upstream := range p.Upstreams {
		w.judge(asAddress, upstream.Dial)
		dials = append(dials, strings.ToLower(upstream.Dial))
	}
	slices.Sort(dials)
	w.judge(asAddress, string(p.DynamicUpstreams))
	w.judge(asRewrite, string(p.Rewrite))
	w.setsCredential = w.setsCredential || credentialParameter.Match(p.Rewrite)
	if p.DynamicUpstreams != nil && !asksByName(p.DynamicUpstreams) {
		w.untold = true // by who knows what
	}
	way := append(slices.Clone(w.edits), w.transport(p.Transport), string(p.DynamicUpstreams), string(p.Rewrite))
	key, _ := json.Marshal([]any{slices.Compact(dials), way})
	w.found[string(key)] = true
	w.chosenBy |= w.around
	w.edits = edits
	return true
}

// asksByName tells that a source of upstreams is what a name in the configuration resolves to.
func asksByName(raw json.RawMessage) bool {
	var source struct {
		Source  string            `json:"source"`
		Sources []json.RawMessage `json:"sources"`
	}
	if json.Unmarshal(raw, &source) != nil {
		return false
	}
	if source.Source == "multi" {
		return !slices.ContainsFunc(source.Sources, func(one json.RawMessage) bool { return !asksByName(one) })
	}
	return source.Source == "a" || source.Source == "srv"
}

// transport returns what of a proxy's transport decides where it leads to: not its
// timeouts and connections.
func (w *walk) transport(raw json.RawMessage) string {
	var about struct {
		Protocol string `json:"protocol"`
		TLS      *struct {
			ServerName string `json:"server_name"`
		} `json:"tls"`
		ForwardProxy string          `json:"forward_proxy_url"`
		NetworkProxy json.RawMessage `json:"network_proxy"`
		Resolver     json.RawMessage `json:"resolver"` // by whom a name may lead elsewhere
	}
	if raw == nil {
		raw = json.RawMessage(`{"protocol":"http"}`)
	}
	if json.Unmarshal(raw, &about) != nil || about.Protocol != "http" {
		w.judge(asAddress, string(raw))
		return string(raw)
	}
	kept, _ := json.Marshal(about)
	w.judge(asAddress, string(kept))
	return string(kept)
}

// plainFields are header fields that no proxy chooses a homeserver by.
var plainFields = []string{
	"Accept-Encoding", "Connection", "Front-End-Https", "Upgrade", "User-Agent",
	"X-Forwarded-For", "X-Forwarded-Port", "X-Forwarded-Proto", "X-Forwarded-Protocol",
	"X-Forwarded-Scheme", "X-Forwarded-Ssl", "X-Real-Ip", "X-Scheme", "X-Url-Scheme",
}

// ofRequest is a value that says something about the client's request, which is the same
// at whatever homeserver.
var ofRequest = regexp.MustCompile(`^\["\{http\.request\.[^{}]+\}"\]$`)

// edit notes what is set in the header of a request: the upstream may be a proxy that chooses
// by it. What is deleted there is the client's, who doesn't choose.
func (w *walk) edit(raw json.RawMessage) {
	var ops map[string]json.RawMessage
	_ = json.Unmarshal(raw, &ops) // what can't be read fails when it is provisioned
	for _, op := range slices.Sorted(maps.Keys(ops)) {
		var fields map[string]json.RawMessage
		_ = json.Unmarshal(ops[op], &fields) // those that are deleted are a list
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			value, canonical, use := string(fields[name]), http.CanonicalHeaderKey(name), asField
			if w.passed && canonical == "Authorization" && !keepsCredential(op, value) {
				w.setsCredential = true
			}
			switch {
			case canonical == "Host":
				use = asHost
			case slices.Contains(plainFields, canonical), ofRequest.MatchString(value) && !ofServer(value[len(`["{`):], asField):
				continue
			}
			w.judge(use, value)
			w.edits = append(slices.Clip(w.edits), op+" "+canonical+" "+inOrder(fields[name]))
		}
	}
}

// credentialParameter finds that a rewrite names a query parameter that says whose a request is.
var credentialParameter = regexp.MustCompile(`access_token|user_id|device_id`)

// setsAuthorization tells that a route for a response gives the request another Authorization, as
// forward_auth's copy_headers does.
func setsAuthorization(response json.RawMessage) bool {
	return strings.Contains(strings.ToLower(string(response)), `"authorization":`)
}

// keepsCredential tells that an operation on Authorization has the homeserver read the same
// credential as we do, or one that depends on nothing else.
func keepsCredential(op, value string) bool {
	if op == "replace" { // by a part of itself
		return !strings.Contains(value, "{http.")
	}
	return strings.EqualFold(value, `["{http.request.header.authorization}"]`)
}

// refusal says why the handler can't stand where it does, or is empty.
func (w *walk) refusal() string {
	if w.setsCredential {
		return setsCredential
	}
	return ""
}

// inOrder returns a JSON value with its members in order. Those of a handler that has been
// provisioned have another one.
func inOrder(raw json.RawMessage) string {
	var value any
	_ = json.Unmarshal(raw, &value) // it has just been read
	ordered, _ := json.Marshal(value)
	return string(ordered)
}

var placeholder = regexp.MustCompile(`\{([^{}"\s]+)\}`)

// use is what a value with placeholders is for.
type use int

const (
	asAddress use = iota
	asHost        // the Host that an upstream gets
	asRewrite     // its path
	asField       // any other header field
)

// judge looks for placeholders in what decides where a request goes to. No matter are those that
// are the same for all requests, and those that say of a request what the upstream is told
// anyway, or would be the same at whatever homeserver.
func (w *walk) judge(use use, value string) {
	for _, match := range placeholder.FindAllStringSubmatch(value, -1) {
		switch name := match[1]; {
		case hasPrefix(name, "env.", "system.", "http.reverse_proxy.upstream."):
		case hasPrefix(name, "http.request.host") && use != asAddress:
		case name == "http.request.host" && hasOneHost(w.hosts):
		case strings.EqualFold(name, "http.request.header.host") && use == asHost:
		case hasPrefix(name, "http.request.") && use >= asRewrite && !ofServer(name, use):
		case hasPrefix(name, "http.vars.client_ip", "http.auth.user.", "time.now") && use == asField:
		default:
			w.untold = true
			if hasPrefix(name, "http.request.host") || w.hostNames[name] {
				w.untoldBy |= byHost
			}
			if ofServer(name, use) {
				w.untoldBy |= byServer
			}
		}
	}
}

func hasPrefix(name string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// ofServer tells of a placeholder that it depends on where the server listens. Whether that is HTTPS
// and who the client is there is often told to upstreams in a field, by which they choose nothing.
func ofServer(name string, use use) bool {
	return hasPrefix(name, "http.request.port", "http.request.local") ||
		use != asField && hasPrefix(name, "http.request.scheme", "http.request.tls")
}
