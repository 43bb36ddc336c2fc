package caddymodule

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/scripted"
)

// A site that has a handler, and another one in the block of its homeserver, is told to give both
// a name, the same one. Then each read joined the fetch that it was itself, until that timed out, each
// write was charged twice, and a sync that set a presence was taken for its own repeat.
func TestRequestIsJudgedByOneHandlerOfAMemory(t *testing.T) {
	for name, directives := range map[string]string{
		"route":        "matrix_presence OPTIONS\nroute {\nmatrix_presence OPTIONS\nreverse_proxy UPSTREAM\n}",
		"handle":       "matrix_presence OPTIONS\nhandle /_matrix/* {\nmatrix_presence OPTIONS\nreverse_proxy UPSTREAM\n}",
		"one passes":   "matrix_presence OPTIONS\nhandle_path /matrix/* {\nmatrix_presence OPTIONS\nreverse_proxy UPSTREAM\n}\nhandle {\nmatrix_presence OPTIONS\nreverse_proxy UPSTREAM\n}",
		"one by one":   "matrix_presence OPTIONS\nreverse_proxy UPSTREAM",
		"one in three": "route {\nmatrix_presence OPTIONS\nroute {\nmatrix_presence OPTIONS\nroute {\nmatrix_presence OPTIONS\nreverse_proxy UPSTREAM\n}\n}\n}",
	} {
		t.Run(name, func(t *testing.T) {
			hs := scripted.New()
			options := "{\nwrite_limit 2/1h burst 2\nsync_presence limit\nhomeserver synapse\ncache {\nname " + strings.ReplaceAll(name, " ", "-") + "\n}\n}"
			site := newSite(t, hs, strings.ReplaceAll(directives, "OPTIONS", options))
			for _, status := range []string{"matrix_presence; fwd=miss; stored", "matrix_presence; hit"} {
				resp := ask(site, presenceRequest("GET", "alice-token", ""))
				if got := resp.Header.Get("Cache-Status"); resp.StatusCode != 200 || !strings.HasPrefix(got, status) {
					t.Errorf("a read: %d, %s", resp.StatusCode, got)
				}
			}
			for n, status := range []int{200, 200, 429} {
				body := fmt.Sprintf(`{"presence":"online","status_msg":"%d"}`, n)
				if resp := ask(site, presenceRequest("PUT", "alice-token", body)); resp.StatusCode != status {
					t.Errorf("write %d: %d, want %d", n, resp.StatusCode, status)
				}
			}
			for _, query := range []string{"since=s&timeout=0&set_presence=online", "since=s&timeout=0&set_presence=unavailable"} {
				ask(site, request("GET", "http://example.com:9/_matrix/client/v3/sync?"+query, "alice-token", ""))
				hs.Mu.Lock()
				i := slices.IndexFunc(hs.Seen, func(r *http.Request) bool { return r.URL.Path == "/_matrix/client/v3/sync" && r.URL.RawQuery == query })
				hs.Mu.Unlock()
				if i < 0 {
					t.Errorf("the sync %s went as another", query)
				}
			}
		})
	}
}

// varsAfter is a handler that notes which variables of ours a request has when that is over.
type varsAfter struct{ inMap, inPlaceholder string }

var lastVars varsAfter

func (*varsAfter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_vars_after", New: func() caddy.Module { return new(varsAfter) }}
}

func (*varsAfter) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	err := next.ServeHTTP(w, r)
	inMap, _ := caddyhttp.GetVar(r.Context(), "matrix_presence.decision").(string)
	inPlaceholder, _ := placeholdersOf(r).GetString("http.vars.matrix_presence.decision")
	lastVars = varsAfter{inMap, inPlaceholder}
	return err
}

func init() {
	caddy.RegisterModule(new(varsAfter))
	httpcaddyfile.RegisterHandlerDirective("test_vars_after", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return new(varsAfter), nil
	})
}

// A reverse proxy that had a request before us, such as a forward_auth, may go on reading its variables
// while it dials. They are a map without a lock: to write into it then ended the process, now and then.
func TestNoVariableIsWrittenOnceAReverseProxyHasHadTheRequest(t *testing.T) {
	site := newSite(t, scripted.New(), `
		route {
			test_vars_after
			forward_auth /_matrix/client/v3/* UPSTREAM {
				uri /_matrix/client/versions
			}
			matrix_presence {
				write_limit 1/1h burst 1
			}
			reverse_proxy UPSTREAM
		}`)
	for _, want := range []varsAfter{{"", "forwarded"}, {"", "limited"}} {
		ask(site, presenceRequest("PUT", "alice-token", `{"presence":"online"}`))
		if lastVars != want {
			t.Errorf("behind a forward_auth: %+v, want %+v", lastVars, want)
		}
	}
	r := request("GET", "http://example.com:9/_matrix/client/r0/presence/"+alice+"/status", "alice-token", "")
	if ask(site, r); lastVars != (varsAfter{"forwarded", "forwarded"}) {
		t.Errorf("without one: %+v", lastVars)
	}
}

// A handler in handle_errors judges what the first has let through in vain.
func TestRequestThatFailedIsJudgedAgain(t *testing.T) {
	hs := scripted.New()
	site := newSite(t, hs, `
		matrix_presence {
			write_limit off
			cache {
				name again
			}
		}
		@write method PUT
		error @write 503
		reverse_proxy UPSTREAM
		handle_errors {
			matrix_presence {
			write_limit off
				cache {
					name again
				}
			}
			reverse_proxy UPSTREAM
		}`)
	ask(site, presenceRequest("GET", "alice-token", ""))
	if resp := ask(site, presenceRequest("PUT", "alice-token", `{"presence":"unavailable"}`)); resp.StatusCode != 200 || resp.Header.Get("Cache-Status") != "matrix_presence; fwd=method" {
		t.Errorf("the write: %d, %s", resp.StatusCode, resp.Header.Get("Cache-Status"))
	}
	if resp := ask(site, presenceRequest("GET", "alice-token", "")); !strings.Contains(bodyOf(resp), "unavailable") {
		t.Errorf("after the write: %s", bodyOf(resp))
	}
}
