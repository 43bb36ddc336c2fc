package integration_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/protocol"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

// What no real homeserver does on demand is asked of a scripted one, over each protocol.

// peculiar is a homeserver of one user, whose paths end with what they do.
type peculiar struct {
	URL string

	// release lets one answer of /held go on.
	release chan struct{}

	mu   sync.Mutex // guards seen
	seen []string   // what came, "GET /path?query body"
}

const (
	peculiarUser  = "@alice:hs.test"
	peculiarRead  = "/_matrix/client/v3/presence/@alice:hs.test/status"
	peculiarSync  = "/_matrix/client/v3/sync"
	peculiarToken = "secret"
)

func newPeculiar(t *testing.T) *peculiar {
	hs := &peculiar{release: make(chan struct{})}
	server := httptest.NewServer(hs)
	t.Cleanup(server.Close)
	hs.URL = server.URL
	return hs
}

func (hs *peculiar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "websocket" && strings.HasSuffix(r.URL.Path, "/socket") {
		echo(w)
		return
	}
	body, _ := io.ReadAll(r.Body)
	hs.mu.Lock()
	hs.seen = append(hs.seen, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+string(body)))
	hs.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch {
	case strings.HasSuffix(r.URL.Path, "/account/whoami"):
		if r.Header.Get("Authorization") != "Bearer "+peculiarToken {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"errcode":"M_UNKNOWN_TOKEN","error":"unknown"}`)
			return
		}
		_, _ = fmt.Fprintf(w, `{"user_id":%q}`, peculiarUser)
	case r.URL.Path == peculiarRead && r.Method == http.MethodPut:
		_, _ = io.WriteString(w, `{}`)
	case r.URL.Path == peculiarRead:
		_, _ = io.WriteString(w, `{"presence":"online"}`)
	case strings.HasSuffix(r.URL.Path, "/held"):
		_, _ = io.WriteString(w, "first")
		_ = http.NewResponseController(w).Flush()
		<-hs.release
		_, _ = io.WriteString(w, ", second")
	case strings.HasSuffix(r.URL.Path, "/trailers"):
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.WriteString(w, "body and "+r.Trailer.Get("X-Asked"))
		w.Header().Set("X-Sum", "7")
	case strings.HasSuffix(r.URL.Path, "/hints"):
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.WriteString(w, `{}`)
	default:
		_, _ = io.WriteString(w, `{}`)
	}
}

// echo goes on with another protocol, and says what it is told.
func echo(w http.ResponseWriter) {
	conn, both, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	_, _ = io.Copy(conn, both)
}

// since returns what came after a call of this.
func (hs *peculiar) since() func() []string {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	n := len(hs.seen)
	return func() []string {
		hs.mu.Lock()
		defer hs.mu.Unlock()
		return hs.seen[n:]
	}
}

// overEachProtocol runs a test on a site in front of a peculiar homeserver.
func overEachProtocol(t *testing.T, options string, test func(*testing.T, *peculiar, *sidecar.Sidecar, protocol.Protocol)) {
	for _, p := range protocol.All {
		t.Run(string(p), func(t *testing.T) {
			hs := newPeculiar(t)
			test(t, hs, siteOver(t, p, hs.URL, options), p)
		})
	}
}

// send sends a request with a token and perhaps a body whose length the client doesn't
// say.
func send(t *testing.T, ctx context.Context, method, url string, body io.Reader) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	if body != nil {
		r.Body, r.ContentLength = io.NopCloser(io.MultiReader(body)), -1
	}
	r.Header.Set("Authorization", "Bearer "+peculiarToken)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func textOf(t *testing.T, resp *http.Response) string {
	t.Helper()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestBodiesOfUnknownLength: a read without a body is answered from memory, however the
// protocol or the client says that there is none; over HTTP/2, one that announces a body
// and sends an empty one. One with a body goes to the homeserver with it.
func TestBodiesOfUnknownLength(t *testing.T) {
	overEachProtocol(t, "write_limit off", func(t *testing.T, hs *peculiar, s *sidecar.Sidecar, p protocol.Protocol) {
		seen := hs.since()
		for i, body := range []io.Reader{nil, nil, strings.NewReader(""), nil} {
			resp := send(t, t.Context(), http.MethodGet, s.URL+peculiarRead, body)
			text := textOf(t, resp)
			if hit := strings.Contains(resp.Header.Get("Cache-Status"), "; hit"); hit != (i > 0) || text[:20] != `{"presence":"online"` {
				t.Errorf("read %d: %s, Cache-Status %q", i, text, resp.Header.Get("Cache-Status"))
			}
		}
		for range 2 {
			resp := send(t, t.Context(), http.MethodGet, s.URL+peculiarRead, strings.NewReader("a body"))
			if got := resp.Header.Get("Cache-Status"); got != "matrix_presence; fwd=bypass; detail=request" {
				t.Errorf("with a body: Cache-Status %q", got)
			}
		}
		// A write of unknown length is judged and sent as any.
		if resp := send(t, t.Context(), http.MethodPut, s.URL+peculiarRead, strings.NewReader(online)); resp.StatusCode != http.StatusOK {
			t.Errorf("a write: %s", resp.Status)
		}
		if resp := send(t, t.Context(), http.MethodPut, s.URL+peculiarRead, strings.NewReader("")); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("an empty write: %s", resp.Status)
		}
		want := []string{
			"GET /_matrix/client/v3/account/whoami", "GET " + peculiarRead,
			"GET " + peculiarRead + " a body", "GET " + peculiarRead + " a body", "PUT " + peculiarRead + " " + online,
		}
		if got := seen(); strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("the homeserver got %q, want %q", got, want)
		}
	})
}

// TestChunksOfHTTP1: a tunnel or a mesh sends a GET in chunks that aren't there. A client
// that asks whether to go on with a body is not told so by us before the homeserver is.
func TestChunksOfHTTP1(t *testing.T) {
	hs := newPeculiar(t)
	s := siteOver(t, protocol.HTTP1, hs.URL, "write_limit off", "preflight local")
	head := "GET " + peculiarRead + " HTTP/1.1\r\nHost: " + strings.TrimPrefix(s.URL, "http://") + "\r\nAuthorization: Bearer " + peculiarToken + "\r\nTransfer-Encoding: chunked\r\n"
	for _, tc := range []struct{ name, request, want string }{
		{"the first", head + "\r\n0\r\n\r\n", "matrix_presence; fwd=miss; stored"},
		{"empty", head + "\r\n0\r\n\r\n", "matrix_presence; hit"},
		{"empty, with a trailer", head + "Trailer: X-Sum\r\n\r\n0\r\nX-Sum: 7\r\n\r\n", "matrix_presence; hit"},
		{"not empty", head + "\r\n1\r\nx\r\n0\r\n\r\n", "matrix_presence; fwd=bypass; detail=request"},
		{"of length 0", strings.Replace(head, "Transfer-Encoding: chunked", "Content-Length: 0", 1) + "\r\n", "matrix_presence; hit"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			resp := raw(t, s, tc.request)
			if got := resp.Header.Get("Cache-Status"); resp.StatusCode != 200 || !strings.HasPrefix(got, tc.want) {
				t.Errorf("%s, Cache-Status %q, want %s", resp.Status, got, tc.want)
			}
		})
	}

	// Nothing has been sent yet after this head. Who asks whether to go on has a body, and is told
	// to go on by who reads it: that is the homeserver.
	resp := raw(t, s, head+"Expect: 100-continue\r\n\r\n")
	if resp.StatusCode != http.StatusContinue {
		t.Errorf("to a body that is to come: %s", resp.Status)
	}
}

// raw sends the bytes of a request and returns the answer.
func raw(t *testing.T, s *sidecar.Sidecar, request string) *http.Response {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// TestSlowBodyHoldsItselfOnly: while a client keeps its body back, everybody else is
// answered, and it is answered itself as soon as it is done.
func TestSlowBodyHoldsItselfOnly(t *testing.T) {
	overEachProtocol(t, "write_limit off", func(t *testing.T, hs *peculiar, s *sidecar.Sidecar, p protocol.Protocol) {
		send(t, t.Context(), http.MethodGet, s.URL+peculiarRead, nil)
		reader, writer := io.Pipe()
		slow := make(chan string)
		go func() {
			r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+peculiarRead, reader)
			r.Header.Set("Authorization", "Bearer "+peculiarToken)
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				slow <- err.Error()
				return
			}
			resp.Body.Close()
			slow <- resp.Header.Get("Cache-Status")
		}()
		for range 20 {
			resp := send(t, t.Context(), http.MethodGet, s.URL+peculiarRead, nil)
			if got := resp.Header.Get("Cache-Status"); !strings.Contains(got, "; hit") {
				t.Errorf("meanwhile: Cache-Status %q", got)
			}
		}
		writer.Close()
		if got := <-slow; !strings.Contains(got, "; hit") {
			t.Errorf("the slow one: %q", got)
		}
	})
}

// TestLongPollPassesAsItComes: the part that the homeserver sends first is there before
// it sends the rest, of a sync that was looked at and of what we have no part in.
func TestLongPollPassesAsItComes(t *testing.T) {
	overEachProtocol(t, "sync_presence limit\n\t\thomeserver synapse", func(t *testing.T, hs *peculiar, s *sidecar.Sidecar, p protocol.Protocol) {
		for _, path := range []string{"/_matrix/client/v3/held", "/_matrix/client/v3/presence/@alice:hs.test/held"} {
			resp := send(t, t.Context(), http.MethodGet, s.URL+path, nil)
			first := make([]byte, len("first"))
			if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "first" {
				t.Fatalf("%q, %v", first, err)
			}
			hs.release <- struct{}{}
			if rest := textOf(t, resp); rest != ", second" {
				t.Errorf("then %q", rest)
			}
		}
	})
}

// TestTrailersAndHintsPass: both sides' trailers and 103 Early Hints.
func TestTrailersAndHintsPass(t *testing.T) {
	overEachProtocol(t, "sync_presence limit\n\t\thomeserver synapse", func(t *testing.T, hs *peculiar, s *sidecar.Sidecar, p protocol.Protocol) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/_matrix/client/v3/trailers", io.MultiReader(strings.NewReader("x")))
		if err != nil {
			t.Fatal(err)
		}
		r.Trailer = http.Header{"X-Asked": {"asked"}}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		asked := "asked"
		if p == protocol.HTTP3 {
			asked = "" // quic-go tells Caddy of them when it has made a copy of the request
		}
		if text := textOf(t, resp); text != "body and "+asked || resp.Trailer.Get("X-Sum") != "7" {
			t.Errorf("%q, with the trailers %v", text, resp.Trailer)
		}

		hints := ""
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
				hints += fmt.Sprint(code, " ", header.Get("Link"))
				return nil
			},
		})
		for _, path := range []string{"/_matrix/client/v3/hints", "/_matrix/client/v3/presence/@alice:hs.test/hints"} {
			hints = ""
			if resp := send(t, ctx, http.MethodGet, s.URL+path, nil); resp.StatusCode != 200 || hints != "103 </style.css>; rel=preload" {
				t.Errorf("%s: %s after %q", path, resp.Status, hints)
			}
		}
	})
}

// TestWebSockets: one elsewhere passes, to both sides. One at a presence or a sync is
// judged as the GET that the homeserver gets, whatever the protocol makes of it.
func TestWebSockets(t *testing.T) {
	overEachProtocol(t, "sync_presence limit\n\t\thomeserver synapse\n\t\tread_limit 2/1h", func(t *testing.T, hs *peculiar, s *sidecar.Sidecar, p protocol.Protocol) {
		open := func(path, token string) *protocol.WebSocket {
			t.Helper()
			header := make(http.Header)
			if token != "" {
				header.Set("Authorization", "Bearer "+token)
			}
			socket, err := protocol.OpenWebSocket(t.Context(), s.URL+path, header)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { socket.Close() })
			return socket
		}
		socket := open("/_matrix/client/v3/socket", "")
		if !socket.Agreed() {
			t.Fatalf("a WebSocket: %s", socket.Response.Status)
		}
		for _, word := range []string{"hello", "again"} {
			if _, err := io.WriteString(socket, word); err != nil {
				t.Fatal(err)
			}
			said := make([]byte, len(word))
			if _, err := io.ReadFull(socket, said); err != nil || string(said) != word {
				t.Errorf("it said %q, %v", said, err)
			}
		}

		seen := hs.since()
		for i, tc := range []struct {
			path, token string
			status      int
			cacheStatus string
		}{
			{peculiarRead, "", 401, ""},
			{peculiarRead, "unknown", 401, ""},
			{peculiarRead, peculiarToken, 200, "matrix_presence; fwd=bypass; detail=request"},
			{peculiarRead, peculiarToken, 200, "matrix_presence; fwd=bypass; detail=request"},
			{peculiarRead, peculiarToken, 429, ""},
			{peculiarSync + "?since=s&timeout=0", peculiarToken, 200, ""},
			{peculiarSync + "?since=s&timeout=0", peculiarToken, 200, ""},
		} {
			resp := open(tc.path, tc.token).Response
			if got := resp.Header.Get("Cache-Status"); resp.StatusCode != tc.status || got != tc.cacheStatus {
				t.Errorf("%d: %s by %q: %s, Cache-Status %q", i, tc.path, tc.token, resp.Status, got)
			}
		}
		want := []string{
			"GET /_matrix/client/v3/account/whoami", // of the unknown token
			"GET /_matrix/client/v3/account/whoami",
			"GET " + peculiarRead, "GET " + peculiarRead,
			"GET " + peculiarSync + "?since=s&timeout=0", "GET " + peculiarSync + "?since=s&timeout=0&set_presence=offline",
		}
		if got := seen(); strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("the homeserver got %q, want %q", got, want)
		}
	})
}

// TestConnectCarriesNoRequests: over HTTP/2 and HTTP/3 a CONNECT may be for any protocol. After
// one that reverse_proxy doesn't know, it sends what the client says as it is, and to the
// homeserver that is the next request: a write past every limit.
func TestConnectCarriesNoRequests(t *testing.T) {
	overEachProtocol(t, "write_limit 1/1h", func(t *testing.T, hs *peculiar, s *sidecar.Sidecar, p protocol.Protocol) {
		if p == protocol.HTTP1 {
			t.Skip("HTTP/1.1 has no extended CONNECT")
		}
		seen := hs.since()
		smuggled := []byte("PUT " + peculiarRead + " HTTP/1.1\r\nHost: hs\r\nContent-Length: 2\r\n\r\n{}")
		r, err := http.NewRequestWithContext(t.Context(), http.MethodConnect, s.URL+"/_matrix/client/versions", io.NopCloser(io.MultiReader(bytes.NewReader(smuggled))))
		if err != nil {
			t.Fatal(err)
		}
		if r.Proto = "other"; p != protocol.HTTP3 {
			r.Header[":protocol"] = []string{"other"}
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("got %s", resp.Status)
		}
		// The answer to this one comes after all that was sent before.
		send(t, t.Context(), http.MethodGet, s.URL+"/_matrix/client/versions", nil)
		if got := seen(); len(got) != 1 {
			t.Errorf("the homeserver got %q", got)
		}
	})
}
