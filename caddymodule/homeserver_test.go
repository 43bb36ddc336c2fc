package caddymodule

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// homeserver is a scripted one, to stand as the next handler. It answers as
// Synapse does, applies writes at once, and counts what reaches it.
type homeserver struct {
	mu       sync.Mutex
	tokens   map[string]string // token → user
	devices  map[string]string // token → device
	presence map[string]string // user → body of a GET
	hidden   map[string]bool   // "viewer target" that may not see each other
	counts   map[string]int    // "GET", "PUT", "whoami", "other"
	seen     []*http.Request   // as they came, without bodies

	// intercept may answer a request before the homeserver does. It is called
	// without the lock.
	intercept func(w http.ResponseWriter, r *http.Request) (handled bool, err error)
}

func newHomeserver() *homeserver {
	return &homeserver{
		tokens:   map[string]string{"alice-token": alice, "alice-phone": alice, "bob-token": bob, "carol-token": carol},
		devices:  make(map[string]string),
		presence: map[string]string{alice: `{"presence":"online","last_active_ago":1000,"status_msg":"hi","currently_active":true}`},
		hidden:   map[string]bool{carol + " " + alice: true},
		counts:   make(map[string]int),
	}
}

const (
	alice = "@alice:example.com"
	bob   = "@bob:example.com"
	carol = "@carol:example.com" // shares no room with alice
)

// answerBy sets intercept while requests may be under way.
func (hs *homeserver) answerBy(intercept func(w http.ResponseWriter, r *http.Request) (handled bool, err error)) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.intercept = intercept
}

func (hs *homeserver) count(what string) int {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return hs.counts[what]
}

func (hs *homeserver) last() *http.Request {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return hs.seen[len(hs.seen)-1]
}

func (hs *homeserver) ServeHTTP(w http.ResponseWriter, r *http.Request) error {
	route, isPresence := policy.ParsePresenceRoute(r.URL.EscapedPath())
	what := "other"
	switch {
	case isPresence:
		what = r.Method
	case strings.HasSuffix(r.URL.Path, "/account/whoami"):
		what = "whoami"
	}
	hs.mu.Lock()
	hs.counts[what]++
	hs.seen = append(hs.seen, r)
	intercept := hs.intercept
	hs.mu.Unlock()
	if intercept != nil {
		if handled, err := intercept(w, r); handled || err != nil {
			return err
		}
	}

	body, _ := io.ReadAll(r.Body)
	hs.mu.Lock()
	defer hs.mu.Unlock()
	token, isHeader := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !isHeader {
		token = r.URL.Query().Get("access_token")
	}
	user, ok := hs.tokens[token]
	if as := r.URL.Query().Get("user_id"); ok && as != "" && strings.HasPrefix(token, "as-") {
		user = as
	}
	switch {
	case token == "":
		answer(w, 401, `{"errcode":"M_MISSING_TOKEN","error":"Missing access token"}`)
	case !ok:
		answer(w, 401, `{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed.","soft_logout":false}`)
	case what == "whoami":
		answer(w, 200, fmt.Sprintf(`{"user_id":%q,"device_id":%q,"is_guest":false}`, user, hs.devices[token]))
	case what == "PUT":
		var content map[string]any
		_ = json.Unmarshal(body, &content)
		message, _ := content["status_msg"].(string)
		hs.presence[route.UserID] = fmt.Sprintf(`{"presence":%q,"status_msg":%q}`, content["presence"], message)
		answer(w, 200, `{}`)
	case isPresence && hs.hidden[user+" "+route.UserID]:
		answer(w, 403, `{"errcode":"M_FORBIDDEN","error":"You are not allowed to see their presence."}`)
	case isPresence:
		state, ok := hs.presence[route.UserID]
		if !ok {
			state = `{"presence":"offline"}`
		}
		answer(w, 200, state)
	case strings.HasSuffix(r.URL.Path, "/logout"):
		delete(hs.tokens, token)
		answer(w, 200, `{}`)
	case strings.HasSuffix(r.URL.Path, "/logout/all"):
		maps.DeleteFunc(hs.tokens, func(_, u string) bool { return u == user })
		answer(w, 200, `{}`)
	default:
		answer(w, 200, `{"other":true}`)
	}
	return nil
}

// answer writes with the header fields of Synapse.
func answer(w http.ResponseWriter, status int, body string) {
	header := w.Header()
	header.Set("Server", "Synapse/1.160.0")
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	header.Set("Access-Control-Allow-Origin", "*")
	header.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE, OPTIONS")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// proxy is a provisioned handler in front of a scripted homeserver.
type proxy struct {
	t       testing.TB
	handler *Handler
	hs      *homeserver
}

// newProxy provisions handler, with a memory of its own.
func newProxy(t testing.TB, handler *Handler) *proxy {
	t.Helper()
	p := &proxy{t: t, handler: handler, hs: newHomeserver()}
	provision(t, handler)
	return p
}

func provision(t testing.TB, handler *Handler) {
	t.Helper()
	if handler.Cache == nil {
		handler.Cache = new(Cache)
	}
	if handler.Cache.Name == "" {
		handler.Cache.Name = t.Name()
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := handler.Provision(ctx); err != nil {
		t.Fatalf("provisioning: %v", err)
	}
	t.Cleanup(func() {
		if err := handler.Cleanup(); err != nil {
			t.Errorf("cleaning up: %v", err)
		}
	})
}

// do sends a request as Caddy's server would. A handler's error becomes the
// response's status, as there.
func (p *proxy) do(r *http.Request) *http.Response {
	p.t.Helper()
	recorder := httptest.NewRecorder()
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), recorder, new(caddyhttp.Server))
	if err := p.handler.ServeHTTP(recorder, r, p.hs); err != nil {
		handlerErr, ok := err.(caddyhttp.HandlerError)
		if !ok {
			p.t.Fatalf("%s %s: an error without a status: %v", r.Method, r.URL, err)
		}
		recorder.WriteHeader(handlerErr.StatusCode)
	}
	return recorder.Result()
}

func request(method, target, token, body string) *http.Request {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if body == "" {
		r = httptest.NewRequest(method, target, nil)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}

func statusPath(userID string) string {
	return "/_matrix/client/v3/presence/" + userID + "/status"
}

func (p *proxy) get(token, userID string) *http.Response {
	p.t.Helper()
	return p.do(request("GET", statusPath(userID), token, ""))
}

func (p *proxy) put(token, userID, body string) *http.Response {
	p.t.Helper()
	return p.do(request("PUT", statusPath(userID), token, body))
}

// want fails unless the response has the status and, if they aren't empty, the
// body and a Cache-Status that begins so.
func (p *proxy) want(resp *http.Response, status int, body, cacheStatus string) {
	p.t.Helper()
	got := bodyOf(resp)
	if resp.StatusCode != status {
		p.t.Errorf("status %d, want %d (%s)", resp.StatusCode, status, got)
	}
	if body != "" && got != body {
		p.t.Errorf("body %s, want %s", got, body)
	}
	if value := resp.Header.Get("Cache-Status"); !strings.HasPrefix(value, cacheStatus) {
		p.t.Errorf("Cache-Status %q, want it to begin with %q", value, cacheStatus)
	}
}

// wantError fails unless the response is a Matrix error with what browsers need.
func (p *proxy) wantError(resp *http.Response, status int, errcode string) {
	p.t.Helper()
	body := bodyOf(resp)
	var object struct {
		Errcode, Error string
	}
	if err := json.Unmarshal([]byte(body), &object); err != nil || resp.StatusCode != status || object.Errcode != errcode || object.Error == "" {
		p.t.Errorf("got %d %s, want %d with errcode %s", resp.StatusCode, body, status, errcode)
	}
	if origin := resp.Header.Get("Access-Control-Allow-Origin"); origin != "*" {
		p.t.Errorf("%d %s: Access-Control-Allow-Origin is %q", status, errcode, origin)
	}
	if contentType := resp.Header.Get("Content-Type"); contentType != "application/json" {
		p.t.Errorf("%d %s: Content-Type is %q", status, errcode, contentType)
	}
}

func (p *proxy) wantCounts(want map[string]int) {
	p.t.Helper()
	for what, n := range want {
		if got := p.hs.count(what); got != n {
			p.t.Errorf("the homeserver got %d requests of %s, want %d", got, what, n)
		}
	}
}

// bodyOf reads the body and puts it back.
func bodyOf(resp *http.Response) string {
	body, _ := io.ReadAll(resp.Body)
	resp.Body = io.NopCloser(strings.NewReader(string(body)))
	return string(body)
}

func ptr(d time.Duration) *caddy.Duration {
	duration := caddy.Duration(d)
	return &duration
}
