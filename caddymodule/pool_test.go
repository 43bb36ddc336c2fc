package caddymodule

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

func TestFailedReloadChangesNothing(t *testing.T) {
	p := handle(t, new(Handler))
	p.Get("bob-token", alice)
	p.Get("bob-token", bob)
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
		if refs, _ := stores.References(t.Name()); refs != 1 {
			t.Errorf("%s: %d references to the memory, want 1", name, refs)
		}
		if got := entriesOf(t.Name(), "states"); got != 2 {
			t.Errorf("%s: the tables were resized: %v states are left", name, got)
		}
	}
	p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; hit")
}

func TestRequestsOutliveTheirConfiguration(t *testing.T) {
	p := handle(t, new(Handler))
	p.HS.Intercept = func(_ http.ResponseWriter, r *http.Request) (bool, error) {
		if r.Method == "PUT" {
			if _, err := stores.Delete(p.handler.pooled.name); err != nil {
				t.Error(err)
			}
		}
		return false, nil
	}
	p.Want(p.Put("alice-token", alice, `{"presence":"online"}`), 200, `{}`, "")
	p.HS.Intercept = nil
	p.Want(p.Get("bob-token", alice), 200, "", "")
	p.handler.gateway = nil // dropped above
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

// Reloads in a row, of which some fail while they are provisioned and some when they start, leave no
// memory, no tenant, no plan and no goroutine of ours, wherever the handlers stand. Two
// configurations are there at once at each of them.
func TestReloadsLeaveNothingBehind(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, busy, _ := net.SplitHostPort(taken.Addr().String())

	const named = "matrix_presence {\ncache {\nname shared\n}\n}\n"
	sites := []string{
		"http://a.example.com:0" + proxied("hs:1"),
		"http://b.example.com:0, http://g.example.com:0 {\nmatrix_presence {\nover_limit coalesce\nrepeat_writes absorb\nsync_presence limit\n}\nreverse_proxy hs:1\n}\n",
		"http://c.example.com:0 {\n" + named + "reverse_proxy hs:1\nhandle_errors {\n" + named + "reverse_proxy hs:1\n}\n}\n",
		"&(hs) {\nmatrix_presence\nreverse_proxy /_matrix/* hs:2\n}\nhttp://d.example.com:0 {\ninvoke hs\n}\n",
		"http://e.example.com:0 {\nintercept {\n@e status 500\nhandle_response @e {\n" + named + "reverse_proxy hs:1\n}\n}\nreverse_proxy hs:1\n}\n",
		"http://f.example.com:0 {\nreverse_proxy hs:1 {\nhandle_response {\n" + named + "reverse_proxy hs:1\n}\n}\n}\n",
	}
	failing := []string{
		"http://x.example.com:0 {\nmatrix_presence\nhandle {\nmatrix_presence\nreverse_proxy hs:1\n}\n}\n", // needs a name
		"http://x.example.com:0 {\nmatrix_presence\nrespond @no ok\n@no expression nonsense(\n}\n",
		"http://x.example.com:" + busy + " {\nbind 127.0.0.1\nmatrix_presence\nreverse_proxy hs:3\n}\n",
	}
	started, failed := 0, 0
	random := testkit.Rand(t)
	for range 40 {
		var caddyfile strings.Builder
		for _, i := range random.Perm(len(sites))[:1+random.IntN(3)] {
			caddyfile.WriteString(sites[i])
		}
		fails := random.IntN(3) == 0
		if fails {
			caddyfile.WriteString(failing[random.IntN(len(failing))])
		}
		text := caddyfile.String()
		if strings.Contains(text, "&(hs)") { // named routes come first
			text = sites[3] + strings.Replace(text, sites[3], "", 1)
		}
		config := strings.ReplaceAll(string(adapt(t, text)), `"listen":[":0"]`, `"listen":["127.0.0.1:0"]`)
		err := caddy.Load([]byte(config), true)
		if (err != nil) != fails {
			t.Fatalf("error %v of\n%s", err, text)
		}
		if fails {
			failed++
		} else {
			started++
		}
		if limit := min(started, 1); len(plans.of) > limit {
			t.Fatalf("%d plans after %d reloads that failed and\n%s", len(plans.of), failed, text)
		}
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	if len(plans.of) != 0 {
		t.Errorf("%d plans are left", len(plans.of))
	}
	eachStore(func(name string, m *pooled) { t.Errorf("the memory %s is left, of %d handlers", name, len(m.tenants)) })
	var left []string
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) { // they may be about to end
		left = nil
		stacks := make([]byte, 1<<20)
		for stack := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
			if strings.Contains(stack, "caddy-matrix-presence/") && !strings.Contains(stack, t.Name()) && !strings.Contains(stack, "testing.(*M).Run") {
				left = append(left, stack)
			}
		}
		if left == nil {
			return
		}
	}
	t.Errorf("goroutines are left:\n%s", strings.Join(left, "\n\n"))
}

// Whoever joins a cluster drops what is remembered. A configuration that failed late, such as for a port that is taken,
// had the memory of the one that goes on dropped.
func TestAClusterIsJoinedWhenItsConfigurationServes(t *testing.T) {
	const site = "http://a.example.com:9080 {\nmatrix_presence {\ncache {\nname joins\n}\n}\nreverse_proxy 127.0.0.1:1\n}\n"
	running := provisionSites(t, site)
	isMember := func() bool {
		member := false
		running.handlers()[0].pooled.store.Samples(func(metric *gateway.Metric, _ float64, _ ...string) {
			member = member || strings.HasPrefix(metric.Name, "cluster_")
		})
		return member
	}
	clustered := []byte(strings.Replace(string(adapt(t, site)), `{"name":"joins"}`, `{"name":"joins"},"cluster":{"store":"scripted"}`, 1))
	for _, serves := range []bool{false, true} {
		next, err := tryProvision(t, clustered)
		if err != nil {
			t.Fatal(err)
		}
		if isMember() {
			t.Errorf("it is in a cluster that no configuration which serves has")
		}
		if serves {
			recorder := httptest.NewRecorder()
			r := caddyhttp.PrepareRequest(request("GET", "/_matrix/client/versions", "", ""), caddy.NewReplacer(), recorder, new(caddyhttp.Server))
			nothing := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
			if err := next.handlers()[0].ServeHTTP(recorder, r, nothing); err != nil {
				t.Fatal(err)
			}
			if !isMember() {
				t.Error("it isn't in the cluster of a configuration that serves")
			}
		}
		next.end()
	}
	if isMember() {
		t.Error("it is still in the cluster after the end of the configuration")
	}
}
