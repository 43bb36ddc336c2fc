package gateway

import (
	"net/http"
	"slices"
	"strings"
)

// SiteFields are the request header fields that the handlers around us name, and what these
// handlers are. A request of ours carries those of the fields that the client's request has
// when it comes to us: a handler before us may have set one, and one after us may look at it.
// At that moment nobody can tell a field that the site has set from one that the client sent.
type SiteFields struct {
	// Set are set by handlers.
	Set []string

	// Read are looked at by matchers, placeholders and load balancing. The client may
	// choose them.
	Read []string

	// Logged are those that handlers look at for the log only.
	Logged []string

	// Proxies tells that there is a reverse proxy, so that an answer that none has
	// brought is the site's own.
	Proxies bool

	// Authenticates tells that there is an authentication service that a reverse proxy
	// asks: a refusal that speaks no Matrix is its.
	Authenticates bool
}

// Names returns the names of all fields, those that the site sets first.
func (f *SiteFields) Names() []string {
	names := slices.Clone(f.Set)
	for _, name := range slices.Concat(f.Read, f.Logged) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// reads reports whether a handler may treat a request differently by a field that the
// client chooses.
func (f *SiteFields) reads(name string) bool {
	return (slices.Contains(f.Read, name) || slices.Contains(f.Logged, name)) && !slices.Contains(f.Set, name)
}

// ReadsAny reports whether a request has such a field. Those of a preflight that its kind
// tells apart don't count.
func (f *SiteFields) ReadsAny(header http.Header) bool {
	return slices.ContainsFunc(f.Read, func(name string) bool {
		return header[name] != nil && !strings.HasPrefix(name, requestPrefix)
	})
}
