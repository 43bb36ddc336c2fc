package caddymodule

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// reload provisions handler in the place of p's, as Caddy does: the new one
// before the old one is cleaned up.
func (p *proxy) reload(handler *Handler) {
	p.t.Helper()
	handler.Cache.Name = p.handler.Cache.Name
	old := p.handler
	provision(p.t, handler)
	if err := old.Cleanup(); err != nil {
		p.t.Fatalf("cleaning up: %v", err)
	}
	old.memory = nil // its test's cleanup has nothing more to do
	p.handler = handler
}

func TestReloadKeepsWhatIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &Handler{WriteLimit: &Limit{Events: 1, Window: caddy.Duration(time.Hour)}})
		p.hs.presence[alice] = `{"presence":"offline"}`
		p.get("bob-token", alice)
		p.put("bob-token", bob, `{"presence":"online"}`)
		p.reload(&Handler{
			WriteLimit: &Limit{Events: 2, Window: caddy.Duration(2 * time.Hour), Burst: 1},
			Cache:      &Cache{States: 77, Permissions: 77, TTL: caddy.Duration(2 * time.Minute)},
			Identity:   &Identity{Tokens: 77},
		})
		p.want(p.get("bob-token", alice), 200, "", "matrix_presence; hit; ttl=120")
		p.wantError(p.put("bob-token", bob, `{"presence":"online"}`), 429, "M_LIMIT_EXCEEDED")
		p.wantCounts(map[string]int{"GET": 1, "whoami": 1})
	})
}

func TestFailedReloadChangesNothing(t *testing.T) {
	p := newProxy(t, new(Handler))
	p.get("bob-token", alice)
	for name, handler := range map[string]*Handler{
		"before the memory was taken": {Cache: &Cache{Name: t.Name()}, MaxBody: -1},
		// Something else in the configuration fails after this handler.
		"after": {Cache: &Cache{Name: t.Name(), States: 1}, Identity: &Identity{Tokens: 1}},
	} {
		ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
		err := handler.Provision(ctx)
		if (err != nil) != (handler.MaxBody < 0) {
			t.Fatalf("%s: %v", name, err)
		}
		if err := handler.Cleanup(); err != nil {
			t.Fatalf("%s: cleaning up: %v", name, err)
		}
		cancel()
		if refs, _ := memories.References(t.Name()); refs != 1 {
			t.Errorf("%s: %d references to the memory, want 1", name, refs)
		}
		if p.handler.memory.sizes.states != defaultStates {
			t.Errorf("%s: the tables were resized", name)
		}
	}
	p.want(p.get("bob-token", alice), 200, "", "matrix_presence; hit")
}

func TestRequestsOutliveTheirConfiguration(t *testing.T) {
	p := newProxy(t, new(Handler))
	p.hs.intercept = func(_ http.ResponseWriter, r *http.Request) (bool, error) {
		if r.Method == "PUT" {
			if _, err := memories.Delete(p.handler.memoryName); err != nil {
				t.Error(err)
			}
		}
		return false, nil
	}
	p.want(p.put("alice-token", alice, `{"presence":"online"}`), 200, `{}`, "")
	p.hs.intercept = nil
	p.want(p.get("bob-token", alice), 200, "", "")
	p.handler.memory = nil // dropped above
}

func TestSitesShareAMemoryByHostsOrName(t *testing.T) {
	const named = "{\nmatrix_presence {\ncache {\nname shared\n}\n}\nrespond ok\n}\n"
	const unnamed = "{\nmatrix_presence\nrespond ok\n}\n"
	provisionCaddyfile(t, `
		http://a.example.com:9 `+unnamed+`
		http://c.example.com:9, http://b.example.com:9 `+unnamed+`
		http://b.example.com:8, http://c.example.com:8 `+unnamed+`
		http://d.example.com:9 `+named+`
		http://e.example.com:7 `+named+`
		http://:6 `+unnamed, "")
	for name, want := range map[string]int{
		"a.example.com": 1, "b.example.com c.example.com": 2, "shared": 2, ":6": 1,
	} {
		if got, _ := memories.References(name); got != want {
			t.Errorf("memory %q has %d references, want %d", name, got, want)
		}
	}
}

// A site that is added before another must not get its memory: the two may be of
// different homeservers.
func TestMemoryFollowsItsSiteThroughAReload(t *testing.T) {
	provisionCaddyfile(t, "http://:7 {\nmatrix_presence\nrespond ok\n}", "")
	provisionCaddyfile(t, `
		http://:6 {
			matrix_presence
			respond ok
		}
		http://:7 {
			matrix_presence
			respond ok
		}`, "")
	for name, want := range map[string]int{":6": 1, ":7": 2} {
		if got, _ := memories.References(name); got != want {
			t.Errorf("memory %q has %d references, want %d", name, got, want)
		}
	}
}

func TestTwoHandlersOfASiteNeedNames(t *testing.T) {
	const site = `
		http://a.example.com:9 {
			handle /a* {
				matrix_presence NAME
				respond ok
			}
			handle {
				matrix_presence NAME
				respond ok
			}
		}`
	provisionCaddyfile(t, strings.ReplaceAll(site, "NAME", ""), "give each a cache name")
	if got, _ := memories.References("a.example.com"); got != 0 {
		t.Errorf("%d references are left of the refused configuration", got)
	}
	provisionCaddyfile(t, strings.ReplaceAll(site, "NAME", "{\ncache {\nname x\n}\n}"), "")
}

// provisionCaddyfile loads a configuration up to its start, and wants the error
// to say something if that isn't empty.
func provisionCaddyfile(t *testing.T, caddyfile, wantErr string) {
	t.Helper()
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte("{\nadmin off\npersist_config off\n}\n"+caddyfile), nil)
	if err != nil {
		t.Fatalf("adapting: %v", err)
	}
	var config caddy.Config
	if err := caddy.StrictUnmarshalJSON(adapted, &config); err != nil {
		t.Fatalf("reading the adapted configuration: %v", err)
	}
	ctx, err := caddy.ProvisionContext(&config)
	switch {
	case err != nil && (wantErr == "" || !strings.Contains(err.Error(), wantErr)):
		t.Fatalf("provisioning: %v, want %q", err, wantErr)
	case err == nil && wantErr != "":
		t.Fatalf("no error, want %q", wantErr)
	case err == nil:
		app, _ := ctx.App("http")
		t.Cleanup(func() {
			for _, server := range app.(*caddyhttp.App).Servers {
				for i := range server.Routes {
					cleanupHandlers(t, server.Routes[i].Handlers)
				}
			}
		})
	}
}

// cleanupHandlers does what ending a configuration does, for our handlers.
func cleanupHandlers(t *testing.T, handlers []caddyhttp.MiddlewareHandler) {
	for _, handler := range handlers {
		switch h := handler.(type) {
		case *Handler:
			if err := h.Cleanup(); err != nil {
				t.Error(err)
			}
		case *caddyhttp.Subroute:
			for i := range h.Routes {
				cleanupHandlers(t, h.Routes[i].Handlers)
			}
		}
	}
}
