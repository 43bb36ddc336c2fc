package caddymodule

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/scripted"
)

// provisioningServer returns the server that a site with these directives becomes, as it is before
// it is provisioned.
func provisioningServer(t *testing.T, directives string) *caddyhttp.Server {
	t.Helper()
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte("http://example.com:9 {\n"+directives+"\n}\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	var config caddy.Config
	var app caddyhttp.App
	if err := json.Unmarshal(adapted, &config); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(config.AppsRaw["http"], &app); err != nil {
		t.Fatal(err)
	}
	return app.Servers["srv0"]
}

func TestFieldsThatASiteNames(t *testing.T) {
	for directives, want := range map[string]struct{ set, read string }{
		"respond 204":                                {"", ""},
		"request_header X-Tenant one":                {"X-Tenant", ""},
		"request_header +x-tenant one":               {"X-Tenant", ""},
		"request_header X-Tenant one two":            {"", "X-Tenant"},
		"request_header -X-Tenant":                   {"", ""},
		"request_header Authorization x":             {"", ""},
		"request_header User-Agent x":                {"", ""},
		"@a header X-Beta 1\nrespond @a 204":         {"", "X-Beta"},
		"@a not header !X-Beta\nrespond @a 204":      {"", "X-Beta"},
		"@a header_regexp X-Beta ^1\nrespond @a 204": {"", "X-Beta"},
		"@a `header({\"X-Beta\": \"1\"}) && header_regexp('X-Gamma', '^1')`\nrespond @a 204": {"", "X-Beta X-Gamma"},
		"@a expression {header.X-Beta} == \"1\"\nrespond @a 204":                             {"", "X-Beta"},
		"@a vars {http.request.header.X-Beta} 1\nrespond @a 204":                             {"", "X-Beta"},
		"map {header.X-Beta} {b} {\n default 1\n}\nrespond {b}":                              {"", "X-Beta"},
		"@a `{cookie.beta} == \"1\"`\nrespond @a 204":                                        {"", "Cookie"},
		"reverse_proxy a:1 b:2 {\n lb_policy header X-Beta\n}":                               {"", "X-Beta"},
		"reverse_proxy a:1 b:2 {\n lb_policy cookie beta secret\n}":                          {"", "Cookie"},
		"reverse_proxy a:1 {\n header_up X-Beta {header.X-Gamma}\n}":                         {"", "X-Gamma"},
		"handle /x/* {\n route {\n request_header X-Deep 1\n }\n}":                           {"X-Deep", ""},
		"forward_auth a:1 {\n uri /\n copy_headers Remote-User>X-User Remote-Groups\n}":      {"Remote-Groups X-User", "Cookie"},
	} {
		f := newSiteFields(provisioningServer(t, directives))
		slices.Sort(f.Set)
		slices.Sort(f.Read)
		read := slices.DeleteFunc(f.Read, func(name string) bool { return slices.Contains(f.Set, name) })
		if got := strings.Join(f.Set, " "); got != want.set {
			t.Errorf("%s: sets %q, want %q", directives, got, want.set)
		}
		if got := strings.Join(read, " "); got != want.read {
			t.Errorf("%s: reads %q, want %q", directives, got, want.read)
		}
	}
}

// The matchers of a site without hosts are provisioned before its handlers. Of these only
// header and header_regexp were looked at, so that requests of ours lacked the fields of others.
func TestFieldsThatASiteWithoutHostsNames(t *testing.T) {
	for _, matcher := range []string{
		"header X-Beta 1", "header !X-Beta", "not header !X-Beta", "header_regexp X-Beta ^1", "not header_regexp X-Beta ^1",
		"`header({\"X-Beta\": \"1\"})`", "expression {header.X-Beta} == \"1\"", "vars {http.request.header.X-Beta} 1",
		"vars_regexp {http.request.header.X-Beta} ^1", "not vars {http.request.header.X-Beta} 1",
	} {
		c := provisionSites(t, "http://:9080 {\nmatrix_presence\n@beta "+matcher+"\nreverse_proxy @beta hs:2\nreverse_proxy hs:1\n}\n")
		if got := c.handlers()[0].gateway.Fields().Read; !slices.Contains(got, "X-Beta") {
			t.Errorf("%s: reads %q, want X-Beta", matcher, got)
		}
		c.end()
	}
}

// What the site's handlers set, and what they look at, goes along with requests of ours,
// and no other field of the client's does.
func TestRequestsOfOursHaveWhatTheSiteNames(t *testing.T) {
	hs := scripted.New()
	site := newSite(t, hs, `
		request_header +X-Tenant one
		matrix_presence
		@beta header X-Beta 1
		handle @beta {
			reverse_proxy UPSTREAM
		}
		handle {
			respond 404
		}`)
	r := request("GET", "http://example.com:9"+statusPath(alice), "bob-token", "")
	r.Header.Set("X-Beta", "1")
	r.Header.Set("X-Tenant", strings.Repeat("x", 20_000))
	r.Header.Set("X-Evil", "x")
	r.Header.Set("Cookie", "x=y")
	if resp := ask(site, r); resp.StatusCode != 200 || resp.Header.Get("Cache-Status") != "matrix_presence; fwd=miss; stored" {
		t.Errorf("%d, %s", resp.StatusCode, resp.Header.Get("Cache-Status"))
	}
	if len(hs.Seen) != 2 {
		t.Errorf("%d requests", len(hs.Seen))
	}
	for _, r := range hs.Seen {
		if got := r.Header.Get("X-Tenant"); got != "one" || r.Header.Get("X-Beta") != "1" {
			t.Errorf("%s: X-Tenant %.20q, X-Beta %q", r.URL, got, r.Header.Get("X-Beta"))
		}
		if r.Header.Get("X-Evil") != "" || r.Header.Get("Cookie") != "" {
			t.Errorf("%s: the client's own fields went along: %v", r.URL, r.Header)
		}
	}
}

// What the site makes of a client's field, by vars, map or a regular expression, went along in any
// size: the homeserver dropped our questions, and a token that had ended read what was in memory.
func TestValuesThatTheSiteMakesOfAClientsFieldAreBounded(t *testing.T) {
	for name, directives := range map[string]string{
		"vars":                 "vars made {header.X-Big}\nreverse_proxy UPSTREAM {\nheader_up X-Made {vars.made}\n}",
		"map":                  "map {header.X-Big} {made} {\n~(.*) ${1}\n}\nreverse_proxy UPSTREAM {\nheader_up X-Made {made}\n}",
		"a regular expression": "@m header_regexp made X-Big (.*)\nvars @m x y\nreverse_proxy UPSTREAM {\nheader_up X-Made {re.made.1}\n}",
	} {
		t.Run(name, func(t *testing.T) {
			hs := scripted.New()
			hs.Intercept = func(_ http.ResponseWriter, r *http.Request) (bool, error) {
				if len(r.Header.Get("X-Made")) > 16<<10 {
					panic(http.ErrAbortHandler)
				}
				return false, nil
			}
			site := newSite(t, hs, "matrix_presence {\ncache {\nttl 1ns\nstale_if_error 1h\n}\nidentity {\nttl 1ns\n}\n}\n"+directives)
			small := presenceRequest("GET", "alice-token", "")
			small.Header.Set("X-Big", "x")
			if resp := ask(site, small); resp.StatusCode != 200 || hs.Last().Header.Get("X-Made") != "x" {
				t.Errorf("before: %d, X-Made %q", resp.StatusCode, hs.Last().Header.Get("X-Made"))
			}
			hs.Mu.Lock()
			delete(hs.Tokens, "alice-token")
			hs.Mu.Unlock()
			r := presenceRequest("GET", "alice-token", "")
			r.Header.Set("X-Big", strings.Repeat("x", 16<<10+512))
			if resp := ask(site, r); resp.StatusCode != 401 {
				t.Errorf("%d %s, %s", resp.StatusCode, bodyOf(resp), resp.Header.Get("Cache-Status"))
			}
		})
	}
}

// A handler after us may answer a preflight by a field that one client sends. That answer
// isn't learned for all others.
func TestPreflightsThatTheSiteTellsApartAreNotLearned(t *testing.T) {
	hs := scripted.New()
	site := newSite(t, hs, `
		@evil {
			method OPTIONS
			header X-Evil *
		}
		@cors header Access-Control-Request-Method *
		header @cors X-Cors yes
		matrix_presence {
			preflight local
		}
		route {
			header @evil Access-Control-Allow-Origin https://evil.example
			respond @evil 204
			header Access-Control-Allow-Origin *
			respond 204
		}`)
	for _, evil := range []string{"1", "", ""} {
		r := request("OPTIONS", "http://example.com:9"+statusPath(alice), "", "")
		r.Header.Set("Origin", "https://app.example")
		r.Header.Set("Access-Control-Request-Method", "GET")
		if evil != "" {
			r.Header.Set("X-Evil", evil)
		}
		want := map[string]string{"1": "https://evil.example", "": "*"}[evil]
		if resp := ask(site, r); resp.Header.Get("Access-Control-Allow-Origin") != want {
			t.Errorf("X-Evil %q: Access-Control-Allow-Origin %q, want %q", evil, resp.Header.Get("Access-Control-Allow-Origin"), want)
		}
	}
	r := request("OPTIONS", "http://example.com:9"+statusPath(alice), "", "")
	r.Header.Set("Origin", "https://app.example")
	r.Header.Set("Access-Control-Request-Method", "GET")
	if resp := ask(site, r); resp.StatusCode != http.StatusNoContent || !strings.HasPrefix(resp.Header.Get("Cache-Status"), "matrix_presence; hit") {
		t.Errorf("an ordinary one: %d, %s", resp.StatusCode, resp.Header.Get("Cache-Status"))
	}
}

// A site that logs a field of the client's lost its local preflights: the field was taken for
// one by which the site tells clients apart.
func TestFieldsThatAreOnlyLoggedTellNobodyApart(t *testing.T) {
	var f siteFields
	f.raw([]byte(`{"handler":"subroute","routes":[{"handle":[{"handler":"log_append","key":"a","value":"{http.request.header.X-Kind}"}]}]}`))
	if names := f.Names(); len(names) != 1 || f.ReadsAny(http.Header{"X-Kind": {"a"}}) {
		t.Errorf("it names %q, and looks at them: %v", names, f.ReadsAny(http.Header{"X-Kind": {"a"}}))
	}
}
