package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
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
	old.gateway = nil // its test's cleanup has nothing more to do
	p.handler = handler
}

func TestReloadKeepsWhatIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &Handler{WriteLimit: &Limit{Events: 1, Window: caddy.Duration(time.Hour)}})
		p.hs.Presence[Alice] = `{"presence":"offline"}`
		p.get("bob-token", Alice)
		p.put("bob-token", bob, `{"presence":"online"}`)
		p.reload(&Handler{
			WriteLimit: &Limit{Events: 2, Window: caddy.Duration(2 * time.Hour), Burst: 1},
			Cache:      &Cache{States: 77, Permissions: 77, TTL: caddy.Duration(2 * time.Minute)},
			Identity:   &Identity{Tokens: 77},
		})
		p.want(p.get("bob-token", Alice), 200, "", "matrix_presence; hit; ttl=120")
		p.wantError(p.put("bob-token", bob, `{"presence":"online"}`), 429, "M_LIMIT_EXCEEDED")
		p.wantCounts(map[string]int{"GET": 1, "whoami": 1})
	})
}

// What is in memory kept its end, so that identity ttl lowered from an hour to a minute had a
// token that ended elsewhere read on for the rest of the hour. Rejections and refusals likewise.
func TestLifetimesOfIdentitiesChangeAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lasting := func(ttl, rejected time.Duration) *Handler {
			return &Handler{
				Cache:    &Cache{TTL: caddy.Duration(24 * time.Hour)},
				Identity: &Identity{TTL: caddy.Duration(ttl), RejectedTTL: ptr(rejected)},
			}
		}
		p := newProxy(t, lasting(time.Hour, time.Hour))
		p.hs.Tokens["locked"] = bob
		p.hs.locks("locked", 401, lockedBody)
		lookups := func(what string, want int) {
			t.Helper()
			before := p.hs.Count("whoami")
			for range 2 {
				p.get("bob-token", Alice)
				p.get("made-up", Alice)
				p.get("locked", Alice)
			}
			if got := p.hs.Count("whoami") - before; got != want {
				t.Errorf("%s: %d lookups, want %d", what, got, want)
			}
		}
		lookups("at first", 3)
		time.Sleep(30 * time.Minute)
		lookups("as long as they are good", 0)
		p.reload(lasting(time.Minute, time.Minute))
		lookups("lowered", 3)
		time.Sleep(30 * time.Minute)
		p.reload(lasting(time.Hour, time.Hour))
		lookups("raised", 0)
		p.reload(lasting(time.Hour, 0))
		lookups("rejections off", 4)
	})
}

func TestFailedReloadChangesNothing(t *testing.T) {
	p := newProxy(t, new(Handler))
	p.get("bob-token", Alice)
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
		if p.handler.gateway.memory.sizes.states != defaultStates {
			t.Errorf("%s: the tables were resized", name)
		}
	}
	p.want(p.get("bob-token", Alice), 200, "", "matrix_presence; hit")
}

func TestRequestsOutliveTheirConfiguration(t *testing.T) {
	p := newProxy(t, new(Handler))
	p.hs.Intercept = func(_ http.ResponseWriter, r *http.Request) (bool, error) {
		if r.Method == "PUT" {
			if _, err := memories.Delete(p.handler.pooled.name); err != nil {
				t.Error(err)
			}
		}
		return false, nil
	}
	p.want(p.put("alice-token", Alice, `{"presence":"online"}`), 200, `{}`, "")
	p.hs.Intercept = nil
	p.want(p.get("bob-token", Alice), 200, "", "")
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
		"http://b.example.com:0, http://g.example.com:0 {\nmatrix_presence {\nover_limit coalesce\nrepeat_writes absorb\nsync limit\n}\nreverse_proxy hs:1\n}\n",
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
	for range 40 {
		var caddyfile strings.Builder
		for _, i := range rand.Perm(len(sites))[:1+rand.IntN(3)] {
			caddyfile.WriteString(sites[i])
		}
		fails := rand.IntN(3) == 0
		if fails {
			caddyfile.WriteString(failing[rand.IntN(len(failing))])
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
	eachMemory(func(name string, m *pooled) { t.Errorf("the memory %s is left, of %d handlers", name, len(m.tenants)) })
	var left []string
	for range 1000 { // they may be about to end
		left = nil
		stacks := make([]byte, 1<<20)
		for stack := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
			if strings.Contains(stack, "caddymodule.") && !strings.Contains(stack, t.Name()) && !strings.Contains(stack, "testing.(*M).Run") {
				left = append(left, stack)
			}
		}
		if left == nil {
			return
		}
		runtime.Gosched()
	}
	t.Errorf("goroutines are left:\n%s", strings.Join(left, "\n\n"))
}

// Of all that is remembered, and logged, nothing has a token in it, whatever it was shown for:
// access tokens, refresh tokens, made up, revoked, refused, of bridges.
func TestNoTokenIsRememberedOrLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const secret = "SECRETabcdefghijk"
		h := &Handler{Sync: "limit", Homeserver: "synapse", RepeatWrites: "absorb", OverLimit: "coalesce", Preflight: "local"}
		p := newProxy(t, h)
		logs := logged(h)
		for n, userID := range []string{Alice, bob, carol} {
			p.hs.Tokens[fmt.Sprint(secret, n)] = userID
		}
		p.hs.Tokens["as-"+secret] = "@bridge:example.com"
		p.hs.Tokens[secret+"-locked"] = "@locked:example.com"
		p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
			token := r.Header.Get("Authorization")
			switch {
			case r.URL.Path == clientAPI+"login", r.URL.Path == clientAPI+"register", r.URL.Path == clientAPI+"refresh":
				answer(w, 200, `{"user_id":"@alice:example.com","access_token":"`+secret+`0","refresh_token":"`+secret+`-r"}`)
			case token == "Bearer "+secret+"-locked":
				answer(w, 401, lockedBody)
			case token == "Bearer "+secret+"-down":
				return true, caddyhttp.Error(502, errors.New("no connection"))
			case token == "Bearer "+secret+"-panic" && strings.HasSuffix(r.URL.Path, "whoami"):
				panic("bug")
			case token == "Bearer "+secret+"-odd":
				answer(w, 204, "")
			default:
				return false, nil
			}
			return true, nil
		})
		tokens := []string{secret + "0", secret + "1", secret + "2", "as-" + secret, secret + "-locked", secret + "-down", secret + "-panic", secret + "-odd", secret + "-made-up"}
		for range 2 {
			for _, token := range tokens {
				for _, query := range []string{"", "?user_id=@ghost:example.com", "?user_id=", "?access_token=" + token} {
					p.do(behind("GET", statusPath(Alice)+query, token, ""))
					p.do(behind("PUT", statusPath(Alice)+query, token, message(1)))
					p.do(behind("PUT", statusPath(Alice)+query, token, message(2)))
					p.do(behind("GET", syncPath+query, token, ""))
				}
				for _, path := range []string{"login", "register", "refresh", "logout", "logout/all", "delete_devices"} {
					p.do(behind("POST", clientAPI+path, token, `{"refresh_token":"`+secret+`-r"}`))
				}
				p.do(behind("POST", "/oauth2/revoke", "", "token="+token))
			}
			time.Sleep(time.Hour) // nothing waits any more
			synctest.Wait()
		}
		found := testkit.Reachable(p.handler.gateway.memory)
		for _, entry := range logs.All() {
			found = append(found, entry.Message, fmt.Sprint(entry.Fields))
		}
		if all := strings.Join(found, "\n"); !strings.Contains(all, lockedBody) && !strings.Contains(all, "@alice:example.com") {
			t.Error("the search finds nothing, so it proves nothing")
		} else if i := strings.Index(all, "SECRET"); i >= 0 {
			t.Errorf("a token is kept in clear: %.200q", all[max(0, i-100):])
		}
		if len(logs.All()) == 0 {
			t.Error("nothing was logged")
		}
	})
}
