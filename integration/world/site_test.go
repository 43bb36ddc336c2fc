package world_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/bubble"
)

// site is what a Caddyfile says.
type site struct {
	names []string // of the values that made it

	directives, cache, identity, coalesce []string // of matrix_presence and its blocks

	before    []string // directives of the site
	upstreams string   // of reverse_proxy
	transport string   // to them
	proxy     []string // other options of reverse_proxy
	place     string   // where matrix_presence (PRESENCE) and reverse_proxy (PROXY) stand
	top       string   // what stands before the sites, likewise
	host      string   // by which clients ask, over HTTP/1.1 with a port or without
	other     string   // another of its names, or another port, or nothing
	prefix    string   // of all paths
	door      bubble.Door
	name      string // the option of its cache block, or empty
	staging   bool   // there is another homeserver on port 8080
	answers   bool   // something else of it may answer in the homeserver's place, or take that for down
	broken    string // a site with which the configuration can't start, or nothing

	states, permissions, tokens int // how large its tables are; 0: as they are by default
}

func newSite() site {
	return site{upstreams: "localhost:8008", transport: "transport model", place: "PRESENCE\nPROXY", host: "example.com"}
}

// clone returns a copy that shares nothing that a value changes.
func (s *site) clone() *site {
	other := *s
	for _, list := range []*[]string{&other.names, &other.directives, &other.cache, &other.identity, &other.coalesce, &other.before, &other.proxy} {
		*list = slices.Clone(*list)
	}
	return &other
}

// option sets an option of matrix_presence, in the place of one that is there already.
func (s *site) option(text string) {
	name, _, _ := strings.Cut(text, " ")
	s.directives = slices.DeleteFunc(s.directives, func(there string) bool { return strings.HasPrefix(there, name+" ") })
	s.directives = append(s.directives, text)
}

// presence is the directive.
func (s *site) presence() string {
	block := func(name string, lines []string) string {
		if len(lines) == 0 {
			return ""
		}
		return name + " {\n" + strings.Join(lines, "\n") + "\n}\n"
	}
	cache, identity := slices.Clone(s.cache), slices.Clone(s.identity)
	if s.name != "" {
		cache = append(cache, s.name)
	}
	if s.states > 0 && !slices.Contains(cache, "off") {
		cache = append(cache, fmt.Sprintf("states %d", s.states), fmt.Sprintf("permissions %d", s.permissions))
	}
	if s.tokens > 0 {
		identity = append(identity, fmt.Sprintf("tokens %d", s.tokens))
	}
	return "matrix_presence {\n" + strings.Join(s.directives, "\n") + "\n" + block("cache", cache) + block("identity", identity) + block("coalesce", s.coalesce) + "}\n"
}

// metricsHost serves Caddy's metrics.
const metricsHost = "metrics.example.com:2019"

// caddyfile returns the site, with matrix_presence in it or without.
func (s *site) caddyfile(with bool, certificate, key string) string {
	presence := ""
	if with {
		presence = s.presence()
	}
	fill := strings.NewReplacer("PRESENCE", presence, "PROXY", "reverse_proxy "+s.upstreams+" {\n"+s.transport+"\n"+strings.Join(s.proxy, "\n")+"\n}\n")
	var b strings.Builder
	fmt.Fprintf(&b, "{\n%s\nservers {\nprotocols h1 h2 h2c h3\n%s}\n}\n%s\n", bubble.Options, s.door.Options(), fill.Replace(s.top))
	fmt.Fprintf(&b, "(site) {\nbind pipe/site\n%s\n%s\n%s\n}\n", bubble.Log, strings.Join(s.before, "\n"), fill.Replace(s.place))
	hosts := []string{s.host}
	secure := hosts
	if s.other != "" {
		hosts = append(hosts, s.other)
		if !strings.Contains(s.other, ":") {
			secure = hosts
		}
	}
	fmt.Fprintf(&b, "http://%s {\nimport site\n}\n", strings.Join(hosts, ", http://"))
	fmt.Fprintf(&b, "https://%s {\nimport site\ntls %s %s\n}\n", strings.Join(secure, ", https://"), certificate, key)
	if with {
		fmt.Fprintf(&b, "http://%s {\nbind pipe/site\nmetrics\n}\n", metricsHost)
	}
	if s.staging && with {
		b.WriteString("http://example.com:8080 {\nbind pipe/site\n" + strings.Replace(presence, "name world", "", 1) + "reverse_proxy localhost:8009 {\ntransport model\n}\n}\n")
	}
	return b.String() + s.broken
}

// asked is the host by which a request asks, and its port for plain text or "".
func (s *site) asked(elsewhere bool) (host, port string) {
	host = strings.Replace(s.host, "*", "matrix", 1)
	if elsewhere && s.other != "" {
		host = s.other
	}
	host, port, _ = strings.Cut(host, ":")
	return host, port
}

// largest returns how many entries a table has at most by a configuration that was loaded so
// far: tables fit a new one when it serves its first request.
func (s *site) largest(than map[string]int) {
	or := func(n, fallback int) int {
		if n > 0 {
			return n
		}
		return fallback
	}
	tokens, states, permissions := or(s.tokens, 100_000), or(s.states, 100_000), or(s.permissions, 1_000_000)
	for table, n := range map[string]int{
		"states": states, "permissions": permissions, "refusals": max(1, permissions/8), "identities": tokens, "rejections": max(1, tokens/8),
		"preflights": 64, "": tokens,
	} {
		than[table] = max(than[table], n)
	}
}

// shortest are the times that the laws go by: those of the defaults, which no value makes longer.
const (
	ttl         = 30 * time.Second
	identityTTL = 2 * time.Minute
	staleTTL    = 5 * time.Minute
)

// olderTTL is how old a state may be that is shown because presence gives way.
func (s *site) olderTTL() time.Duration {
	if slices.Contains(s.cache, "stale_if_error 5m") {
		return staleTTL
	}
	return 2 * ttl
}
