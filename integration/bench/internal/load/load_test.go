package load

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/traffic"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/protocol"
)

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

// Clients that share a connection get each answer once.
func TestGeneratorSpeaksEachProtocol(t *testing.T) {
	dir := t.TempDir()
	cert, key, err := protocol.WriteCertificate(dir)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	var seen atomic.Int64
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Add(int64(r.ProtoMajor))
		if r.Method == http.MethodPut {
			w.WriteHeader(http.StatusForbidden)
		}
		io.WriteString(w, "{}")
	})
	file := requests(t, slices.Repeat([]traffic.Kind{traffic.Read, traffic.Foreign}, 50)...)
	for _, p := range []protocol.Protocol{protocol.HTTP2, protocol.H2C, protocol.HTTP3} {
		t.Run(string(p), func(t *testing.T) {
			seen.Store(0)
			var addr string
			if p == protocol.HTTP3 {
				conn, err := net.ListenPacket("udp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				server := &http3.Server{Handler: handler, TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{pair}})}
				done := make(chan error)
				go func() { done <- server.Serve(conn) }()
				t.Cleanup(func() { server.Close(); <-done; conn.Close() })
				addr = conn.LocalAddr().String()
			} else {
				server := httptest.NewUnstartedServer(handler)
				server.Config.Protocols = new(http.Protocols)
				server.Config.Protocols.SetHTTP2(true)
				server.Config.Protocols.SetUnencryptedHTTP2(true)
				server.TLS, server.EnableHTTP2 = &tls.Config{Certificates: []tls.Certificate{pair}}, true
				if p == protocol.HTTP2 {
					server.StartTLS()
				} else {
					server.Start()
				}
				t.Cleanup(server.Close)
				addr = server.Listener.Addr().String()
			}
			got, err := Generate(t.Context(), Options{Address: addr, Protocol: p, Certificate: cert, File: file, Connections: 20})
			if err != nil || got.Requests != 100 || got.Refused != 50 || got.Failed != 0 || seen.Load() != int64(100*p.Major()) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func TestGeneratorKeepsThePace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &generator{
			options:  Options{Duration: 300 * time.Millisecond, PerSecond: 100},
			requests: [][]byte{[]byte("one")}, start: time.Now(),
		}
		var begun [30]atomic.Int32 // in each of so many hundredths of a second
		var clients sync.WaitGroup
		for range 4 {
			clients.Go(func() {
				for g.take() != nil {
					begun[time.Since(g.start)/(10*time.Millisecond)].Add(1)
				}
			})
		}
		clients.Wait()
		for i := range begun {
			if n := begun[i].Load(); n != 1 {
				t.Errorf("%d requests in the hundredth of a second %d, want one", n, i)
			}
		}
	})
}
