package caddymodule

import (
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/scripted"
)

const browserApp = "https://app.example.com"

// Handlers before this one may edit the fields of an answer in place, and compress.
func TestPreflightsOfASiteThatEditsFields(t *testing.T) {
	hs := scripted.New()
	hs.AnswerPreflights(200, scripted.EchoingPreflight...)
	site := newSite(t, hs, `
		encode gzip
		header >Access-Control-Allow-Headers authorization AUTHORIZATION
		header >X-Cache {http.vars.matrix_presence.cache}
		header >X-Decision {http.vars.matrix_presence.decision}
		matrix_presence {
			preflight local
		}
		reverse_proxy UPSTREAM`)
	for i, want := range [][2]string{{"", "forwarded"}, {"hit", "answered"}, {"hit", "answered"}} {
		r := scripted.Preflight(browserApp, "PUT", "authorization")
		r.Host = "example.com:9"
		r.Header.Set("Accept-Encoding", "gzip")
		resp := ask(site, r)
		if resp.StatusCode != 200 || resp.Header.Get("X-Cache") != want[0] || resp.Header.Get("X-Decision") != want[1] {
			t.Errorf("request %d: %d %v", i, resp.StatusCode, resp.Header)
		}
		for name, want := range map[string]string{"Access-Control-Allow-Headers": "AUTHORIZATION", "Content-Length": "0", "Access-Control-Allow-Origin": browserApp} {
			if got := resp.Header[name]; !reflect.DeepEqual(got, []string{want}) {
				t.Errorf("request %d: %s %q, want %q", i, name, got, want)
			}
		}
	}
}

// Through Caddy's own reverse_proxy, which flushes what has no length, and whose handlers
// abort what breaks off.
func TestPreflightsInChunks(t *testing.T) {
	for name, tc := range map[string]struct {
		http2  bool // of the client
		body   string
		breaks bool
		hit    bool
	}{
		"empty":              {false, "", false, true},
		"empty, HTTP/2":      {true, "", false, true},
		"a body":             {false, "{}", false, false},
		"a body, HTTP/2":     {true, "{}", false, false},
		"broken off":         {false, "", true, false},
		"broken off, HTTP/2": {true, "", true, false},
	} {
		t.Run(name, func(t *testing.T) {
			hs := scripted.New()
			hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
				if r.Method != http.MethodOptions {
					return false, nil
				}
				for _, field := range scripted.TuwunelPreflight {
					name, value, _ := strings.Cut(field, ": ")
					w.Header().Set(name, value)
				}
				w.WriteHeader(200)
				if err := http.NewResponseController(w).Flush(); err != nil { // now it is in chunks
					return true, err
				}
				if tc.breaks {
					panic(http.ErrAbortHandler)
				}
				_, err := io.WriteString(w, tc.body)
				return true, err
			})
			server := httptest.NewUnstartedServer(newSite(t, hs, "encode gzip\nmatrix_presence {\npreflight local\n}\nreverse_proxy UPSTREAM"))
			server.EnableHTTP2 = tc.http2
			server.StartTLS()
			defer server.Close()
			for n := range 3 {
				r := scripted.Preflight(browserApp, "PUT", "authorization")
				r.RequestURI, r.URL.Scheme, r.URL.Host, r.Host = "", "https", server.Listener.Addr().String(), "example.com:9"
				resp, err := server.Client().Do(r)
				if err != nil {
					if !tc.breaks { // else its head may not have gone out
						t.Fatal(err)
					}
					continue
				}
				if (resp.ProtoMajor == 2) != tc.http2 {
					t.Errorf("request %d: over %s", n, resp.Proto)
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if (err != nil) != tc.breaks || string(body) != tc.body || resp.StatusCode != 200 {
					t.Errorf("request %d: %d %q, %v", n, resp.StatusCode, body, err)
				}
				if hit := strings.HasPrefix(resp.Header.Get("Cache-Status"), "matrix_presence; hit"); hit != (tc.hit && n > 0) {
					t.Errorf("request %d: Cache-Status %q", n, resp.Header.Get("Cache-Status"))
				}
			}
		})
	}
}
