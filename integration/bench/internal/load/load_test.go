package load

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/traffic"
)

func TestWrkOutput(t *testing.T) {
	const chatter = "Running 1s test @ http://127.0.0.1:1\n  1 threads and 64 connections\nRequests/sec: 5\n"
	const good = "result requests=5000 us=1001000 bytes=900000 status=7 failed=2 p50=80.0 p99=950.5 p999=1200.0\n"
	got, err := parseWrk(chatter + good)
	want := Result{Requests: 5000, Seconds: 1.001, Bytes: 900000, Refused: 7, Failed: 2, P50: 80, P99: 950.5, P999: 1200}
	if err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if rate := got.Rate(); rate < 4994 || rate > 4996 {
		t.Errorf("rate %v", rate)
	}
	for name, text := range map[string]string{
		"nothing":          "",
		"no result":        chatter,
		"a field missing":  strings.Replace(good, "p99=", "p98=", 1),
		"a value not read": strings.Replace(good, "5000", "many", 1),
	} {
		if got, err := parseWrk(text); err == nil {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

func TestRequestFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "requests")
	want := [][]byte{[]byte("one\r\n\r\n"), []byte("12\nthree"), []byte("")}
	if err := WriteFile(path, want); err != nil {
		t.Fatal(err)
	}
	got, err := readFile(path)
	if err != nil || len(got) != len(want) {
		t.Fatalf("got %q, %v", got, err)
	}
	for i := range want {
		if string(got[i]) != string(want[i]) {
			t.Errorf("%d: got %q, want %q", i, got[i], want[i])
		}
	}
	for _, text := range []string{"", "x", "6\nshort", "3\nfiv-"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readFile(path); err == nil {
			t.Errorf("%q gives %q", text, got)
		}
	}
}

// asked is a server that remembers what it was asked, in which order.
func asked(t *testing.T) (addr string, paths func() []string) {
	var mu sync.Mutex
	var list []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		list = append(list, r.URL.Path)
		mu.Unlock()
		if r.Method == http.MethodPut {
			w.WriteHeader(http.StatusForbidden)
		}
		io.WriteString(w, "{}")
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String(), func() []string {
		mu.Lock()
		defer mu.Unlock()
		return list
	}
}

func requests(t *testing.T, kinds ...traffic.Kind) (path string) {
	path = filepath.Join(t.TempDir(), "requests")
	var texts [][]byte
	for i, kind := range kinds {
		texts = append(texts, traffic.Request{Kind: kind, Target: traffic.User(i), Viewer: traffic.Viewer(0)}.Text(traffic.Scripted{}, "x"))
	}
	if err := WriteFile(path, texts); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestGeneratorSendsEachOnce(t *testing.T) {
	addr, paths := asked(t)
	file := requests(t, traffic.Read, traffic.Read, traffic.Foreign)
	got, err := Generate(t.Context(), Options{Address: addr, File: file, Connections: 2})
	if err != nil || got.Requests != 3 || got.Refused != 1 || got.Failed != 0 || len(paths()) != 3 {
		t.Errorf("got %+v, %v, and the server saw %q", got, err, paths())
	}
}

func TestGeneratorKeepsThePace(t *testing.T) {
	addr, _ := asked(t)
	got, err := Generate(t.Context(), Options{
		Address: addr, File: requests(t, traffic.Read), Connections: 4, Duration: 300 * time.Millisecond, PerSecond: 100,
	})
	if err != nil || got.Requests < 15 || got.Requests > 31 {
		t.Errorf("got %+v, %v; want about 30 requests", got, err)
	}
}

func TestWrkPlaysTheFile(t *testing.T) {
	program, err := exec.LookPath("wrk")
	if err != nil {
		t.Skip(err)
	}
	addr, _ := asked(t)
	file := requests(t, traffic.Read, traffic.Foreign, traffic.Other)
	got, err := wrk(t.Context(), program, Options{Address: addr, File: file, Offset: 1, Connections: 1, Duration: time.Second})
	if err != nil || got.Requests < 10 || got.Failed != 0 {
		t.Fatalf("got %+v, %v", got, err)
	}
	if refused := float64(got.Refused) / float64(got.Requests); refused < 0.3 || refused > 0.36 {
		t.Errorf("a third is refused, not %.2f", refused)
	}
}
