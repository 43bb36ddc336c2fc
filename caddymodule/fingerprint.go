package caddymodule

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// isPortable tells that a text of a configuration says the same on whatever server it stands.
func isPortable(text []byte) bool {
	var all any
	_ = json.Unmarshal(text, &all) // it has just been marshalled
	text, _ = json.Marshal(withoutTransports(all))
	return !ofListener.Match(text)
}

// withoutTransports takes words that mean something else in a matcher out of a JSON value: a
// transport's protocol, and its TLS.
func withoutTransports(value any) any {
	switch v := value.(type) {
	case map[string]any:
		if transport, ok := v["transport"].(map[string]any); ok {
			delete(transport, "protocol")
			transport["over"] = transport["tls"]
			delete(transport, "tls")
		}
		for name, element := range v {
			v[name] = withoutTransports(element)
		}
	case []any:
		for i, element := range v {
			v[i] = withoutTransports(element)
		}
	}
	return value
}

// digest is of all that a site does, but for what is ours and for its hosts.
func digest(routes []routeJSON, s *site, named map[string]routeJSON) string {
	sum := sha256.Sum256(text(routes, s, named))
	return hex.EncodeToString(sum[:])
}

// text is what a digest is of.
func text(routes []routeJSON, s *site, named map[string]routeJSON) []byte {
	var part []routeJSON
	if own := routes[s.route]; len(hostsOf(own.Match)) > 0 {
		part = []routeJSON{{Handle: own.Handle}}
	} else {
		part = slices.Concat(preparing(routes[:s.route]), routes[s.route:])
	}
	raw, err := json.Marshal([]any{part, named})
	if err != nil {
		return nil // of what has been JSON
	}
	var all any
	_ = json.Unmarshal(raw, &all) // it has just been marshalled
	raw, _ = json.Marshal(withoutOurs(all))
	return raw
}

// preparing returns what prepares requests in routes before ours, see [walk.prepare]. Of all else
// only the names stay: which JSON there is of it depends on whether Caddy has provisioned it
// already, which it does server by server in no order.
func preparing(routes []routeJSON) (kept []routeJSON) {
	for _, route := range routes {
		var handlers []handlerJSON
		for _, handler := range route.Handle {
			switch handler.name() {
			case "headers", "rewrite", "vars":
			case "map":
				handler = maps.Clone(handler)
				// It takes the braces off itself.
				handler["destinations"] = json.RawMessage(strings.NewReplacer("{", "", "}", "").Replace(string(handler["destinations"])))
			case "subroute":
				inner := preparing(handler.routes())
				for i := range inner {
					inner[i].Match = nil
				}
				raw, _ := json.Marshal(inner) // of what has been JSON
				handler = handlerJSON{"handler": handler["handler"], "routes": raw}
			default:
				handler = handlerJSON{"handler": handler["handler"]}
			}
			handlers = append(handlers, handler)
		}
		kept = append(kept, routeJSON{Match: route.Match, Handle: handlers, Terminal: route.Terminal})
	}
	return kept
}

// withoutOurs takes our own handlers out of a JSON value, and the names of groups, which a
// Caddyfile numbers over all of its sites.
func withoutOurs(value any) any {
	switch v := value.(type) {
	case map[string]any:
		if v["handler"] == "matrix_presence" {
			return nil
		}
		delete(v, "group")
		for name, element := range v {
			v[name] = withoutOurs(element)
		}
	case []any:
		for i, element := range v {
			v[i] = withoutOurs(element)
		}
	}
	return value
}
