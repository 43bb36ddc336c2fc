package traffic

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"slices"
	"testing"
)

func TestScriptedPeople(t *testing.T) {
	for _, u := range []User{0, 42, 99_999, Viewer(0), Viewer(999)} {
		token := Scripted{}.Token(u)
		if len(token) != 61 {
			t.Errorf("token %q has %d bytes", token, len(token))
		}
		if got, ok := UserOfToken(token); !ok || got != u {
			t.Errorf("%s is taken for %d, %v", token, got, ok)
		}
	}
	for _, token := range []string{"", "syt_0000001_", "syt_x", Scripted{}.Token(1)[1:]} {
		if u, ok := UserOfToken(token); ok {
			t.Errorf("%q is taken for the token of %d", token, u)
		}
	}
}

func TestRequestsAreWhatServersRead(t *testing.T) {
	for _, c := range []struct {
		kind         Kind
		method, path string
		sender       User
		body         string
	}{
		{Read, "GET", "/_matrix/client/v3/presence/%40user0000007%3Ahs.test/status", Viewer(1), ""},
		{Write, "PUT", "/_matrix/client/v3/presence/%40user0000007%3Ahs.test/status", 7, `{"presence":"online","status_msg":"x"}`},
		{Foreign, "PUT", "/_matrix/client/v3/presence/%40user0000007%3Ahs.test/status", Viewer(1), `{"presence":"online","status_msg":"x"}`},
		{Other, "GET", "/_matrix/client/v3/profile/%40user0000007%3Ahs.test/displayname", Viewer(1), ""},
	} {
		text := Request{Kind: c.kind, Viewer: Viewer(1), Target: 7}.Text(Scripted{}, "x")
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(text)))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		if r.Method != c.method || r.URL.EscapedPath() != c.path || string(body) != c.body ||
			r.Header.Get("Authorization") != "Bearer "+(Scripted{}.Token(c.sender)) {
			t.Errorf("kind %d gives %q", c.kind, text)
		}
	}
}

func TestDrawing(t *testing.T) {
	w := Workload{Targets: 1000, Viewers: 100, Writes: 0.01}
	if !slices.Equal(w.Draw(1000, 1), w.Draw(1000, 1)) {
		t.Error("the same seed gives other requests")
	}
	if slices.Equal(w.Draw(1000, 1), w.Draw(1000, 2)) {
		t.Error("another seed gives the same requests")
	}
	const n = 100_000
	share := func(w Workload, is func(Request) bool) float64 {
		count := 0
		for _, r := range w.Draw(n, 1) {
			if r.Target < 0 || int(r.Target) >= w.Targets || r.Viewer < Viewer(0) || r.Viewer >= Viewer(w.Viewers) {
				t.Fatalf("out of range: %+v", r)
			}
			if is(r) {
				count++
			}
		}
		return float64(count) / n
	}
	between := func(what string, got, low, high float64) {
		if got < low || got > high {
			t.Errorf("%s: %.4f, not in %v–%v", what, got, low, high)
		}
	}
	first := func(r Request) bool { return r.Target == 0 }
	between("writes", share(w, func(r Request) bool { return r.Kind == Write }), 0.008, 0.012)
	between("target 0, uniform", share(w, first), 0.0005, 0.0015)
	w.Zipf = true
	// 1/H, H the sum of (1+k)^-1.1 for k below 1,000: 5.57.
	between("target 0, Zipf", share(w, first), 0.17, 0.19)
}

func TestEachAsksForAllPairsOnce(t *testing.T) {
	w := Workload{Targets: 20, Viewers: 30}
	seen := make(map[Request]int)
	for _, r := range w.Each(1) {
		seen[r]++
	}
	if len(seen) != 600 {
		t.Errorf("%d pairs", len(seen))
	}
	for r, n := range seen {
		if n != 1 {
			t.Errorf("%+v is asked %d times", r, n)
		}
	}
}
