package attack_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/wire"
)

// conditions are what a request may say about which answer, or which part of it, it
// wants.
var conditions = [][]string{
	{`If-None-Match: *`},
	{`If-None-Match: "x", W/"y"`},
	{`If-None-Match: ` + strings.Repeat(`"x", `, 2_000) + `"x"`},
	{`If-Match: *`},
	{`If-Match: "x"`},
	{`If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT`},
	{`If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT`},
	{`Range: bytes=0-0`},
	{`Range: bytes=-1`},
	{`Range: bytes=5-`},
	{`Range: bytes=1000000-`},
	{`Range: bytes=0-0,2-3,5-`},
	{`Range: bytes=` + strings.Repeat("0-0,", 2_000) + "1-1"},
	{`Range: bytes=9-1`},
	{`Range: bytes=18446744073709551616-`},
	{`Range: items=0-5`},
	{`Range: nonsense`},
	{`Range: bytes=0-4`, `Range: bytes=5-9`},
	{`Range: bytes=0-4`, `If-Range: "x"`},
	{`Range: bytes=0-4`, `If-Range: Fri, 01 Jan 2100 00:00:00 GMT`},
	{`Range: bytes=0-4`, `If-None-Match: *`},
	{`Accept-Encoding: gzip`, `Range: bytes=0-4`},
	{`Accept-Encoding: identity;q=0`},
	{`Accept: text/plain`},
	{`Cache-Control: no-cache, no-store, max-age=0`},
	{`Cache-Control: only-if-cached`},
	{`Pragma: no-cache`},
	{`TE: trailers, gzip`},
	{`A-IM: feed`},
	{`Want-Digest: sha-256`},
}

// TestConditionsAndRangesGetTheWholeAnswer: an answer from memory has no validator and
// no parts. Whatever a reader asks for gets all of it, or the refusal that is theirs.
func TestConditionsAndRangesGetTheWholeAnswer(t *testing.T) {
	hs := newHomeserver(t, true)
	s := newSite(t, hs, options{module: []string{"read_limit off"}})
	w := mustDial(t, s.URL)
	get := func(t *testing.T, method, target string, fields ...string) reply {
		t.Helper()
		r, err := w.Ask(wire.Request(method, presencePath(target), append(fields, viewer)...))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	// What an answer is to be, by its target.
	targets := map[string]reply{
		bob:    {Status: http.StatusOK, Body: []byte(presenceOf(statusOf(bob)))},
		hidden: {Status: http.StatusForbidden, Body: []byte(`{"errcode":"M_FORBIDDEN","error":"You are not allowed to see their presence."}`)},
	}
	expect := func(t *testing.T, got, want reply, length int) {
		t.Helper()
		if got.Status != want.Status || string(got.Body) != string(want.Body) {
			t.Errorf("%s (%s), want %s", got, got.CacheStatus(), want)
		}
		if got.Header.Get("Content-Length") != fmt.Sprint(length) || got.Header.Get("Content-Type") != "application/json" {
			t.Errorf("Content-Length %q and Content-Type %q", got.Header.Get("Content-Length"), got.Header.Get("Content-Type"))
		}
		for _, name := range []string{"Etag", "Last-Modified", "Content-Range", "Accept-Ranges", "Content-Encoding", "Multipart"} {
			if value := got.Header.Get(name); value != "" {
				t.Errorf("it has %s: %s", name, value)
			}
		}
	}
	for i, fields := range conditions {
		name := fmt.Sprint(fields)
		t.Run(name[:min(len(name), 60)], func(t *testing.T) {
			// A miss: somebody whom nobody has asked for. The condition stays here,
			// or a part would be kept as the whole.
			hs.takeSeen()
			fresh := fmt.Sprintf("@fresh%d:hs", i)
			want := reply{Status: http.StatusOK, Body: []byte(presenceOf(statusOf(fresh)))}
			expect(t, get(t, "GET", fresh, fields...), want, len(want.Body))
			for _, seen := range hs.takeSeen() {
				for _, field := range fields {
					field, _, _ = strings.Cut(field, ":")
					if strings.HasPrefix(field, "If-") || field == "Range" || field == "TE" {
						if value := seen.header.Values(field); len(value) > 0 {
							t.Errorf("the homeserver was asked with %s: %q", field, value)
						}
					}
				}
			}
			if r := get(t, "GET", fresh); !r.Hit() || string(r.Body) != string(want.Body) {
				t.Errorf("what was kept of it: %s (%s)", r, r.CacheStatus())
			}

			for target, want := range targets {
				get(t, "GET", target)
				hit := get(t, "GET", target, fields...)
				expect(t, hit, want, len(want.Body))
				if !hit.Hit() {
					t.Errorf("%s: %s, want a hit", target, hit.CacheStatus())
				}
				length := len(want.Body)
				want.Body = nil
				expect(t, get(t, "HEAD", target, fields...), want, length)
			}
		})
	}
	expectPlain(t, hs)
}
