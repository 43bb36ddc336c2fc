package caddymodule

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/scripted"
)

// These tests go through Caddy's own server and reverse_proxy, to a homeserver on
// loopback: what the scripted next handler of the others can't show.

// newSite returns a Caddy server for the given directives, with UPSTREAM standing
// for the address of hs.
func newSite(t *testing.T, hs *scripted.Homeserver, directives string) http.Handler {
	t.Helper()
	return newSiteWith(t, hs, "", directives)
}

// newSiteWith is newSite with global options.
func newSiteWith(t *testing.T, hs *scripted.Homeserver, global, directives string) http.Handler {
	t.Helper()
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := hs.ServeHTTP(w, r); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(upstream.Close)
	directives = strings.ReplaceAll(directives, "UPSTREAM", strings.TrimPrefix(upstream.URL, "http://"))

	config := "{\nadmin off\npersist_config off\n" + global + "\n}\nhttp://example.com:9 {\n" + directives + "\n}\n"
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
	if err != nil {
		t.Fatal(err)
	}
	var parsed caddy.Config
	if err := caddy.StrictUnmarshalJSON(adapted, &parsed); err != nil {
		t.Fatal(err)
	}
	ctx, err := caddy.ProvisionContext(&parsed)
	if err != nil {
		t.Fatal(err)
	}
	app, err := ctx.App("http")
	if err != nil {
		t.Fatal(err)
	}
	server := app.(*caddyhttp.App).Servers["srv0"]
	t.Cleanup(func() {
		for i := range server.Routes {
			cleanupHandlers(t, server.Routes[i].Handlers)
		}
	})
	return server
}

func ask(site http.Handler, r *http.Request) *http.Response {
	recorder := httptest.NewRecorder()
	site.ServeHTTP(recorder, r)
	return recorder.Result()
}

// A sub-request with the client's own context would leave the main request with
// its routes done: an empty 200. And an edit in place must not reach what is kept.
func TestSiteWithHandleBlocksAndHeaderEdits(t *testing.T) {
	hs := scripted.New()
	site := newSite(t, hs, `
		header >Content-Type json JSON
		header >Access-Control-Allow-Methods GET get
		vars upstream UPSTREAM
		handle /_matrix/* {
			reverse_proxy {vars.upstream}
		}
		handle {
			respond 404
		}
		matrix_presence`)
	for i, cacheStatus := range []string{"matrix_presence; fwd=miss; stored", "matrix_presence; hit", "matrix_presence; hit"} {
		resp := ask(site, request("GET", "http://example.com:9"+statusPath(alice), "bob-token", ""))
		body := bodyOf(resp)
		if resp.StatusCode != 200 || !strings.HasPrefix(body, `{"presence":"online"`) {
			t.Errorf("request %d: %d %s", i, resp.StatusCode, body)
		}
		if got := resp.Header.Get("Cache-Status"); !strings.HasPrefix(got, cacheStatus) {
			t.Errorf("request %d: Cache-Status %q", i, got)
		}
		if got := resp.Header.Get("Content-Type"); got != "application/JSON" {
			t.Errorf("request %d: Content-Type %q", i, got)
		}
		if got := resp.Header["Cache-Control"]; len(got) != 1 {
			t.Errorf("request %d: Cache-Control %q", i, got)
		}
	}
}

// The homeserver compresses, and so does the site. Each client gets what it asked
// for, whoever was first.
func TestClientsThatSpeakGzipAndThoseThatDoNot(t *testing.T) {
	hs := scripted.New()
	long := `{"presence":"online","status_msg":"` + strings.Repeat("long ", 200) + `"}`
	hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if !strings.HasSuffix(r.URL.Path, "/status") || !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			return false, nil
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Encoding", "gzip") // Synapse sends no Vary with it
		zip := gzip.NewWriter(w)
		_, _ = io.WriteString(zip, long)
		return true, zip.Close()
	}
	hs.Presence[alice] = long
	site := newSite(t, hs, "encode gzip\nmatrix_presence\nreverse_proxy UPSTREAM")
	for i, encoding := range []string{"gzip", "", "gzip", ""} {
		r := request("GET", "http://example.com:9"+statusPath(alice), "bob-token", "")
		if encoding != "" {
			r.Header.Set("Accept-Encoding", encoding)
		}
		resp := ask(site, r)
		if got := resp.Header.Get("Content-Encoding"); got != encoding {
			t.Fatalf("request %d: Content-Encoding %q, want %q", i, got, encoding)
		}
		body := resp.Body.(io.Reader)
		if encoding == "gzip" {
			var err error
			if body, err = gzip.NewReader(resp.Body); err != nil {
				t.Fatal(err)
			}
		}
		if got, _ := io.ReadAll(body); string(got) != long {
			t.Errorf("request %d: body %.60s", i, got)
		}
		if hit := strings.HasPrefix(resp.Header.Get("Cache-Status"), "matrix_presence; hit"); hit != (i > 0) {
			t.Errorf("request %d: Cache-Status %q", i, resp.Header.Get("Cache-Status"))
		}
	}
}

// What handlers before us have set for reverse_proxy counts for our requests too.
func TestUpstreamChosenByMapAndRequestHeader(t *testing.T) {
	hs := scripted.New()
	site := newSite(t, hs, `
		map {host} {backend} {
			default UPSTREAM
		}
		request_header X-Tenant one
		matrix_presence
		reverse_proxy {backend}`)
	if resp := ask(site, request("PUT", "http://example.com:9"+statusPath(alice), "alice-token", `{"presence":"online"}`)); resp.StatusCode != 200 {
		t.Errorf("write: %d %s", resp.StatusCode, bodyOf(resp))
	}
	resp := ask(site, request("GET", "http://example.com:9"+statusPath(bob), "bob-token", ""))
	if got := resp.Header.Get("Cache-Status"); got != "matrix_presence; fwd=miss; stored" {
		t.Errorf("read: %d, Cache-Status %q", resp.StatusCode, got)
	}
	for _, r := range hs.Seen {
		if r.Header.Get("X-Tenant") != "one" {
			t.Errorf("%s went without the header", r.URL)
		}
	}
}

// The example's hint for workers, uncommented, has to send every spelling of a
// presence route to the writer, and nothing else.
func TestExampleRoutesPresenceToItsWriter(t *testing.T) {
	example, err := os.ReadFile("../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	hint := ""
	for line := range strings.Lines(string(example)) {
		if line = strings.TrimSpace(line); strings.Contains(line, "@presence") {
			hint += strings.TrimPrefix(line, "# ") + "\n"
		}
	}
	writer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Writer", "yes") }))
	defer writer.Close()
	site := newSite(t, scripted.New(), strings.ReplaceAll(hint, "localhost:8083", strings.TrimPrefix(writer.URL, "http://"))+"reverse_proxy UPSTREAM")
	for path, want := range map[string]string{
		statusPath(alice): "yes",
		"/_matrix/client/r0/presence/%40alice%3Aexample.com/status":       "yes",
		"/_matrix/client/unstable/presence/@alice%2Fx:example.com/status": "yes",
		"/_matrix/client/api/v1/presence/@alice:example.com/statusfoo":    "yes",
		"/_matrix/client/v3/sync":                                         "",
	} {
		resp := ask(site, request("GET", "http://example.com:9"+path, "bob-token", ""))
		if got := resp.Header.Get("Writer"); got != want {
			t.Errorf("%s: to the writer: %q, want %q (%d)", path, got, want, resp.StatusCode)
		}
	}
}

func TestAnswersThatBreakOff(t *testing.T) {
	hs := scripted.New()
	site := newSite(t, hs, "matrix_presence\nreverse_proxy UPSTREAM")
	hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if strings.HasSuffix(r.URL.Path, "/status") {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"presence":"online"}`)
			return true, nil
		}
		return false, nil
	}
	for range 2 {
		resp := ask(site, request("GET", "http://example.com:9"+statusPath(alice), "bob-token", ""))
		if resp.StatusCode != http.StatusBadGateway {
			t.Errorf("got %d, want 502", resp.StatusCode)
		}
		// Those of the answer that broke off made the error break off as well.
		if got := resp.Header.Get("Content-Length"); got != "" && got != "0" {
			t.Errorf("the error has Content-Length %q", got)
		}
	}
	hs.Mu.Lock()
	hs.Intercept = nil
	hs.Mu.Unlock()
	if resp := ask(site, request("GET", "http://example.com:9"+statusPath(alice), "bob-token", "")); resp.StatusCode != 200 {
		t.Errorf("afterwards: %d", resp.StatusCode)
	}
}

func TestVariablesAreThereForAccessLogs(t *testing.T) {
	hs := scripted.New()
	site := newSite(t, hs, `
		header >X-Cache {http.vars.matrix_presence.cache}
		header >X-Decision {http.vars.matrix_presence.decision}
		matrix_presence {
			read_limit 3/1h
		}
		reverse_proxy UPSTREAM`)
	for _, tc := range []struct{ method, token, body, cache, decision string }{
		{"GET", "bob-token", "", "miss", "forwarded"},
		{"GET", "bob-token", "", "hit", "answered"},
		{"GET", "", "", "", "rejected"},
		{"PUT", "bob-token", "{}", "", "refused"},
		{"PUT", "alice-token", "{}", "", "invalid"},
		{"PUT", "alice-token", `{"presence":"online"}`, "", "forwarded"},
		{"GET", "bob-token", "", "miss", "forwarded"},
		{"GET", "bob-token", "", "", "limited"},
	} {
		resp := ask(site, request(tc.method, "http://example.com:9"+statusPath(alice), tc.token, tc.body))
		if got, got2 := resp.Header.Get("X-Cache"), resp.Header.Get("X-Decision"); got != tc.cache || got2 != tc.decision {
			t.Errorf("%s by %q: %q and %q, want %q and %q", tc.method, tc.token, got, got2, tc.cache, tc.decision)
		}
	}
}

// For the race detector: everything at once, with clients that go away.
func TestManyClientsAtOnce(t *testing.T) {
	hs := scripted.New()
	hs.Hidden = map[string]bool{}
	site := newSite(t, hs, `
		encode gzip
		header >Content-Type json JSON
		matrix_presence {
			write_limit off
			cache {
				states 2
				permissions 4
				settle 1ms
				stale_if_error 1m
			}
			identity {
				tokens 2
			}
		}
		reverse_proxy UPSTREAM`)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			user := []string{"alice", "bob", "carol"}[i%3]
			for j := range 40 {
				target := []string{alice, bob, carol, fmt.Sprintf("@x%d:example.com", j)}[(i+j)%4]
				r := request("GET", "http://example.com:9"+statusPath(target), user+"-token", "")
				if j%8 == 0 {
					r = request("PUT", "http://example.com:9"+statusPath("@"+user+":example.com"), user+"-token", `{"presence":"online"}`)
				}
				if resp := ask(site, r); resp.StatusCode != 200 {
					t.Errorf("%s %s: %d %s", r.Method, r.URL, resp.StatusCode, bodyOf(resp))
				}
			}
		})
	}
	wg.Wait()
}

// What a homeserver sends of a sync before it is over reaches the client then.
func TestSyncIsStreamed(t *testing.T) {
	hs := scripted.New()
	release := make(chan struct{})
	hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if !strings.HasSuffix(r.URL.Path, "/sync") {
			return false, nil
		}
		_, _ = io.WriteString(w, "first")
		if err := http.NewResponseController(w).Flush(); err != nil {
			return true, err
		}
		<-release
		_, _ = io.WriteString(w, ", second")
		return true, nil
	}
	site := httptest.NewServer(newSite(t, hs, "matrix_presence {\n sync_presence limit\n homeserver dendrite\n }\nreverse_proxy UPSTREAM {\n flush_interval -1\n }"))
	defer site.Close()
	defer func() {
		if t.Failed() {
			close(release)
		}
	}()
	for range 2 { // a change, and a repeat, which is taken out
		r := request("GET", site.URL+"/_matrix/client/v3/sync"+"?since=s", "alice-token", "")
		r.RequestURI, r.Host = "", "example.com:9"
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		first := make([]byte, len("first"))
		if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "first" {
			t.Fatalf("first %q, %v", first, err)
		}
		release <- struct{}{}
		if rest := bodyOf(resp); rest != ", second" {
			t.Errorf("then %q", rest)
		}
	}
}
