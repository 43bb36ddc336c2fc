package caddymodule

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/scripted"
)

// configuration is one that is provisioned, as far as it can be without its servers.
type configuration struct {
	t   testing.TB
	app *caddyhttp.App
}

// adapt returns the JSON of a Caddyfile, with its members in the order in which Caddy loads them.
func adapt(t testing.TB, caddyfile string) []byte {
	t.Helper()
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte("{\nadmin off\npersist_config off\n}\n"+caddyfile), nil)
	if err != nil {
		t.Fatalf("adapting: %v in\n%s", err, caddyfile)
	}
	var config any
	if err := json.Unmarshal(adapted, &config); err != nil {
		t.Fatal(err)
	}
	if adapted, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	return adapted
}

// tryProvision provisions a configuration in JSON.
func tryProvision(t testing.TB, adapted []byte) (*configuration, error) {
	t.Helper()
	var config caddy.Config
	if err := caddy.StrictUnmarshalJSON(adapted, &config); err != nil {
		t.Fatalf("reading the configuration: %v", err)
	}
	ctx, err := caddy.ProvisionContext(&config)
	if err != nil {
		return nil, err
	}
	app, err := ctx.App("http")
	if err != nil {
		t.Fatal(err)
	}
	c := &configuration{t, app.(*caddyhttp.App)}
	t.Cleanup(c.end)
	return c, nil
}

// provisionSites provisions the sites of a Caddyfile.
func provisionSites(t testing.TB, caddyfile string) *configuration {
	t.Helper()
	c, err := tryProvision(t, adapt(t, caddyfile))
	if err != nil {
		t.Fatalf("provisioning: %v", err)
	}
	return c
}

// reload provisions a Caddyfile in the place of a configuration, as Caddy does.
func (c *configuration) reload(caddyfile string) *configuration {
	c.t.Helper()
	next := provisionSites(c.t, caddyfile)
	c.end()
	return next
}

// end ends a configuration, for our handlers.
func (c *configuration) end() {
	for _, h := range c.handlers() {
		if err := h.Cleanup(); err != nil {
			c.t.Error(err)
		}
	}
	c.app = nil
}

// handlers returns our handlers, in the order of their sites.
func (c *configuration) handlers() (found []*Handler) {
	if c.app == nil {
		return nil
	}
	plans.Lock()
	defer plans.Unlock()
	eachStore(func(_ string, m *pooled) {
		for h, site := range m.tenants {
			for _, server := range c.app.Servers {
				if site.server == server {
					found = append(found, h)
				}
			}
		}
	})
	slices.SortFunc(found, func(a, b *Handler) int { return strings.Compare(siteOf(a).title(), siteOf(b).title()) })
	return found
}

// siteOf returns where a handler stands.
func siteOf(h *Handler) *site { return h.pooled.tenants[h] }

// stores returns how many handlers have which memory.
func (c *configuration) stores() map[string]int {
	count := make(map[string]int)
	for _, h := range c.handlers() {
		count[h.pooled.name]++
	}
	return count
}

// at returns the server that listens on a port.
func (c *configuration) at(port string) http.Handler {
	c.t.Helper()
	for _, server := range c.app.Servers {
		if slices.Contains(server.Listen, ":"+port) {
			return server
		}
	}
	c.t.Fatalf("nobody listens on %s", port)
	return nil
}

// want checks which stores there are, and how many handlers have each.
func (c *configuration) want(when string, want map[string]int) {
	c.t.Helper()
	if got := c.stores(); !maps.Equal(got, want) {
		c.t.Errorf("%s: stores %v, want %v", when, got, want)
	}
}

// upstreamOf serves a homeserver, and returns its address.
func upstreamOf(t testing.TB, hs *scripted.Homeserver) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := hs.ServeHTTP(w, r); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// proxied is a site block with a handler that fronts an upstream.
func proxied(upstream string) string {
	return " {\nmatrix_presence\nreverse_proxy " + upstream + "\n}\n"
}

// Production and its staging copy were one memory, because both had the same host: a token
// of the copy read production's presence.
func TestStagingOnAnotherPortReadsNothingOfProductions(t *testing.T) {
	production, staging := scripted.New(), scripted.New()
	production.Presence[alice] = `{"presence":"online","status_msg":"the real one"}`
	staging.Tokens = map[string]string{"staging-token": bob}
	staging.Presence = map[string]string{alice: `{"presence":"offline"}`}
	c := provisionSites(t,
		"http://matrix.example.com:9080"+proxied(upstreamOf(t, production))+
			"http://matrix.example.com:9443"+proxied(upstreamOf(t, staging)))
	read := func(port, token string) *http.Response {
		return ask(c.at(port), request("GET", "http://matrix.example.com:"+port+statusPath(alice), token, ""))
	}
	read("9080", "bob-token")
	if resp := read("9443", "staging-token"); resp.StatusCode != 200 || !strings.Contains(bodyOf(resp), "offline") {
		t.Error("the copy's reader didn't get the copy's state")
	}
	if resp := read("9080", "staging-token"); resp.StatusCode != 401 {
		t.Errorf("production let the copy's token read: %d", resp.StatusCode)
	}
	c.want("on two ports", map[string]int{"matrix.example.com": 1, "matrix.example.com :9443": 1})
}

// Which homeserver a site has is told by where a whoami goes to. Each pair of sites is of one
// host on two ports, but where a case says otherwise.
func TestSitesShareAMemoryOnlyIfTheyHaveTheSameHomeserver(t *testing.T) {
	const one, two = "http://m.example.com:9080", "http://m.example.com:9443"
	site := func(directives string) string { return " {\nmatrix_presence\n" + directives + "\n}\n" }
	for _, tc := range []struct {
		name      string
		caddyfile string
		stores    int
	}{
		{"one block", one + ", " + two + proxied("hs:1"), 1},
		{"two blocks of one upstream", one + proxied("hs:1") + two + proxied("hs:1"), 1},
		{"of two", one + proxied("hs:1") + two + proxied("hs:2"), 2},
		{"one host of several in common", "http://a.example.com:9080, " + one + proxied("hs:1") + two + ", http://z.example.com:9443" + proxied("hs:1"), 1},
		{"a third holds two together", "http://a.example.com:9080" + proxied("hs:1") + "http://b.example.com:9443" + proxied("hs:1") +
			"http://a.example.com:9090, http://b.example.com:9090" + proxied("hs:1"), 1},
		{"other hosts", "http://a.example.com:9080" + proxied("hs:1") + "http://b.example.com:9443" + proxied("hs:1"), 2},
		{"a wildcard and a host", "http://*.example.com:9080" + proxied("hs:1") + "http://b.example.com:9443" + proxied("hs:1"), 2},
		{"all hosts, one upstream", "http://:9080, http://:9443" + proxied("hs:1"), 1},
		{"all hosts, two upstreams", "http://:9080" + proxied("hs:1") + "http://:9443" + proxied("hs:2"), 2},
		{"all hosts, none that could be told", "http://:9080" + site("respond ok") + "http://:9443" + site("respond ok"), 2},
		{"several upstreams in another order", one + proxied("hs:1 hs:2") + two + proxied("hs:2 hs:1"), 1},
		{"one upstream more", one + proxied("hs:1") + two + proxied("hs:1 hs:2"), 2},
		{"a unix socket", one + proxied("unix//run/a.sock") + two + proxied("unix//run/b.sock"), 2},
		{"another Host", one + proxied("hs:1") + two + site("reverse_proxy hs:1 {\nheader_up Host staging\n}"), 2},
		{"the same Host", one + site("reverse_proxy hs:1 {\nheader_up Host {upstream_hostport}\n}") + two + site("reverse_proxy hs:1 {\nheader_up Host {upstream_hostport}\n}"), 1},
		{"a field that tells the client's address", one + proxied("hs:1") + two + site("reverse_proxy hs:1 {\nheader_up X-Real-IP {remote_host}\n}"), 1},
		{"a field that says what the client sent", one + proxied("hs:1") + two + site("reverse_proxy hs:1 {\nheader_up X-Forwarded-Host {host}\nheader_up -Cookie\n}"), 1},
		{"a field of the proxy", one + proxied("hs:1") + two + site("reverse_proxy hs:1 {\nheader_up X-Tenant staging\n}"), 2},
		{"a field of the site", one + proxied("hs:1") + two + site("request_header X-Tenant staging\nreverse_proxy hs:1"), 2},
		{"a field of the site that another path gets", one + proxied("hs:1") + two + site("request_header /media/* X-Tenant staging\nreverse_proxy hs:1"), 1},
		{"TLS", one + proxied("hs:1") + two + proxied("https://hs:1"), 2},
		{"another server name", one + proxied("https://hs:1") + two + site("reverse_proxy https://hs:1 {\ntransport http {\ntls_server_name staging\n}\n}"), 2},
		{"other resolvers", one + proxied("hs:1") + two + site("reverse_proxy hs:1 {\ntransport http {\nresolvers 192.0.2.53\n}\n}"), 2},
		{"other timeouts", one + proxied("hs:1") + two + site("reverse_proxy hs:1 {\ntransport http {\ndial_timeout 1s\n}\nflush_interval -1\n}"), 1},
		{"a path before the homeserver's", one + proxied("hs:1") + two + site("reverse_proxy hs:1 {\nrewrite /staging{uri}\n}"), 2},
		{"the same, by a directive behind the handler", one + proxied("hs:1") + two + site("handle {\nrewrite * /staging{uri}\nreverse_proxy hs:1\n}"), 2},
		{"another service beside it", one + proxied("hs:1") + two + site("reverse_proxy /media/* media:1\nreverse_proxy hs:1"), 1},
		{"a presence writer", one + proxied("hs:1") + two + site("@presence path_regexp ^/_matrix/client/(api/v1|r0|v3|unstable)/presence/\nreverse_proxy @presence hs:83\nreverse_proxy hs:1"), 1},
		{"within handle", one + proxied("hs:1") + two + site("handle /_matrix/* {\nreverse_proxy hs:1\n}\nhandle {\nrespond 404\n}"), 1},
		{"handle that leads elsewhere", one + proxied("hs:1") + two + site("handle /_matrix/client/v3/account/* {\nreverse_proxy hs:2\n}\nhandle {\nreverse_proxy hs:1\n}"), 2},
		{"somebody who is asked before", one + proxied("hs:1") + two + site("forward_auth auth:1 {\nuri /auth\n}\nreverse_proxy hs:1"), 1},
		{"a field of another site", "http://:9080" + proxied("hs:1") + "http://:9443" + proxied("hs:1") +
			"http://z.example.com:9443 {\nrequest_header X-Tenant z\nrespond ok\n}\n", 1},
		{"somebody who is asked behind the handler", one + proxied("hs:1") + two + " {\nroute {\nmatrix_presence\nforward_auth auth:1 {\nuri /auth\n}\nreverse_proxy hs:1\n}\n}\n", 1},
		{"a field that the site of all hosts changes", "http://:9080, http://:9443" + site("request_header /_matrix/* X-Path ^a b\nreverse_proxy hs:1"), 1},
		{"a field of requests that end before", one + proxied("hs:1") + two + site("@bot header User-Agent *bot*\nhandle @bot {\nrequest_header X-Tenant bot\nrespond 403\n}\nhandle {\nreverse_proxy hs:1\n}"), 1},
		{"a group that whoami has matched", one + proxied("hs:1") + two + site("handle /_matrix/* {\nheader X y\n}\nhandle {\nreverse_proxy hs:2\n}\nreverse_proxy hs:1"), 1},
		{"a group that the handler is in", one + proxied("hs:1") + two + " {\nhandle /_matrix/* {\nmatrix_presence\n}\nhandle {\nreverse_proxy hs:2\n}\nreverse_proxy hs:1\n}\n", 1},
		{"by a snippet", "(hs) {\nmatrix_presence\nreverse_proxy {args[0]}\n}\n" + one + " {\nimport hs hs:1\n}\n" + two + " {\nimport hs hs:2\n}\n", 2},
		{"an upstream in a named route", "&(hs) {\nreverse_proxy hs:1\n}\n" + one + site("invoke hs") + two + proxied("hs:1"), 1},
		{"another in a named route", "&(hs) {\nreverse_proxy hs:2\n}\n" + one + site("invoke hs") + two + proxied("hs:1"), 2},
		{"the handler in a named route", "&(hs) {\nmatrix_presence\nreverse_proxy /_matrix/* hs:1\n}\n" + one + " {\ninvoke hs\n}\n" + two + " {\ninvoke hs\n}\n", 1},
		{"the handler in a named route, and another", "&(hs) {\nmatrix_presence\nreverse_proxy /_matrix/* hs:1\n}\n" + one + " {\ninvoke hs\n}\n" + two + proxied("hs:2"), 2},
		{"the handler in a named route, and one of another host", "&(hs) {\nmatrix_presence\nreverse_proxy /_matrix/* hs:1\n}\n" + one + " {\ninvoke hs\n}\n" +
			"http://a.example.com:9080" + proxied("hs:1"), 2},
		{"a field that tells the scheme", one + proxied("hs:1") + two + site("reverse_proxy hs:1 {\nheader_up X-Scheme {scheme}\nheader_up X-Forwarded-Ssl on\n}"), 1},
		{"the handler in handle_path", one + proxied("hs:1") + two + " {\nhandle_path /matrix/* {\nmatrix_presence\nreverse_proxy hs:1\n}\n}\n", 1},
		{"dynamic upstreams of one name", one + ", " + two + site("reverse_proxy {\ndynamic a hs 1\n}"), 1},
		{"dynamic upstreams of two names", one + site("reverse_proxy {\ndynamic a hs 1\n}") + two + site("reverse_proxy {\ndynamic a staging 1\n}"), 2},
		{"a variable in one block", one + ", " + two + site("vars upstream hs:1\nreverse_proxy {vars.upstream}"), 1},
		{"a variable over http and https", "http://m.example.com:80, https://m.example.com:443" + site("vars upstream hs:1\nreverse_proxy {vars.upstream}"), 1},
		{"a variable and an option of the transport", one + ", " + two + site("vars upstream hs:1\nreverse_proxy {vars.upstream} {\ntransport http {\ntls\nread_timeout 5m\n}\n}"), 1},
		{"a variable by an expression about the path", one + ", " + two + site("vars upstream hs:1\n@media `path('/_matrix/media/*')`\nvars @media upstream media:1\nreverse_proxy {vars.upstream}"), 1},
		{"a map in one block", one + ", " + two + site("map {path} {upstream} {\n/x hs:2\ndefault hs:1\n}\nreverse_proxy {upstream}"), 1},
		{"no upstream in one block", one + ", " + two + site("respond ok"), 1},
		{"the environment's", one + ", " + two + site("reverse_proxy {env.HOMESERVER}:1"), 1},
		// A "not" of a site without hosts was read as if it might be about anything, its host too.
		{"all hosts, and all paths but some", "http://:9080, http://:9443" + site("@hs not path /_matrix/media/*\nreverse_proxy @hs hs:1\nreverse_proxy media:1"), 1},
		{"the same, where they lead to two", "http://:9080" + site("@hs not path /_matrix/media/*\nreverse_proxy @hs hs:1\nreverse_proxy hs:3") +
			"http://:9443" + site("@hs not path /_matrix/media/*\nreverse_proxy @hs hs:2\nreverse_proxy hs:3"), 2},
		{"all hosts, and workers by what is not in a field", "http://:9080, http://:9443" + site("@sync not header X-Bot *\nreverse_proxy @sync hs:2\nreverse_proxy hs:1"), 1},
		{"one host, and workers by an expression about it", one + ", " + two + site("@x `{host} == 'm.example.com' && {header.X-Forwarded-Host} == 'x'`\nreverse_proxy @x hs:2\nreverse_proxy hs:1"), 1},
		{"a field of any name that tells the scheme", "http://m.example.com:80, https://m.example.com:443" + site("request_header X-Was {scheme}\nreverse_proxy hs:1 {\nheader_up X-Original-URL {scheme}://{host}{uri}\n}"), 1},
		{"fields of the client's certificate", "https://m.example.com:9080, https://m.example.com:9443" + site("reverse_proxy hs:1 {\nheader_up X-SSL-Client {tls_client_subject}\nheader_up X-SSL \"on {http.request.tls.version}\"\n}"), 1},
		{"fields of the client that Caddy has found out", one + ", " + two + site("reverse_proxy hs:1 {\nheader_up X-Client-IP {client_ip}\nheader_up X-Who {http.auth.user.id}\nheader_up X-Start t={time.now.unix}\n}"), 1},
		{"the Host that the client sent", one + ", " + two + site("reverse_proxy hs:1 {\nheader_up Host {header.host}\n}"), 1},
		{"the only host's name in TLS", one + ", " + two + site("reverse_proxy https://hs:1 {\ntransport http {\ntls_server_name {host}\n}\n}"), 1},
		{"all hosts, and upstreams by what is no port", "http://:9080, http://:9443" + site("@production not vars {port} 9443\nreverse_proxy @production hs:1\nreverse_proxy hs:2"), 2},
		{"dynamic upstreams of several names", one + ", " + two + site("reverse_proxy {\ndynamic multi {\na hs 1\nsrv _matrix._tcp.example.com\n}\n}"), 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			// Caddy provisions servers in no order.
			want := provisionSites(t, tc.caddyfile).stores()
			if len(want) != tc.stores {
				t.Errorf("stores %v, want %d", want, tc.stores)
			}
			for range 5 {
				if got := provisionSites(t, tc.caddyfile).stores(); !maps.Equal(got, want) {
					t.Errorf("stores %v, and now %v", want, got)
				}
			}
		})
	}
}

// Where it can't be told which homeserver a handler fronts, it needs a name, and says so.
func TestHandlersThatCanNotBeToldApartNeedNames(t *testing.T) {
	site := func(directives string) string { return " {\nmatrix_presence NAME\n" + directives + "\n}\n" }
	for name, caddyfile := range map[string]string{
		"two of a site": "http://a.example.com:9 {\nhandle /a* {\nmatrix_presence NAME\nreverse_proxy hs:1\n}\nhandle {\nmatrix_presence NAME\nreverse_proxy hs:2\n}\n}\n",
		"two of a wildcard site": "http://*.example.com:9 {\n@a host a.example.com\nhandle @a {\nmatrix_presence NAME\nreverse_proxy hs:1\n}\n" +
			"@b host b.example.com\nhandle @b {\nmatrix_presence NAME\nreverse_proxy hs:2\n}\n}\n",
		"one of a wildcard site of two homeservers": "http://*.example.com:9" + site("@a host a.example.com\nhandle @a {\nreverse_proxy hs:1\n}\nhandle {\nreverse_proxy hs:2\n}"),
		"the same by an expression":                 "http://a.example.com:9, http://b.example.com:9" + site("@a `{host} == 'a.example.com'`\nreverse_proxy @a hs:1\nreverse_proxy hs:2"),
		"an upstream by host":                       "http://*.example.com:9" + site("reverse_proxy {labels.2}:1"),
		"by host and map":                           "http://*.example.com:9" + site("map {host} {backend} {\na.example.com hs:1\ndefault hs:2\n}\nreverse_proxy {backend}"),
		"by host and vars":                          "http://*.example.com:9" + site("@a host a.example.com\nvars @a upstream hs:1\nvars upstream hs:2\nreverse_proxy {vars.upstream}"),
		"a named route": "&(matrix) {\nmatrix_presence NAME\nreverse_proxy hs:1\n}\n" +
			"http://a.example.com:9 {\ninvoke matrix\n}\nhttp://b.example.com:9 {\ninvoke matrix\n}\n",
		"a named route of one site": "&(matrix) {\nmatrix_presence NAME\nreverse_proxy hs:1\n}\nhttp://a.example.com:9 {\ninvoke matrix\n}\n",
		"a named route that goes on in two sites": "&(matrix) {\nmatrix_presence NAME\n}\n" +
			"http://a.example.com:9 {\nroute {\ninvoke matrix\nreverse_proxy hs:1\n}\n}\nhttp://b.example.com:9 {\nroute {\ninvoke matrix\nreverse_proxy hs:2\n}\n}\n",
		"a named route with a field of the site": "&(matrix) {\nmatrix_presence NAME\nreverse_proxy /_matrix/* hs:1\n}\n" +
			"http://a.example.com:9 {\nrequest_header X-Tenant a\ninvoke matrix\n}\nhttp://b.example.com:9 {\ninvoke matrix\n}\n",
		"a named route with a field of handle_errors": "&(matrix) {\nmatrix_presence NAME\nreverse_proxy /_matrix/* hs:1\n}\n" +
			"http://a.example.com:9 {\ninvoke matrix\nhandle_errors {\nrequest_header X-Tenant a\ninvoke matrix\n}\n}\n",
		"a named route with a variable of the site": "&(matrix) {\nmatrix_presence NAME\nreverse_proxy /_matrix/* {vars.upstream}\n}\n" +
			"http://a.example.com:9 {\nvars upstream hs:1\ninvoke matrix\n}\nhttp://b.example.com:9 {\nvars upstream hs:2\ninvoke matrix\n}\n",
		"a named route that chooses by host": "&(matrix) {\nmatrix_presence NAME\n@a host a.example.com\nreverse_proxy @a hs:1\nreverse_proxy hs:2\n}\n" +
			"http://a.example.com:9 {\ninvoke matrix\n}\nhttp://b.example.com:9 {\ninvoke matrix\n}\n",
		"two named routes": "&(one) {\nmatrix_presence NAME\nreverse_proxy /_matrix/* hs:1\n}\n&(two) {\nmatrix_presence NAME\nreverse_proxy /_matrix/* hs:2\n}\n" +
			"http://a.example.com:9 {\ninvoke one\n}\nhttp://b.example.com:9 {\ninvoke two\n}\n",
		"a named route of a site with a handler of its own": "&(matrix) {\nmatrix_presence NAME\nreverse_proxy /_matrix/* hs:1\n}\n" +
			"http://a.example.com:9 {\nmatrix_presence NAME\ninvoke matrix\n}\n",
		"a variable that depends on the port": "http://a.example.com:9, http://a.example.com:8" + site("map {port} {upstream} {\n9 hs:1\ndefault hs:2\n}\nreverse_proxy {upstream}"),
		"a variable by an expression": "http://a.example.com:9, http://a.example.com:8" +
			site("@staging expression `{port} == '8'`\nvars upstream hs:1\nvars @staging upstream hs:2\nreverse_proxy {vars.upstream}"),
		"a variable by a header": "http://a.example.com:9, http://a.example.com:8" +
			site("@staging header Host *:8\nvars upstream hs:1\nvars @staging upstream hs:2\nreverse_proxy {vars.upstream}"),
		"two variables": "http://a.example.com:9" + site("vars upstream hs:1\nreverse_proxy {vars.upstream}") +
			"http://a.example.com:8" + site("vars upstream hs:2\nreverse_proxy {vars.upstream}"),
		"a variable on one of them": "http://a.example.com:9" + site("reverse_proxy hs:1") + "http://a.example.com:8" + site("vars upstream hs:1\nreverse_proxy {vars.upstream}"),
		"the port as an upstream":   "http://a.example.com:9, http://a.example.com:8" + site("reverse_proxy hs:{port}"),
		"a field of the port":       "http://a.example.com:9, http://a.example.com:8" + site("reverse_proxy hs:1 {\nheader_up X-Env {port}\n}"),
		// These proxied one port's requests to another homeserver, and had one memory.
		"upstreams by the port":                      "http://a.example.com:9, http://a.example.com:8" + site("@staging expression `{port} == '8'`\nreverse_proxy @staging hs:1\nreverse_proxy hs:2"),
		"upstreams by the port in vars":              "http://a.example.com:9, http://a.example.com:8" + site("@staging vars {port} 8\nreverse_proxy @staging hs:1\nreverse_proxy hs:2"),
		"upstreams by the Host field":                "http://a.example.com:9, http://a.example.com:8" + site("@staging header Host *:8\nhandle @staging {\nreverse_proxy hs:1\n}\nhandle {\nreverse_proxy hs:2\n}"),
		"upstreams by the Host in an expression":     "http://a.example.com:9, http://a.example.com:8" + site("@staging `header({\"Host\": \"*:8\"})`\nreverse_proxy @staging hs:1\nreverse_proxy hs:2"),
		"a variable by the Host in an expression":    "http://a.example.com:9, http://a.example.com:8" + site("@staging `header({'host': '*:8'})`\nvars upstream hs:1\nvars @staging upstream hs:2\nreverse_proxy {vars.upstream}"),
		"a variable by the Host field in lower case": "http://a.example.com:9, http://a.example.com:8" + site("@staging header host *:8\nvars upstream hs:1\nvars @staging upstream hs:2\nreverse_proxy {vars.upstream}"),
		"a variable by the scheme in an expression":  "http://a.example.com:80, https://a.example.com:443" + site("@staging `protocol('http')`\nvars upstream hs:1\nvars @staging upstream hs:2\nreverse_proxy {vars.upstream}"),
		"the port in a transport":                    "http://a.example.com:9, http://a.example.com:8" + site("reverse_proxy https://hs:1 {\ntransport http {\ntls_server_name s{port}\n}\n}"),
		"upstreams by the scheme":                    "http://a.example.com:80, https://a.example.com:443" + site("@staging protocol http\nreverse_proxy @staging hs:1\nreverse_proxy hs:2"),
		"upstreams by the name in TLS":               "https://*.example.com:443" + site("@a vars {http.request.tls.server_name} a.example.com\nreverse_proxy @a hs:1\nreverse_proxy hs:2"),
		"a path of the scheme":                       "http://a.example.com:80, https://a.example.com:443" + site("reverse_proxy hs:1 {\nrewrite /{scheme}{uri}\n}"),
		"dynamic upstreams of the port":              "http://a.example.com:9, http://a.example.com:8" + site("reverse_proxy {\ndynamic multi {\na hs {port}\n}\n}"),
		"handle_errors":                              "http://a.example.com:9 {\nhandle_errors {\nmatrix_presence NAME\nreverse_proxy hs:1\n}\n}\n",
	} {
		t.Run(name, func(t *testing.T) {
			for range 3 { // Caddy provisions servers in no order
				_, err := tryProvision(t, adapt(t, strings.ReplaceAll(caddyfile, "NAME", "")))
				if err == nil || !strings.Contains(err.Error(), "'name example.com' in a 'cache' block") {
					t.Fatalf("error %v, want one that says what to write", err)
				}
			}
			if len(plans.of) != 0 {
				t.Errorf("%d plans are left of refused configurations", len(plans.of))
			}
			eachStore(func(name string, _ *pooled) { t.Errorf("the memory %s is left of a refused configuration", name) })
			c := provisionSites(t, strings.ReplaceAll(caddyfile, "NAME", "{\ncache {\nname shared\n}\n}"))
			if got := c.stores(); len(got) != 1 || got["shared"] == 0 {
				t.Errorf("with a name: stores %v", got)
			}
		})
	}
}

// A site that made the token of a cookie, behind us, had the token that a client showed us remembered as
// that of the cookie's user, for everybody who showed it: what one user might see, others read. And whoever
// showed none was refused, where the site would have given them one.
func TestCredentialThatTheSiteSetsBehindUsIsRefused(t *testing.T) {
	const auth = "forward_auth hs:2 {\nuri /\ncopy_headers X-User Authorization\n}\n"
	for directives, refused := range map[string]bool{
		"matrix_presence NAME\nreverse_proxy hs:1 {\nheader_up Authorization \"Bearer {cookie.token}\"\n}":                               true,
		"matrix_presence NAME\nreverse_proxy hs:1 {\nheader_up authorization \"Bearer of-all\"\n}":                                       true,
		"route {\nmatrix_presence NAME\n@c header X-Token *\nrequest_header @c Authorization {header.X-Token}\nreverse_proxy hs:1\n}":    true,
		"route {\nmatrix_presence NAME\nuri query access_token {cookie.token}\nreverse_proxy hs:1\n}":                                    true,
		"matrix_presence NAME\nreverse_proxy hs:1 {\nrewrite {path}?{query}&user_id={header.X-User}\n}":                                  true,
		"matrix_presence NAME\nhandle {\n" + auth + "reverse_proxy hs:1\n}":                                                              true,
		"matrix_presence NAME\nreverse_proxy hs:1 {\nheader_up Authorization {header.Authorization}\n}":                                  false,
		"matrix_presence NAME\nreverse_proxy hs:1 {\nheader_up Authorization ^bearer Bearer\n}":                                          false,
		"matrix_presence NAME\nreverse_proxy hs:1 {\nheader_up -Authorization\n}":                                                        false,
		"matrix_presence NAME\nreverse_proxy /_synapse/admin/* hs:1 {\nheader_up Authorization \"Bearer secret\"\n}\nreverse_proxy hs:1": false,
		"request_header Authorization \"Bearer {cookie.token}\"\nmatrix_presence NAME\nreverse_proxy hs:1":                               false,
		auth + "matrix_presence NAME\nreverse_proxy hs:1":                                                                                false,
	} {
		for _, name := range []string{"", "{\ncache {\nname a\n}\n}"} {
			_, err := tryProvision(t, adapt(t, "http://a.example.com:9 {\n"+strings.ReplaceAll(directives, "NAME", name)+"\n}\n"))
			if got := err != nil && strings.Contains(err.Error(), "for a.example.com sets the credential"); got != refused || err != nil && !refused {
				t.Errorf("%s: error %v", directives, err)
			}
		}
	}
}

// One handler that can be meant is enough to keep what it knows, whatever is behind it.
func TestSingleSiteNeedsNoName(t *testing.T) {
	for name, directives := range map[string]string{
		"a variable":         "vars upstream hs:1\nreverse_proxy {vars.upstream}",
		"a map":              "map {host} {backend} {\ndefault hs:1\n}\nreverse_proxy {backend}",
		"no upstream":        "respond ok",
		"none by path":       "handle /a {\nrespond a\n}\nhandle {\nrespond b\n}",
		"workers by header":  "@bot header User-Agent *bot*\nreverse_proxy @bot hs:2\nreverse_proxy hs:1",
		"a presence writer":  "reverse_proxy /_matrix/client/v3/presence/* hs:83\nreverse_proxy hs:1",
		"two named services": "handle /media/* {\nreverse_proxy media:1\n}\nhandle {\nreverse_proxy hs:1\n}",
	} {
		t.Run(name, func(t *testing.T) {
			block := func(option string) string {
				return " {\nmatrix_presence {\n" + option + "\n}\n" + directives + "\n}\n"
			}
			c := provisionSites(t, "http://a.example.com:9"+block("max_body 1KiB"))
			c.want("at first", map[string]int{"a.example.com": 1})
			m := c.handlers()[0].pooled
			// Our own options are no part of where a site leads, nor are others.
			c = c.reload("http://0.example.com:9 {\nhandle /a {\nrespond ok\n}\nhandle {\nrespond ok\n}\n}\nhttp://a.example.com:9" + block("max_body 2KiB"))
			if c.handlers()[0].pooled != m {
				t.Error("a reload has begun another memory")
			}
			c = c.reload("http://0.example.com:9, http://a.example.com:9" + block("max_body 2KiB"))
			if c.handlers()[0].pooled != m {
				t.Error("an alias has begun another memory")
			}
		})
	}
}

// A host that was added to a site gave it another memory: all identities were asked for
// again, and all who had used their budget up got a new one.
func TestMemoryStaysWithItsHomeserverThroughChanges(t *testing.T) {
	const before = "http://b.example.com:9080"
	for _, tc := range []struct {
		name, after string
		stays       bool
	}{
		{"a host more", "http://a.example.com:9080, " + before + proxied("HS"), true},
		{"an address more", before + ", http://b.example.com:9443" + proxied("HS"), true},
		{"another port", "http://b.example.com:9443" + proxied("HS"), true},
		{"a site before it", "http://a.example.com:9080" + proxied("hs:2") + before + proxied("HS"), true},
		{"a site on a port before it", "http://a.example.com:80" + proxied("HS") + before + proxied("HS"), true},
		{"other options", before + " {\nmatrix_presence {\nsync_presence limit\n}\nencode gzip\nreverse_proxy /media/* media:1\nreverse_proxy HS\n}\n", true},
		{"a presence writer", before + " {\nmatrix_presence\nreverse_proxy /_matrix/client/v3/presence/* HS\nreverse_proxy HS\n}\n", true},
		{"the name that it has", before + " {\nmatrix_presence {\ncache {\nname b.example.com\n}\n}\nreverse_proxy HS\n}\n", true},
		{"another upstream", before + proxied("hs:2"), false},
		{"an upstream more", before + proxied("HS hs:2"), false},
		{"other hosts only", "http://a.example.com:9080" + proxied("HS"), false},
		{"another name", before + " {\nmatrix_presence {\ncache {\nname a\n}\n}\nreverse_proxy HS\n}\n", false},
		{"its name for another homeserver", before + " {\nmatrix_presence {\ncache {\nname b.example.com\n}\n}\nreverse_proxy hs:2\n}\n", false},
		{"its place taken by another", before + proxied("hs:2") + "http://b.example.com:9443" + proxied("HS"), true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			address := upstreamOf(t, scripted.New())
			c := provisionSites(t, before+proxied(address))
			m := c.handlers()[0].pooled
			c = c.reload(strings.ReplaceAll(tc.after, "HS", address))
			stays := false
			for _, h := range c.handlers() {
				stays = stays || h.pooled == m
				if h.pooled == m && h.pooled.name != "b.example.com" {
					t.Errorf("it is called %s now", h.pooled.name)
				}
				if h.pooled == m && !strings.Contains(siteOf(h).homeserver, address) {
					t.Errorf("it is given to %s", siteOf(h).homeserver)
				}
			}
			if stays != tc.stays {
				t.Errorf("the memory stays: %t, want %t", stays, tc.stays)
			}
		})
	}
}

// A site that is added before another must not get its memory: the two may be of
// different homeservers.
func TestMemoryStaysWithItsAddressWhereNothingElseIsKnown(t *testing.T) {
	const site = " {\nmatrix_presence\nrespond ok\n}\n"
	c := provisionSites(t, "http://:7"+site)
	m := c.handlers()[0].pooled
	c = c.reload("http://:6" + site + "http://:7" + site)
	c.want("another before it", map[string]int{":6": 1, ":7": 1})
	for _, h := range c.handlers() {
		if (h.pooled == m) != (siteOf(h).title() == ":7") {
			t.Errorf("%s has the memory %s", siteOf(h).title(), h.pooled.name)
		}
	}
}

// Whether Caddy had provisioned a server's first handlers by then made a digest of it another one, so
// that a reload of what was there already began new stores, now and then.
func TestMemoryStaysWhicheverServerComesFirst(t *testing.T) {
	const site = ` {
	tracing {
		span matrix
	}
	map {path} {upstream} {
		~^/x hs:2
		default hs:1
	}
	vars tenant one
	basic_auth /x {
		bob $2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG
	}
	request_header X-Tenant {vars.tenant}
	request_header X-Path ^a b
	try_files {path} /index.html
	rewrite /old/* /new{uri}
	encode gzip zstd
	matrix_presence
	reverse_proxy {upstream}
}
`
	c := provisionSites(t, "http://:7"+site+"http://:8"+site)
	of := make(map[string]*pooled)
	for _, h := range c.handlers() {
		of[siteOf(h).title()] = h.pooled
	}
	for range 20 {
		c = c.reload("http://:7" + site + "http://:8" + site)
		for _, h := range c.handlers() {
			if of[siteOf(h).title()] != h.pooled {
				t.Fatalf("%s has another memory, %s", siteOf(h).title(), h.pooled.name)
			}
		}
	}
	// What decides where they lead to still counts.
	c = c.reload("http://:7" + strings.ReplaceAll(site, "default hs:1", "default hs:3") + "http://:8" + strings.ReplaceAll(site, "tenant one", "tenant two"))
	for _, h := range c.handlers() {
		if of[siteOf(h).title()] == h.pooled {
			t.Errorf("%s leads elsewhere, and has the same memory", siteOf(h).title())
		}
	}
}

// What a reader has, and who has used a budget up, is the same after a host was added, and
// then the first one taken away.
func TestHostAliasKeepsHitsAndBudgets(t *testing.T) {
	hs := scripted.New()
	block := " {\nmatrix_presence {\nwrite_limit 1/1h\n}\nreverse_proxy " + upstreamOf(t, hs) + "\n}\n"
	c := provisionSites(t, "http://old.example.com:9080"+block)
	check := func(when, host string) {
		t.Helper()
		site := c.at("9080")
		resp := ask(site, request("GET", "http://"+host+":9080"+statusPath(alice), "bob-token", ""))
		if got := resp.Header.Get("Cache-Status"); !strings.HasPrefix(got, "matrix_presence; hit") {
			t.Errorf("%s: Cache-Status %q (%d)", when, got, resp.StatusCode)
		}
		if resp := ask(site, request("PUT", "http://"+host+":9080"+statusPath(bob), "bob-token", `{"presence":"online"}`)); resp.StatusCode != 429 {
			t.Errorf("%s: a write got %d, want 429", when, resp.StatusCode)
		}
	}
	ask(c.at("9080"), request("GET", "http://old.example.com:9080"+statusPath(alice), "bob-token", ""))
	ask(c.at("9080"), request("PUT", "http://old.example.com:9080"+statusPath(bob), "bob-token", `{"presence":"online"}`))
	check("before", "old.example.com")
	c = c.reload("http://new.example.com:9080, http://old.example.com:9080" + block)
	check("with an alias", "new.example.com")
	check("with an alias, by the first name", "old.example.com")
	c = c.reload("http://new.example.com:9080" + block)
	check("by another name", "new.example.com")
	c.want("at last", map[string]int{"old.example.com": 1})
	if n := hs.Count("whoami"); n != 1 {
		t.Errorf("the homeserver was asked %d times whose the token is", n)
	}
}

// A reload that changes a homeserver's address or name starts an empty store while requests are under way. What
// these changed at the homeserver, the new store didn't hear of: it had the state before an acknowledged
// write for a ttl, and let a token that was logged out read for as long as it is known whose it is.
func TestWhatIsUnderWayIsToldToTheStoreThatTakesOver(t *testing.T) {
	const rooms = "http://a.example.com:9080/_matrix/client/v3/rooms/!r:example.com/"
	for name, underWay := range map[string]struct {
		method, url, token, body string
		want                     int    // of bob's read afterwards
		cached                   string // its Cache-Status
	}{
		"a write":       {"PUT", "http://a.example.com:9080" + statusPath(alice), "alice-token", `{"presence":"offline"}`, 200, "matrix_presence; fwd=miss"},
		"a sync":        {"GET", "http://a.example.com:9080/_matrix/client/v3/sync?set_presence=unavailable", "alice-token", "", 200, "matrix_presence; fwd=miss"},
		"an activity":   {"PUT", rooms + "send/m.room.message/1", "alice-token", "{}", 200, "matrix_presence; fwd=miss"},
		"a logout":      {"POST", "http://a.example.com:9080/_matrix/client/v3/logout", "bob-token", "", 401, ""},
		"of all tokens": {"POST", "http://a.example.com:9080/_matrix/client/v3/logout/all", "bob-token", "", 401, ""},
		"nothing":       {"GET", "http://a.example.com:9080/_matrix/client/v3/profile/x", "alice-token", "", 200, "matrix_presence; hit; ttl=2"},
	} {
		for how, directives := range map[string][2]string{
			"another name":    {"matrix_presence OPTIONS\nreverse_proxy UPSTREAM", "matrix_presence {\ncache {\nname other\nsettle 0s\n}\n}\nreverse_proxy UPSTREAM"},
			"another address": {"matrix_presence OPTIONS\nreverse_proxy UPSTREAM", "matrix_presence {\ncache {\nsettle 0s\n}\n}\nreverse_proxy UPSTREAM {\nheader_up X-Second 1\n}"},
		} {
			t.Run(name+" "+how, func(t *testing.T) {
				hs := scripted.New()
				config := strings.NewReplacer("UPSTREAM", upstreamOf(t, hs), "OPTIONS", "{\nrepeat_writes absorb\nsync_presence limit\nhomeserver synapse\n}")
				site := func(directives string) string {
					return "http://a.example.com:9080 {\n" + config.Replace(directives) + "\n}\n"
				}
				r := request(underWay.method, underWay.url, underWay.token, underWay.body)
				old := provisionSites(t, site(directives[0]))
				read := func(c *configuration) *http.Response {
					return ask(c.at("9080"), request("GET", "http://a.example.com:9080"+statusPath(alice), "bob-token", ""))
				}
				read(old)
				ask(old.at("9080"), request("GET", "http://a.example.com:9080"+statusPath(bob), "alice-token", ""))
				arrived, hold, over := make(chan struct{}), make(chan struct{}), make(chan struct{})
				hs.AnswerBy(func(_ http.ResponseWriter, came *http.Request) (bool, error) {
					if came.URL.Path == r.URL.Path && came.Method == r.Method {
						close(arrived)
						<-hold
					}
					return false, nil
				})
				front := old.at("9080")
				go func() {
					defer close(over)
					ask(front, r)
				}()
				<-arrived
				c := old.reload(site(directives[1]))
				read(c)
				read(c)
				close(hold)
				<-over
				if resp := read(c); resp.StatusCode != underWay.want || !strings.HasPrefix(resp.Header.Get("Cache-Status"), underWay.cached) || underWay.cached == "" && resp.Header["Cache-Status"] != nil {
					t.Errorf("then bob's read gets %d %s, Cache-Status %q", resp.StatusCode, bodyOf(resp), resp.Header.Get("Cache-Status"))
				}
			})
		}
	}
}

// Of two reloads within one request the store of the second didn't hear of what the request changed: it was told to
// the store that had taken its own one's place, and that was gone.
func TestWhatIsUnderWayIsToldOverTwoReloads(t *testing.T) {
	for name, underWay := range map[string]struct{ method, path, token, body, want string }{
		"a write":  {"PUT", statusPath(alice), "alice-token", `{"presence":"offline"}`, "200 matrix_presence; fwd=miss"},
		"a logout": {"POST", "/_matrix/client/v3/logout", "bob-token", "", "401 "},
	} {
		t.Run(name, func(t *testing.T) {
			hs := scripted.New()
			upstream := upstreamOf(t, hs)
			site := func(name string) string {
				return "http://a.example.com:9080 {\nmatrix_presence {\ncache {\nname " + name + "\nsettle 0s\n}\n}\nreverse_proxy " + upstream + "\n}\n"
			}
			arrived, hold, over := make(chan struct{}), make(chan struct{}), make(chan struct{})
			hs.AnswerBy(func(_ http.ResponseWriter, came *http.Request) (bool, error) {
				if came.URL.Path == underWay.path && came.Method == underWay.method {
					close(arrived)
					<-hold
				}
				return false, nil
			})
			c := provisionSites(t, site("first"))
			read := func() *http.Response {
				return ask(c.at("9080"), request("GET", "http://a.example.com:9080"+statusPath(alice), "bob-token", ""))
			}
			read()
			front := c.at("9080")
			go func() {
				defer close(over)
				ask(front, request(underWay.method, "http://a.example.com:9080"+underWay.path, underWay.token, underWay.body))
			}()
			<-arrived
			for _, name := range []string{"second", "third", "fourth"} {
				c = c.reload(site(name))
				read()
			}
			close(hold)
			<-over
			resp := read()
			if got := fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("Cache-Status")); !strings.HasPrefix(got, underWay.want) {
				t.Errorf("then bob's read gets %s %s", got, bodyOf(resp))
			}
		})
	}
}

// A host that had a site and a store of its own becomes an alias of another, whose store remembers what was true
// before: what was written, or logged out, through the host's own. That was shown for a ttl.
func TestAliasThatHadAStoreOfItsOwnIsShownNothingOld(t *testing.T) {
	hs := scripted.New()
	block := proxied(upstreamOf(t, hs))
	c := provisionSites(t, "http://a.example.com:9080"+block+"http://b.example.com:9080"+block)
	do := func(method, host, path, token, body string) *http.Response {
		return ask(c.at("9080"), request(method, "http://"+host+".example.com:9080"+path, token, body))
	}
	for _, token := range []string{"bob-token", "carol-token"} {
		do("GET", "a", statusPath(alice), token, "")
	}
	if resp := do("PUT", "b", statusPath(alice), "alice-token", `{"presence":"offline"}`); resp.StatusCode != 200 {
		t.Fatal(resp.StatusCode)
	}
	do("POST", "b", "/_matrix/client/v3/logout", "carol-token", "")
	c = c.reload("http://a.example.com:9080, http://b.example.com:9080" + block)
	c.want("merged", map[string]int{"a.example.com": 1})
	if resp := do("GET", "b", statusPath(alice), "bob-token", ""); resp.StatusCode != 200 || !strings.Contains(bodyOf(resp), "offline") {
		t.Errorf("after a write a read gets %d %q", resp.StatusCode, resp.Header.Get("Cache-Status"))
	}
	if resp := do("GET", "b", statusPath(alice), "carol-token", ""); resp.StatusCode != 401 {
		t.Errorf("a token that was logged out reads: %d", resp.StatusCode)
	}
}

// What was over when a reload began an empty store, or had a store take another's host over, need not have settled: the
// state before an acknowledged write, which Dendrite still showed, was kept for a ttl, and a token that a process of the
// homeserver still knew was known for as long as any.
func TestWhatIsOverWhenAStoreTakesOverHasToSettle(t *testing.T) {
	const a, b = "http://a.example.com:9080", "http://b.example.com:9080"
	block := func(upstream, name string) string {
		return " {\nmatrix_presence {\ncache {\nsettle 1h\n" + name + "\n}\n}\nreverse_proxy " + upstream + "\n}\n"
	}
	for name, sites := range map[string]func(upstream string) (before, after string){
		"an empty one": func(upstream string) (before, after string) {
			return b + block(upstream, ""), b + block(upstream, "name other")
		},
		"another's": func(upstream string) (before, after string) {
			return a + block(upstream, "") + b + block(upstream, ""), a + ", " + b + block(upstream, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			hs := scripted.New()
			before, after := sites(upstreamOf(t, hs))
			c := provisionSites(t, before)
			do := func(method, path, token, body string) *http.Response {
				return ask(c.at("9080"), request(method, b+path, token, body))
			}
			do("GET", statusPath(alice), "bob-token", "")
			var settled atomic.Bool
			hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
				switch {
				case settled.Load() || r.Method != "GET":
				case strings.HasSuffix(r.URL.Path, "/status"):
					scripted.Answer(w, 200, `{"presence":"online"}`)
					return true, nil
				case r.Header.Get("Authorization") == "Bearer bob-token":
					scripted.Answer(w, 200, `{"user_id":"`+bob+`"}`)
					return true, nil
				}
				return false, nil
			})
			if resp := do("PUT", statusPath(alice), "alice-token", `{"presence":"offline"}`); resp.StatusCode != 200 {
				t.Fatal(resp.StatusCode)
			}
			do("POST", "/_matrix/client/v3/logout", "bob-token", "")
			c = c.reload(after)
			for _, token := range []string{"bob-token", "alice-token"} {
				do("GET", statusPath(alice), token, "")
			}
			settled.Store(true)
			if resp := do("GET", statusPath(alice), "alice-token", ""); !strings.Contains(bodyOf(resp), "offline") {
				t.Errorf("after a write a read gets %d %q", resp.StatusCode, resp.Header.Get("Cache-Status"))
			}
			if resp := do("GET", statusPath(alice), "bob-token", ""); resp.StatusCode != 401 {
				t.Errorf("a token that was logged out reads: %d", resp.StatusCode)
			}
		})
	}
}

// A configuration that would have had a store take another's host over, and fails, once had the store forget all.
func TestFailedMergeOfSitesForgetsNothing(t *testing.T) {
	hs := scripted.New()
	block := proxied(upstreamOf(t, hs))
	c := provisionSites(t, "http://a.example.com:9080"+block+"http://b.example.com:9080"+block)
	read := func() string {
		resp := ask(c.at("9080"), request("GET", "http://a.example.com:9080"+statusPath(alice), "bob-token", ""))
		return resp.Header.Get("Cache-Status")
	}
	read()
	failing := adapt(t, "http://a.example.com:9080, http://b.example.com:9080"+block+"http://z.example.com:9998 {\nreverse_proxy hs:9\n}\n")
	failing = []byte(strings.Replace(string(failing), `"upstreams":[{"dial":"hs:9"}]`, `"upstreams":[{"dial":"hs:9"}],"trusted_proxies":["nonsense"]`, 1))
	for range 10 { // Caddy provisions servers in no order
		if _, err := tryProvision(t, failing); err == nil {
			t.Fatal("it didn't fail")
		}
	}
	if got := read(); !strings.HasPrefix(got, "matrix_presence; hit") {
		t.Errorf("then a read is %q", got)
	}
}

// Two sites that were one can't both have its memory, whichever Caddy provisions first, and
// one site that was two gets one of theirs.
func TestSitesThatPartAndMerge(t *testing.T) {
	const both = "http://a.example.com:9080, http://b.example.com:9443"
	const parted = "http://a.example.com:9080" + " {\nmatrix_presence\nreverse_proxy hs:1\n}\n" + "http://b.example.com:9443" + " {\nmatrix_presence\nreverse_proxy hs:1\n}\n"
	for range 10 {
		c := provisionSites(t, both+proxied("hs:1"))
		c.want("one site", map[string]int{"a.example.com": 1, "b.example.com": 1})
		c.end()

		c = provisionSites(t, "http://a.example.com:9080, http://b.example.com:9080"+proxied("hs:1"))
		m := c.handlers()[0].pooled
		c = c.reload(parted)
		c.want("parted", map[string]int{"a.example.com b.example.com": 1, "b.example.com": 1})
		for _, h := range c.handlers() {
			if h.pooled == m && siteOf(h).title() != "a.example.com" {
				t.Errorf("the memory went with %s", siteOf(h).title())
			}
		}
		c = c.reload("http://a.example.com:9080, http://b.example.com:9080" + proxied("hs:1"))
		if c.handlers()[0].pooled != m {
			t.Error("merged, they got another memory")
		}
		c.end()
	}
}

// syncsLookedAt has a handler serve a sync, and returns how many its memory has looked at: none as
// long as no configuration needs to know of them.
func syncsLookedAt(t *testing.T, h *Handler) (n float64) {
	t.Helper()
	next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	r := request(http.MethodGet, "http://a.example.com/_matrix/client/v3/sync?set_presence=offline", "", "")
	if err := h.ServeHTTP(httptest.NewRecorder(), r, next); err != nil {
		t.Fatal(err)
	}
	h.pooled.store.Samples(func(metric *gateway.Metric, value float64, labels ...string) {
		if metric.Name == "requests_total" && labels[0] == "sync" {
			n = value
		}
	})
	return n
}

// A configuration that fails, in whatever it does after our handlers, changes nothing: the next one
// finds the memory by what it was before.
func TestFailedReloadLeavesMemoriesToTheirSites(t *testing.T) {
	c := provisionSites(t, "http://a.example.com:9080"+proxied("hs:1"))
	m := c.handlers()[0].pooled
	// The alias is of a homeserver of its own in truth.
	failing := adapt(t, "http://a.example.com:9080, http://b.example.com:9080"+proxied("hs:1")+
		"http://a.example.com:9999 {\nmatrix_presence {\nrepeat_writes absorb\n}\nreverse_proxy hs:1\n}\nhttp://z.example.com:9998 {\nreverse_proxy hs:9\n}\n")
	failing = []byte(strings.Replace(string(failing), `"upstreams":[{"dial":"hs:9"}]`, `"upstreams":[{"dial":"hs:9"}],"trusted_proxies":["nonsense"]`, 1))
	for range 10 {
		if _, err := tryProvision(t, failing); err == nil {
			t.Fatal("it didn't fail")
		}
		if len(m.tenants) != 1 || len(plans.of) != 1 {
			t.Fatalf("%d tenants and %d plans after a failure, want 1 of each", len(m.tenants), len(plans.of))
		}
		if n := syncsLookedAt(t, c.handlers()[0]); n != 0 {
			t.Errorf("the failed configuration's needs are there: %v syncs were looked at", n)
		}
		eachStore(func(label string, _ *pooled) {
			if label != "a.example.com" {
				t.Errorf("the memory %s is left of a failure", label)
			}
		})
	}
	next := provisionSites(t, "http://b.example.com:9080"+proxied("hs:1"))
	next.want("the alias alone", map[string]int{"b.example.com": 1})
	if next.handlers()[0].pooled == m {
		t.Error("the failed configuration's host has taken the memory over")
	}
}

// While a site has no handler, what changes there goes past what is remembered. So nothing of it is when the site has one
// again.
func TestMemoryEndsWithTheLastHandlerOfIt(t *testing.T) {
	for name, options := range map[string]string{"no name": "", "a name": " {\ncache {\nname hs\n}\n}"} {
		t.Run(name, func(t *testing.T) {
			const site = "http://a.example.com:9080"
			address := upstreamOf(t, scripted.New())
			c := provisionSites(t, site+" {\nmatrix_presence"+options+"\nreverse_proxy "+address+"\n}\n")
			m := c.handlers()[0].pooled
			c = c.reload(site + " {\nreverse_proxy " + address + "\n}\n")
			eachStore(func(label string, _ *pooled) { t.Errorf("the memory %s is left", label) })
			c = c.reload(site + " {\nmatrix_presence" + options + "\nreverse_proxy " + address + "\n}\n")
			if c.handlers()[0].pooled == m {
				t.Error("it remembers what was before")
			}
		})
	}
}

// The metrics of two stores must never have one label, or none could be read.
func TestNamesOfMemoriesAreUnique(t *testing.T) {
	named := func(upstream string) string {
		return " {\nmatrix_presence {\ncache {\nname a.example.com\n}\n}\nreverse_proxy " + upstream + "\n}\n"
	}
	c := provisionSites(t, "http://a.example.com:9080"+proxied("hs:1")+"http://b.example.com:9080"+named("hs:2"))
	c.want("a site and a name", map[string]int{"a.example.com": 1, "a.example.com :9080": 1})
	for _, h := range c.handlers() {
		if named := h.Cache != nil; named != (h.pooled.name == "a.example.com") {
			t.Errorf("%s has the memory %s", siteOf(h).title(), h.pooled.name)
		}
	}
	c.end()

	c = provisionSites(t, "http://a.example.com:9080"+proxied("hs:1"))
	m := c.handlers()[0].pooled
	c = c.reload("http://a.example.com:9080" + proxied("hs:1") + "http://b.example.com:9080" + named("hs:2"))
	c.want("a name that is a site's", map[string]int{"a.example.com": 1, "a.example.com (2)": 1})
	for _, h := range c.handlers() {
		if (h.pooled == m) != (h.Cache == nil) {
			t.Errorf("%s has the memory %s", siteOf(h).title(), h.pooled.name)
		}
	}
	// The name finds its memory again, whatever that is called.
	other := c.handlers()[slices.IndexFunc(c.handlers(), func(h *Handler) bool { return h.Cache != nil })].pooled
	c = c.reload("http://b.example.com:9080" + named("hs:3"))
	if c.handlers()[0].pooled != other {
		t.Error("the name has another memory after a reload")
	}
}

// A name that is in no list of routes has no site. JSON can have that, and more.
func TestHandlersInJSON(t *testing.T) {
	route := func(match string, handlers ...string) string {
		return fmt.Sprintf(`{"match":[%s],"handle":[%s]}`, match, strings.Join(handlers, ","))
	}
	server := func(listen string, routes ...string) string {
		return fmt.Sprintf(`%q:{"listen":[%q],"automatic_https":{"disable":true},"routes":[%s]}`, listen, listen, strings.Join(routes, ","))
	}
	const presence, proxy = `{"handler":"matrix_presence"}`, `{"handler":"reverse_proxy","upstreams":[{"dial":"hs:1"}]}`
	const hostA, hostB = `{"host":["A.example.com"]}`, `{"host":["b.example.com"]}`
	for _, tc := range []struct {
		name    string
		servers []string
		stores  map[string]int // none: refused
	}{
		{"the upstream in a later route", []string{
			server(":9", route(hostA, presence), route(hostA, proxy)), server(":8", route(hostA, presence, proxy)),
		}, map[string]int{"a.example.com": 2}},
		{"another in a later route", []string{
			server(":9", route(hostA, presence), route(hostA, strings.Replace(proxy, "hs:1", "hs:2", 1))), server(":8", route(hostA, presence, proxy)),
		}, map[string]int{"a.example.com": 1, "a.example.com :9": 1}},
		{"an upstream for other hosts in between", []string{
			server(":9", route(hostA, presence), route(hostB, strings.Replace(proxy, "hs:1", "hs:2", 1)), route(hostA, proxy)), server(":8", route(hostA, presence, proxy)),
		}, map[string]int{"a.example.com": 2}},
		{"a route that ends all before the upstream", []string{
			server(":9", route(hostA, presence), `{"handle":[{"handler":"headers"}],"terminal":true}`, route(hostA, proxy)), server(":8", route(hostA, presence, proxy)),
		}, nil},
		{"a variable of another route", []string{
			server(":9", `{"handle":[{"handler":"vars","upstream":"hs:1"}]}`, route(hostA, presence, strings.Replace(proxy, "hs:1", "{http.vars.upstream}", 1))),
			server(":8", `{"handle":[{"handler":"vars","upstream":"hs:2"}]}`, route(hostA, presence, strings.Replace(proxy, "hs:1", "{http.vars.upstream}", 1))),
		}, nil},
		{"a server on two ports", []string{
			`"s":{"listen":[":9",":8"],"routes":[` + route(hostA, presence, proxy) + `]}`,
		}, map[string]int{"a.example.com": 1}},
		{"a server on two ports, of which each has an upstream", []string{
			`"s":{"listen":[":9",":8"],"routes":[` + route(hostA, presence) + "," +
				route(`{"host":["a.example.com"],"vars":{"{http.request.port}":["8"]}}`, strings.Replace(proxy, "hs:1", "hs:2", 1)) + "," + route(hostA, proxy) + `]}`,
		}, nil},
		{"a server on two ports, of which each is an upstream's", []string{
			`"s":{"listen":[":9",":8"],"routes":[` + route(hostA, presence, strings.Replace(proxy, "hs:1", "hs:{http.request.port}", 1)) + `]}`,
		}, nil},
		{"two routes of a host", []string{
			server(":9", route(hostA, presence, proxy), route(hostA, presence, proxy)),
		}, nil},
		{"a handler for all hosts before those of two", []string{
			server(":9", `{"handle":[`+presence+`]}`, route(hostA, proxy), route(hostB, strings.Replace(proxy, "hs:1", "hs:2", 1))),
		}, nil},
		{"a matcher set without a host", []string{
			server(":9", route(hostA+`,{"path":["/_matrix/*"]}`, presence, proxy)),
		}, map[string]int{":9": 1}},
		{"within a handler of another kind", []string{
			server(":9", route(hostA, `{"handler":"intercept","handle_response":[{"routes":[{"handle":[`+presence+`]}]}]}`, proxy)),
		}, map[string]int{"a.example.com": 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			config := []byte(`{"admin":{"disabled":true,"config":{"persist":false}},"apps":{"http":{"servers":{` + strings.Join(tc.servers, ",") + `}}}}`)
			if !json.Valid(config) {
				t.Fatal(string(config))
			}
			c, err := tryProvision(t, config)
			switch {
			case tc.stores == nil && err == nil:
				t.Errorf("stores %v, want an error", c.stores())
			case tc.stores != nil && err != nil:
				t.Error(err)
			case tc.stores != nil:
				got := make(map[string]int)
				eachStore(func(label string, m *pooled) { got[label] = len(m.tenants) })
				if !maps.Equal(got, tc.stores) {
					t.Errorf("stores %v, want %v", got, tc.stores)
				}
			}
		})
	}
}

// Handlers of one memory front one homeserver. What one is told of it, all know.
func TestHandlersOfAMemoryAgreeOnTheHomeserver(t *testing.T) {
	block := func(option string) string {
		return " {\nmatrix_presence {\n" + option + "\ncache {\nname x\n}\n}\nreverse_proxy hs:1\n}\n"
	}
	c := provisionSites(t, "http://a.example.com:9"+block("homeserver dendrite")+"http://b.example.com:9"+block("homeserver auto"))
	for _, h := range c.handlers() {
		if h.gateway.Settings().Dialect != gateway.Dendrite {
			t.Errorf("%s doesn't know that it fronts a Dendrite", siteOf(h).title())
		}
	}
	c.end()
	_, err := tryProvision(t, adapt(t, "http://a.example.com:9"+block("homeserver dendrite")+"http://b.example.com:9"+block("homeserver synapse")))
	if err == nil || !strings.Contains(err.Error(), "can't be both homeserver dendrite and homeserver synapse") {
		t.Errorf("error %v", err)
	}
}

// randomSites returns the blocks of a Caddyfile with sites on two ports, of some hosts and
// upstreams each, in any order.
func randomSites(random *rand.Rand) string {
	var blocks []string
	for _, port := range []string{"9080", "9443"} {
		hosts := random.Perm(5)
		for len(hosts) > 0 && (len(blocks) == 0 || random.IntN(4) > 0) {
			n := 1 + random.IntN(min(3, len(hosts)))
			var addresses []string
			for _, host := range hosts[:n] {
				addresses = append(addresses, fmt.Sprintf("http://h%d.example.com:%s", host, port))
			}
			hosts = hosts[n:]
			blocks = append(blocks, strings.Join(addresses, ", ")+proxied(fmt.Sprintf("hs:%d", 1+random.IntN(2))))
		}
	}
	random.Shuffle(len(blocks), func(i, j int) { blocks[i], blocks[j] = blocks[j], blocks[i] })
	return strings.Join(blocks, "")
}

// Whatever sites come and go: no memory is ever given to another homeserver, sites that meet
// before one homeserver share theirs, each has a name of its own, and a memory that can only
// be one site's stays with it.
func TestMemoriesFollowTheirHomeserversThroughRandomReloads(t *testing.T) {
	for seed := range uint64(8) {
		random := rand.New(rand.NewPCG(seed, 7))
		c := provisionSites(t, randomSites(random))
		homeservers := make(map[*pooled]string)
		for range 25 {
			before := make(map[*pooled][]*site)
			for _, h := range c.handlers() {
				before[h.pooled] = append(before[h.pooled], siteOf(h))
			}
			caddyfile := randomSites(random)
			c = c.reload(caddyfile)
			names, after := make(map[string]*pooled), make(map[*pooled][]*site)
			for _, h := range c.handlers() {
				after[h.pooled] = append(after[h.pooled], siteOf(h))
				if of, ok := homeservers[h.pooled]; ok && of != siteOf(h).homeserver {
					t.Fatalf("seed %d: the memory of %s is given to %s by\n%s", seed, of, siteOf(h).homeserver, caddyfile)
				}
				homeservers[h.pooled] = siteOf(h).homeserver
				if m, ok := names[h.pooled.name]; ok && m != h.pooled {
					t.Fatalf("seed %d: two stores are called %s by\n%s", seed, h.pooled.name, caddyfile)
				}
				names[h.pooled.name] = h.pooled
				for _, other := range c.handlers() {
					if siteOf(h).overlap(siteOf(other)) > 0 && h.pooled != other.pooled {
						t.Fatalf("seed %d: %s and %s don't share in\n%s", seed, siteOf(h).title(), siteOf(other).title(), caddyfile)
					}
				}
			}
			meeting := func(sites []*site, others map[*pooled][]*site) (met []*pooled) {
				for m, tenants := range others {
					if meet(sites, tenants) > 0 {
						met = append(met, m)
					}
				}
				return met
			}
			for old, sites := range before {
				if now := meeting(sites, after); len(now) == 1 && now[0] != old && len(meeting(after[now[0]], before)) == 1 {
					t.Fatalf("seed %d: %s has lost its memory by\n%s", seed, sites[0].title(), caddyfile)
				}
			}
		}
		c.end()
	}
}

// Each handler looked through all sites of its server for the header fields that they name, so
// that 1,000 sites took 23 seconds to start, and as long at each reload, instead of two.
// Allocations stand for the time.
func TestManySitesAreLookedThroughOnce(t *testing.T) {
	each := func(sites int) float64 {
		var caddyfile strings.Builder
		for i := range sites {
			fmt.Fprintf(&caddyfile, "http://matrix%d.example.com:9 {\nencode gzip\nheader X-A b\n@ban remote_ip 192.0.2.%d\n"+
				"matrix_presence\n@hs path /_matrix/* /_synapse/client/*\nreverse_proxy @hs hs:%d\nrespond /.well-known/matrix/server x\n}\n",
				i, i%250, 8000+i)
		}
		adapted := adapt(t, caddyfile.String())
		allocations := testing.AllocsPerRun(1, func() {
			c, err := tryProvision(t, adapted)
			if err != nil {
				t.Fatal(err)
			}
			c.end()
		})
		t.Logf("%d sites: %.0f allocations each", sites, allocations/float64(sites))
		return allocations / float64(sites)
	}
	// Later, it was looked at for each site which hosts all others are for.
	if few, many := each(20), each(400); many > 1.3*few {
		t.Errorf("%.0f allocations for each of 400 sites, %.0f for each of 20", many, few)
	}
}
