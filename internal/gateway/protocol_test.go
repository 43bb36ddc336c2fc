package gateway

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/scripted"
)

// overHTTP3 returns a request as quic-go's server hands it over: without Content-Length, its
// length isn't known, whether or not there is a body.
func overHTTP3(r *http.Request, body io.Reader) *http.Request {
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/3.0", 3, 0
	return withBody(r, body)
}

func withBody(r *http.Request, body io.Reader) *http.Request {
	r.Body, r.ContentLength = io.NopCloser(body), -1
	return r
}

// webSocket returns a WebSocket over HTTP/2 or HTTP/3, as the servers hand it over. Its body
// is what the client says on it, which doesn't end.
func webSocket(major int, target, token string) *http.Request {
	return extendedConnect(major, "websocket", target, token)
}

func extendedConnect(major int, protocol, target, token string) *http.Request {
	r := request("GET", target, token, "")
	r.Method, r.ProtoMajor, r.ProtoMinor = "CONNECT", major, 0
	r.Proto = protocol
	if major == 2 {
		r.Proto = "HTTP/2.0"
		r.Header[":protocol"] = []string{protocol}
	}
	reader, _ := io.Pipe()
	return withBody(r, reader)
}

// Over HTTP/3 every GET has a length that isn't known. It was taken for one with a body: each
// read of a browser went to the homeserver, and nothing was shared or kept.
func TestReadWithoutABodyIsAHitWhateverItsLength(t *testing.T) {
	for name, as := range map[string]func(r *http.Request) *http.Request{
		"HTTP/3": func(r *http.Request) *http.Request { return overHTTP3(r, strings.NewReader("")) },
		"HTTP/3 with a length of 0": func(r *http.Request) *http.Request {
			r = overHTTP3(r, strings.NewReader(""))
			r.Header.Set("Content-Length", "0")
			r.ContentLength = 0
			return r
		},
		"in chunks": func(r *http.Request) *http.Request {
			r.TransferEncoding = []string{"chunked"}
			return withBody(r, strings.NewReader(""))
		},
		"in chunks, with a trailer": func(r *http.Request) *http.Request {
			r.TransferEncoding, r.Trailer = []string{"chunked"}, http.Header{"X-Checksum": nil}
			return withBody(r, strings.NewReader(""))
		},
		"HTTP/2 that ends later": func(r *http.Request) *http.Request {
			r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
			return withBody(r, iotest.DataErrReader(strings.NewReader("")))
		},
		"no body and no length": func(r *http.Request) *http.Request { r.Body, r.ContentLength = nil, -1; return r },
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, new(options))
			for i, want := range []string{"matrix_presence; fwd=miss; stored", "matrix_presence; hit", "matrix_presence; hit"} {
				method := "GET"
				if i == 2 {
					method = "HEAD"
				}
				p.Want(p.Do(as(request(method, statusPath(alice), "bob-token", ""))), 200, "", want)
			}
			p.WantCounts(map[string]int{"GET": 1, "whoami": 1})
		})
	}
}

// Passed on, it is as one that says so: nobody has to look once more, and trailers are not
// lost.
func TestReadWithoutABodyIsPassedOnAsSuch(t *testing.T) {
	p := newProxy(t, &options{Identity: &identifying{RejectedLimit: &rate{Off: true}}})
	pass := func(r *http.Request) *http.Request {
		p.Want(p.Do(withBody(r, strings.NewReader(""))), 401, "", "matrix_presence; fwd=bypass; detail=unknown-identity")
		return p.hs.Last()
	}
	p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if strings.HasSuffix(r.URL.Path, "/whoami") {
			answer(w, 500, "")
			return true, nil
		}
		return false, nil
	})
	r := request("GET", statusPath(alice), "unknown", "")
	r.TransferEncoding = []string{"chunked"}
	if got := pass(r); got.ContentLength != 0 || got.Body != http.NoBody || got.TransferEncoding != nil {
		t.Errorf("passed on with a length of %d in %v", got.ContentLength, got.TransferEncoding)
	}
	r = request("GET", statusPath(alice), "unknown", "")
	r.Trailer = http.Header{"X-Checksum": {"7"}}
	got := pass(r)
	if body, err := io.ReadAll(got.Body); got.ContentLength != -1 || len(body) > 0 || err != nil || got.Trailer.Get("X-Checksum") != "7" {
		t.Errorf("with a trailer passed on with a length of %d, %q, %v, and %v", got.ContentLength, body, err, got.Trailer)
	}
}

// A body that is there still makes a read one for the homeserver, which gets it as the client
// sent it. To a client that asks whether to send it, our look must not say yes.
func TestReadWithABodyReachesTheHomeserverWithIt(t *testing.T) {
	expect := func(r *http.Request) *http.Request {
		r.Header.Set("Expect", "100-continue")
		return withBody(r, iotest.ErrReader(io.ErrNoProgress))
	}
	for name, tc := range map[string]struct {
		as   func(r *http.Request) *http.Request
		want string
	}{
		"HTTP/3":       {func(r *http.Request) *http.Request { return overHTTP3(r, strings.NewReader("{}")) }, "{}, <nil>"},
		"a byte":       {func(r *http.Request) *http.Request { return overHTTP3(r, strings.NewReader("x")) }, "x, <nil>"},
		"with its end": {func(r *http.Request) *http.Request { return withBody(r, iotest.DataErrReader(strings.NewReader("x"))) }, "x, <nil>"},
		"byte by byte": {func(r *http.Request) *http.Request {
			return withBody(r, iotest.OneByteReader(strings.NewReader("a body")))
		}, "a body, <nil>"},
		"a known length": {func(r *http.Request) *http.Request {
			r = withBody(r, strings.NewReader("{}"))
			r.ContentLength = 2
			return r
		}, "{}, <nil>"},
		"it breaks off": {func(r *http.Request) *http.Request {
			return withBody(r, io.MultiReader(strings.NewReader("a b"), iotest.ErrReader(io.ErrUnexpectedEOF)))
		}, "a b, unexpected EOF"},
		"it breaks off at once": {func(r *http.Request) *http.Request { return withBody(r, iotest.ErrReader(io.ErrUnexpectedEOF)) }, ", unexpected EOF"},
		"it is to be asked for": {expect, ", " + io.ErrNoProgress.Error()}, // and our look has not
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, new(options))
			got := ""
			p.hs.Intercept = func(_ http.ResponseWriter, r *http.Request) (bool, error) {
				if r.Method == "GET" && strings.HasSuffix(r.URL.Path, "/status") {
					body, err := io.ReadAll(r.Body)
					got = fmt.Sprintf("%s, %v", body, err)
				}
				return false, nil
			}
			for range 2 {
				r := tc.as(request("GET", statusPath(alice), "bob-token", ""))
				p.Want(p.Do(r), 200, "", "matrix_presence; fwd=bypass; detail=request")
				if got != tc.want {
					t.Errorf("the homeserver read %s, want %s", got, tc.want)
				}
			}
			p.WantCounts(map[string]int{"GET": 2, "whoami": 1})
		})
	}
}

// fitful is a body that comes as it likes: nothing at times, its end with the last bytes or after.
type fitful struct {
	random *rand.Rand
	rest   string
	end    error
}

func (f *fitful) Read(p []byte) (int, error) {
	if len(p) == 0 || f.random.IntN(3) == 0 {
		return 0, nil
	}
	n := copy(p[:f.random.IntN(len(p)+1)], f.rest)
	if f.rest = f.rest[n:]; f.rest == "" && (n == 0 || f.random.IntN(2) == 0) {
		return n, f.end
	}
	return n, nil
}

// In whatever pieces a body comes: the look is right, and who reads after it gets all of it, up to
// the same end.
func TestLookAtABodyLeavesItAsItWas(t *testing.T) {
	for seed := range uint64(2000) {
		random := rand.New(rand.NewPCG(seed, 0))
		body := strings.Repeat("b", random.IntN(5)*random.IntN(1000))
		end := []error{io.EOF, io.EOF, io.ErrUnexpectedEOF, http.ErrBodyReadAfterClose}[random.IntN(4)]
		r := withBody(request("GET", statusPath(alice), "", ""), &fitful{random, body, end})
		if random.IntN(2) == 0 {
			r.Trailer = http.Header{"X-Checksum": nil}
		}
		if got, want := hasBody(r), body != "" || end != io.EOF; got != want {
			t.Fatalf("seed %d: of %d bytes that end with %v: %v", seed, len(body), end, got)
		}
		got, err := io.ReadAll(r.Body)
		if string(got) != body || err != end && (err != nil || end != io.EOF) {
			t.Fatalf("seed %d: then %d bytes and %v, want %d and %v", seed, len(got), err, len(body), end)
		}
	}
}

// watched counts how often it is read from.
type watched struct{ reads int }

func (w *watched) Read([]byte) (int, error) { w.reads++; return 0, io.EOF }

// A look at a body is a wait for the client. Who is not asked for anything isn't waited for:
// nor are requests that no body would make different.
func TestBodiesAreNotLookedAtInVain(t *testing.T) {
	handler := options{Preflight: "local", SyncPresence: "limit", Homeserver: "synapse"}
	for name, tc := range map[string]struct {
		handler options
		request *http.Request
	}{
		"a request to be continued": {handler, func() *http.Request {
			r := request("GET", statusPath(alice), "bob-token", "")
			r.Header.Set("Expect", "100-continue")
			return r
		}()},
		"no token":         {handler, request("GET", statusPath(alice), "", "")},
		"another spelling": {handler, request("GET", "/_matrix/client/unstable/presence/"+alice+"/status", "bob-token", "")},
		"an Upgrade": {handler, func() *http.Request {
			r := request("GET", statusPath(alice), "bob-token", "")
			r.Header.Set("Upgrade", "websocket")
			return r
		}()},
		"a WebSocket":     {handler, webSocket(3, statusPath(alice), "bob-token")},
		"without a cache": {options{Cache: &caching{Off: true}}, request("GET", statusPath(alice), "bob-token", "")},
		"OPTIONS, with a token": {handler, func() *http.Request {
			r := scripted.Preflight(app, "PUT", "")
			r.Header.Set("Authorization", "Bearer bob-token")
			return r
		}()},
		"OPTIONS elsewhere": {handler, request("OPTIONS", syncPath, "", "")},
		"a sync":            {handler, request("GET", syncPath, "bob-token", "")},
		"something else":    {handler, request("GET", "/_matrix/client/v3/joined_rooms", "bob-token", "")},
		"observed":          {options{Mode: "observe"}, request("GET", statusPath(alice), "bob-token", "")},
		"observed OPTIONS":  {options{Mode: "observe", Preflight: "local"}, scripted.Preflight(app, "PUT", "")},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, &tc.handler)
			body := new(watched)
			p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
				if strings.HasSuffix(r.URL.Path, "/whoami") {
					return false, nil
				}
				answer(w, 200, `{}`) // without reading what the client sends
				return true, nil
			}
			p.Do(withBody(tc.request, body))
			if body.reads > 0 {
				t.Error("the body was looked at")
			}
		})
	}
}

// A client that doesn't send its body holds its own request only, and what it gets in the
// end is as of then: it is not to be answered from what was known before.
func TestBodyThatDoesNotComeHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{Preflight: "local"})
		p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; fwd=miss; stored")
		reader, writer := io.Pipe()
		slow := make(chan *http.Response)
		go func() { slow <- p.Do(overHTTP3(request("GET", statusPath(alice), "bob-token", ""), reader)) }()
		go func() { slow <- p.Do(overHTTP3(scripted.Preflight(app, "PUT", ""), reader)) }()
		synctest.Wait()

		p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; hit")
		p.Want(p.Put("alice-token", alice, `{"presence":"unavailable"}`), 200, `{}`, "")
		p.Want(p.Do(request("POST", "/_matrix/client/v3/logout", "bob-token", "")), 200, `{}`, "")
		time.Sleep(time.Hour)
		_ = writer.Close()
		for range 2 {
			if resp := <-slow; resp.StatusCode == 200 && strings.Contains(bodyOf(resp), "presence") {
				t.Errorf("after the logout: %d %s", resp.StatusCode, bodyOf(resp))
			}
		}
	})
}

// The preflights of a browser over HTTP/3 were taken for OPTIONS with a body, so all of them
// went to the homeserver.
func TestPreflightWithoutABodyIsAnsweredHereWhateverItsLength(t *testing.T) {
	p := newProxy(t, &options{Preflight: "local"})
	p.hs.AnswerPreflights(204, scripted.SynapsePreflight...)
	for _, want := range []string{"matrix_presence; fwd=miss; stored", "matrix_presence; hit", "matrix_presence; hit"} {
		p.Want(p.Do(overHTTP3(scripted.Preflight(app, "PUT", "authorization"), strings.NewReader(""))), 204, "", want)
	}
	p.Want(p.Do(scripted.Preflight(app, "PUT", "authorization")), 204, "", "matrix_presence; hit")
	p.WantCounts(map[string]int{"OPTIONS": 1})
	p.wantMetrics(map[string]float64{"requests_total preflight": 4, "outcomes_total hit preflight": 3})
}

// In a dry run a read or a preflight over HTTP/3 counted as one that memory can't answer, so
// an admin with browsers saw no use in it.
func TestObservedOutcomesAreTheSameOverHTTP3(t *testing.T) {
	// As reverse_proxy's transport does it, which sends a body on.
	readAll := func(hs *homeserver) {
		answer := hs.Intercept
		hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
			_, _ = io.ReadAll(r.Body)
			return answer != nil && r.Method == "OPTIONS", func() error {
				if answer != nil {
					_, err := answer(w, r)
					return err
				}
				return nil
			}()
		}
	}
	for name, tc := range map[string]struct {
		as   func(r *http.Request) *http.Request
		want map[string]float64
	}{
		"HTTP/1.1":            {func(r *http.Request) *http.Request { return r }, map[string]float64{"miss read": 1, "hit read": 2, "forwarded preflight": 1, "hit preflight": 2}},
		"HTTP/3":              {func(r *http.Request) *http.Request { return overHTTP3(r, strings.NewReader("")) }, map[string]float64{"miss read": 1, "hit read": 2, "forwarded preflight": 1, "hit preflight": 2}},
		"HTTP/3, with a body": {func(r *http.Request) *http.Request { return overHTTP3(r, strings.NewReader("{}")) }, map[string]float64{"bypass read": 3, "forwarded preflight": 3}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, &options{Mode: "observe", Preflight: "local"})
				p.hs.AnswerPreflights(204, scripted.SynapsePreflight...)
				readAll(p.hs)
				for range 3 {
					p.Want(p.Do(tc.as(request("GET", statusPath(alice), "bob-token", ""))), 200, "", "")
					p.Want(p.Do(tc.as(scripted.Preflight(app, "PUT", "authorization"))), 204, "", "")
					synctest.Wait()
				}
				p.wantObserved(tc.want)
				p.WantCounts(map[string]int{"GET": 3, "OPTIONS": 3})
			})
		})
	}
}

// A body that HTTP/3 cut off ended like any, and what there was of it got a length of its own: a
// write, or a sync whose presence was changed, that reaches the homeserver by no other way.
func TestBodyThatIsCutOffOverHTTP3(t *testing.T) {
	cut := func(r *http.Request, body string) *http.Request {
		r = overHTTP3(r, strings.NewReader(body))
		r.ContentLength = int64(len(body)) + 5
		return r
	}
	for _, absorb := range []string{"pass", "absorb"} {
		p := newProxy(t, &options{RepeatWrites: absorb})
		p.WantError(p.Do(cut(request("PUT", statusPath(alice), "alice-token", ""), `{"presence":"online"}`)), 400, "M_UNKNOWN")
		p.WantCounts(map[string]int{"PUT": 0})
	}

	p := newProxy(t, &options{SyncPresence: "limit", Homeserver: "tuwunel"})
	p.knows("alice-token")
	const sliding = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
	for range 2 {
		p.Do(cut(request("POST", sliding, "alice-token", ""), `{"set_presence":"online"}`))
		if got := p.hs.Last(); got.URL.Path != sliding || got.ContentLength != 30 {
			t.Errorf("the homeserver got %s with length %d", got.URL, got.ContentLength)
		}
	}
	p.wantMetrics(map[string]float64{"sync_writes_total unknown": 2})
}

// reverse_proxy turns a WebSocket over HTTP/2 or HTTP/3 into a GET, which the homeserver serves
// as any. For us it was a CONNECT: no limit held for it, and nothing counted it.
func TestWebSocketOverHTTP2AndHTTP3IsJudgedAsTheReadThatItBecomes(t *testing.T) {
	for _, major := range []int{2, 3} {
		t.Run(fmt.Sprint("HTTP/", major), func(t *testing.T) {
			p := newProxy(t, &options{ReadLimit: &rate{Events: 2, Window: time.Hour}})
			p.hs.Intercept = func(_ http.ResponseWriter, r *http.Request) (bool, error) {
				if r.Header[":protocol"] != nil && r.Method != "CONNECT" {
					t.Errorf("%s %s has a field :protocol, which no transport sends", r.Method, r.URL)
				}
				r.Body = http.NoBody // the homeserver of these tests would wait for its end
				return false, nil
			}
			p.WantError(p.Do(webSocket(major, statusPath(alice), "")), 401, "M_MISSING_TOKEN")
			p.WantError(p.Do(webSocket(major, statusPath(alice), "unknown")), 401, "M_UNKNOWN_TOKEN")
			for range 2 {
				p.Want(p.Do(webSocket(major, statusPath(alice), "bob-token")), 200, "", "matrix_presence; fwd=bypass; detail=request")
			}
			p.WantError(p.Do(webSocket(major, statusPath(alice), "bob-token")), 429, "M_LIMIT_EXCEEDED")
			p.WantError(p.Get("bob-token", alice), 429, "M_LIMIT_EXCEEDED")
			p.WantCounts(map[string]int{"CONNECT": 2, "GET": 0, "whoami": 2})
			p.wantMetrics(map[string]float64{"requests_total read": 6, "outcomes_total bypass read": 2, "outcomes_total limited read": 2})
		})
	}
}

func TestWebSocketOverHTTP2AndHTTP3IsJudgedAsTheSyncThatItBecomes(t *testing.T) {
	for _, major := range []int{2, 3} {
		t.Run(fmt.Sprint("HTTP/", major), func(t *testing.T) {
			p := newProxy(t, &options{SyncPresence: "limit", RepeatWrites: "absorb", Homeserver: "synapse"})
			p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
				r.Body = http.NoBody
				return false, nil
			}
			p.knows("alice-token")
			for _, want := range []string{"since=s&timeout=0", "since=s&timeout=0&set_presence=offline"} {
				p.Do(webSocket(major, syncPath+"?since=s&timeout=0", "alice-token"))
				if got := p.hs.lastSync(); got.URL.RawQuery != want || got.RequestURI != syncPath+"?"+want || got.Method != "CONNECT" {
					t.Errorf("reached the homeserver as %s %s, want the query %s", got.Method, got.RequestURI, want)
				}
			}
			p.wantMetrics(map[string]float64{"requests_total sync": 2, "outcomes_total stripped_unchanged sync": 1})

			// GET /events is an activity: what is repeated after it is news.
			write := func() { p.Put("alice-token", alice, `{"presence":"unavailable"}`) }
			write()
			write()
			p.WantCounts(map[string]int{"PUT": 1})
			p.Do(webSocket(major, "/_matrix/client/v3/events", "alice-token"))
			write()
			p.WantCounts(map[string]int{"PUT": 2})
		})
	}
}

func TestWebSocketOverHTTP2AndHTTP3IsObservedAsTheReadThatItBecomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{Mode: "observe", ReadLimit: &rate{Events: 1, Window: time.Hour}})
		p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
			r.Body = http.NoBody
			return false, nil
		}
		for _, token := range []string{"bob-token", "bob-token", ""} {
			p.Do(webSocket(3, statusPath(alice), token))
			synctest.Wait()
		}
		p.wantObserved(map[string]float64{"bypass read": 1, "limited read": 1, "rejected read": 1})
		p.WantCounts(map[string]int{"CONNECT": 3})
	})
}

// A WebSocket on another path is none of ours: its body isn't even looked at. Any other
// extended CONNECT goes upstream as a CONNECT, after which reverse_proxy sends whatever the
// client says as it is: a homeserver that answers 404 and keeps the connection takes that for
// the next request, and no limit of ours sees it.
func TestExtendedConnectIsForWebSocketsOnly(t *testing.T) {
	for _, major := range []int{2, 3} {
		for _, path := range []string{statusPath(alice), syncPath, "/_matrix/client/versions", "/elsewhere"} {
			p := newProxy(t, &options{SyncPresence: "limit"})
			for _, protocol := range []string{"foo", "WebSocket", "websocket2", "connect-udp", "webtransport"} {
				p.WantError(p.Do(extendedConnect(major, protocol, path, "bob-token")), 400, "M_UNRECOGNIZED")
			}
			if len(p.hs.Seen) > 0 {
				t.Errorf("HTTP/%d %s: the homeserver got %d requests", major, path, len(p.hs.Seen))
			}
		}
		p := newProxy(t, new(options))
		var got *http.Request
		p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
			got = r
			answer(w, 200, "")
			return true, nil
		}
		sent := webSocket(major, "/elsewhere", "")
		body := sent.Body
		if resp := p.Do(sent); resp.StatusCode != 200 || got == nil || got.Method != "CONNECT" || got.Body != body {
			t.Errorf("HTTP/%d: a WebSocket elsewhere: %d, %v", major, resp.StatusCode, got)
		}
	}
}

// Neither is what a client can't mean: a CONNECT without a path, or with one in HTTP/1.1.
func TestPlainConnectIsRefusedInAllProtocols(t *testing.T) {
	p := newProxy(t, new(options))
	for major, proto := range map[int]string{1: "HTTP/1.1", 2: "HTTP/2.0", 3: "HTTP/3.0"} {
		for _, path := range []string{"", statusPath(alice)} {
			r := httptest.NewRequest("CONNECT", "http://example.com", nil)
			r.URL.Path, r.Proto, r.ProtoMajor = path, proto, major
			if major == 1 {
				r.Header.Set("Upgrade", "websocket")
			}
			p.WantError(p.Do(r), 400, "M_UNRECOGNIZED")
		}
	}
	if !maps.Equal(p.hs.Counts, map[string]int{}) {
		t.Errorf("the homeserver got %v", p.hs.Counts)
	}
}
