package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestWriteIsForwardedAndInvalidatesForEveryViewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, new(options))
		delete(p.hs.Hidden, carol+" "+alice)
		p.Get("bob-token", alice)
		p.Get("carol-token", alice)
		p.Want(p.Put("alice-token", alice, `{"presence":"offline","status_msg":"gone"}`), 200, `{}`, "matrix_presence; fwd=method")
		const gone = `{"presence":"offline","status_msg":"gone"}`
		p.Want(p.Get("bob-token", alice), 200, gone, "matrix_presence; fwd=miss; stored")
		p.Want(p.Get("carol-token", alice), 200, gone, "matrix_presence; hit")
	})
}

// The homeserver acknowledges a write, and applies it later. Until then nothing is kept, and
// then what shows it is, at once.
func TestNothingIsStoredUntilAWriteIsSeenOrHasSettled(t *testing.T) {
	for _, applied := range []bool{true, false} {
		t.Run(fmt.Sprint("applied: ", applied), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, &options{Cache: &caching{Settle: ptr(3 * time.Second)}})
				p.Get("bob-token", alice)
				acknowledge := func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if r.Method == http.MethodPut {
						answer(w, 200, `{}`)
					}
					return r.Method == http.MethodPut, nil
				}
				p.hs.AnswerBy(acknowledge)
				p.Put("alice-token", alice, `{"presence":"offline","status_msg":"gone"}`)
				for range 3 {
					if got := p.Get("bob-token", alice).Header.Get("Cache-Status"); got != "matrix_presence; fwd=miss" {
						t.Errorf("Cache-Status is %q", got)
					}
					time.Sleep(900 * time.Millisecond)
				}
				if applied {
					p.hs.Mu.Lock()
					p.hs.Presence[alice] = `{"presence":"offline","last_active_ago":5000,"status_msg":"gone"}`
					p.hs.Mu.Unlock()
				} else {
					time.Sleep(301 * time.Millisecond)
				}
				p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; fwd=miss; stored")
				p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; hit")
			})
		})
	}
}

// A read that departed before a write must not bring the old state back, and
// nobody who came after the write may share it.
func TestReadOvertakenByAWriteIsNotStoredOrShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{Cache: &caching{Settle: ptr(0)}})
		p.Get("bob-token", carol)
		release := make(chan struct{})
		p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
			if strings.HasSuffix(r.URL.Path, "/status") && p.hs.Count("PUT") == 0 {
				answer(w, 200, `{"presence":"online"}`) // read before the write
				<-release
				return true, nil
			}
			return false, nil
		}
		var wg sync.WaitGroup
		wg.Go(func() { p.Want(p.Get("bob-token", alice), 200, `{"presence":"online"}`, "") })
		synctest.Wait()
		p.Put("alice-token", alice, `{"presence":"offline"}`)
		p.Want(p.Get("bob-token", alice), 200, `{"presence":"offline","status_msg":""}`, "matrix_presence; fwd=miss; stored")
		close(release)
		wg.Wait()
		p.Want(p.Get("bob-token", alice), 200, `{"presence":"offline","status_msg":""}`, "matrix_presence; hit")
	})
}

func TestForeignWriteIsRefusedWithoutAskingAndWithoutCharge(t *testing.T) {
	p := newProxy(t, &options{WriteLimit: &rate{Events: 1, Window: time.Hour}})
	for range 3 {
		p.WantError(p.Put("bob-token", alice, `{"presence":"offline"}`), 403, "M_FORBIDDEN")
	}
	p.WantCounts(map[string]int{"PUT": 0, "whoami": 1})
	p.Want(p.Put("bob-token", bob, `{"presence":"offline"}`), 200, `{}`, "")
	p.Want(p.Put("alice-token", alice, `{"presence":"offline"}`), 200, `{}`, "")
}

func TestForeignWriteByEverySpellingIsRefused(t *testing.T) {
	p := newProxy(t, new(options))
	for _, target := range []string{
		"/_matrix/client/r0/presence/@alice:example.com/status",
		"/_matrix/client/unstable/presence/@alice:example.com/status",
		"/_matrix/client/api/v1/presence/@alice:example.com/status",
		"/_matrix/client/v3/presence/%40alice%3Aexample.com/status",
		"/_matrix/client/v3/presence/@alice:example.com/status/",
		"/_matrix/client/v3/presence/@alice:example.com/statusfoo",
		"/_matrix/client/v3/presence/@alice:example.com/status/x/y",
		"/_matrix/client/v3/presence/@alice:example.com/status%3Fx",
		"/_matrix/client/v3/presence/@alice%2F..:example.com/status",
		"/_matrix/client/v3/presence//status",
	} {
		p.WantError(p.Do(request("PUT", target, "bob-token", `{"presence":"offline"}`)), 403, "M_FORBIDDEN")
	}
	p.WantCounts(map[string]int{"PUT": 0})
}

func TestWriteByASpellingThatOnlySynapseServesInvalidates(t *testing.T) {
	p := newProxy(t, &options{Cache: &caching{Settle: ptr(0)}})
	p.Get("bob-token", alice)
	target := "/_matrix/client/unstable/presence/%40alice:example.com/status/x?a=%2F"
	p.Want(p.Do(request("PUT", target, "alice-token", `{"presence":"offline"}`)), 200, "", "matrix_presence; fwd=method")
	if got := p.hs.Last().URL.RequestURI(); got != target {
		t.Errorf("forwarded as %s, not %s", got, target)
	}
	p.Want(p.Get("bob-token", alice), 200, `{"presence":"offline","status_msg":""}`, "matrix_presence; fwd=miss")
}

func TestWriteLimitIsOneBudgetForAUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{WriteLimit: &rate{Events: 6, Window: time.Minute, Burst: 2}})
		p.Want(p.Put("alice-token", alice, `{"presence":"online"}`), 200, `{}`, "")
		p.Want(p.Do(request("PUT", "/_matrix/client/r0/presence/%40alice:example.com/status/", "alice-phone", `{"presence":"offline"}`)), 200, `{}`, "")
		time.Sleep(500 * time.Millisecond)
		resp := p.Put("alice-phone", alice, `{"presence":"online"}`)
		p.WantError(resp, 429, "M_LIMIT_EXCEEDED")
		if got, want := bodyOf(resp), `"retry_after_ms":9500`; !strings.Contains(got, want) {
			t.Errorf("body %s has no %s", got, want)
		}
		if got := resp.Header.Get("Retry-After"); got != "10" {
			t.Errorf("Retry-After is %q, want 10", got)
		}
		p.Want(p.Put("bob-token", bob, `{"presence":"online"}`), 200, `{}`, "")
		time.Sleep(9500 * time.Millisecond)
		p.Want(p.Put("alice-phone", alice, `{"presence":"online"}`), 200, `{}`, "")
		p.WantCounts(map[string]int{"PUT": 4})
	})
}

func TestExemptUsersAreNotLimited(t *testing.T) {
	p := newProxy(t, &options{
		WriteLimit: &rate{Events: 1, Window: time.Hour},
		Exempt:     []string{"@al*:example.com"},
	})
	for range 5 {
		p.Want(p.Put("alice-token", alice, `{"presence":"online"}`), 200, `{}`, "")
	}
	p.Put("bob-token", bob, `{"presence":"online"}`)
	p.WantError(p.Put("bob-token", bob, `{"presence":"online"}`), 429, "M_LIMIT_EXCEEDED")
}

func TestBadBodiesAreRefusedHere(t *testing.T) {
	p := newProxy(t, &options{WriteLimit: &rate{Off: true}, MaxBody: 100})
	for name, tc := range map[string]struct {
		body    string
		status  int
		errcode string
	}{
		"not JSON":          {`{"presence":`, 400, "M_NOT_JSON"},
		"not an object":     {`["online"]`, 400, "M_BAD_JSON"},
		"null":              {`null`, 400, "M_BAD_JSON"},
		"no presence":       {`{"status_msg":"x"}`, 400, "M_BAD_JSON"},
		"no string":         {`{"presence":1}`, 400, "M_BAD_JSON"},
		"no known presence": {`{"presence":"dancing"}`, 400, "M_BAD_JSON"},
		"too large":         {`{"presence":"online","status_msg":"` + strings.Repeat("x", 100) + `"}`, 413, "M_TOO_LARGE"},
	} {
		t.Run(name, func(t *testing.T) {
			p.WantError(p.Put("alice-token", alice, tc.body), tc.status, tc.errcode)
			r := request("PUT", statusPath(alice), "alice-token", tc.body)
			r.ContentLength = -1 // in chunks
			p.WantError(p.Do(r), tc.status, tc.errcode)
		})
	}
	p.WantError(p.Put("alice-token", alice, ""), 400, "M_NOT_JSON")
	p.WantCounts(map[string]int{"PUT": 0})
}

// An outer request_body limit and a client that breaks off are answered in Matrix
// terms too. The error named max_body for the smaller limit of the site's own request_body, so
// admins raised the wrong one.
func TestBodiesThatCanNotBeRead(t *testing.T) {
	p := newProxy(t, new(options))
	r := request("PUT", statusPath(alice), "alice-token", `{"presence":"online"}`)
	r.Body = http.MaxBytesReader(nil, r.Body, 5)
	resp := p.Do(r)
	p.WantError(resp, 413, "M_TOO_LARGE")
	if said := bodyOf(resp); !strings.Contains(said, "larger than 5 bytes") {
		t.Errorf("the error names another limit: %s", said)
	}
	r = request("PUT", statusPath(alice), "alice-token", `{"presence":"online"}`)
	r.Body = io.NopCloser(io.MultiReader(strings.NewReader(`{"pres`), errReader{}))
	p.WantError(p.Do(r), 400, "M_UNKNOWN")
	p.WantCounts(map[string]int{"PUT": 0})
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestRelaxedLimitAppliesAtOnce(t *testing.T) {
	p := newProxy(t, &options{WriteLimit: &rate{Events: 1, Window: time.Hour, Burst: 3}})
	for range 3 {
		p.Want(p.Put("alice-token", alice, `{"presence":"online"}`), 200, `{}`, "")
	}
	p.reload(&options{WriteLimit: &rate{Events: 600, Window: time.Minute, Burst: 3}, Cache: new(caching)})
	resp := p.Put("alice-token", alice, `{"presence":"online"}`)
	if got := resp.Header.Get("Retry-After"); resp.StatusCode == 429 && got != "1" {
		t.Errorf("has to wait %s s", got)
	}
}

func TestBodyReachesTheHomeserverByteForByte(t *testing.T) {
	p := newProxy(t, new(options))
	const body = " {\"status_msg\" : null,\n\"presence\":\"ONLINE\", \"extra\":[1.0]}\t"
	var got string
	var length int64
	p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if r.Method == "PUT" {
			data, _ := io.ReadAll(r.Body)
			got, length = string(data), r.ContentLength
			r.Body = io.NopCloser(strings.NewReader(got))
		}
		return false, nil
	}
	r := request("PUT", statusPath(alice), "alice-token", body)
	r.ContentLength = -1
	p.Want(p.Do(r), 200, `{}`, "")
	if got != body || length != int64(len(body)) {
		t.Errorf("the homeserver got %q with Content-Length %d", got, length)
	}
}

func TestUncertainWriteIsRefused(t *testing.T) {
	p := newProxy(t, new(options))
	mixed := request("PUT", statusPath(alice)+"?access_token=alice-token", "alice-token", `{"presence":"online"}`)
	twice := request("PUT", statusPath(alice), "alice-token", `{"presence":"online"}`)
	twice.Header.Add("Authorization", "Bearer alice-token")
	semicolon := request("PUT", statusPath(alice)+"?x=1;access_token=bob-token", "alice-token", `{"presence":"online"}`)
	for _, r := range []*http.Request{mixed, twice, semicolon} {
		p.WantError(p.Do(r), 401, "M_MISSING_TOKEN")
	}
	p.WantCounts(map[string]int{"PUT": 0, "whoami": 0})
}

func TestWriteWhoseOwnerCanNotBeFoundOutIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		intercept func(w http.ResponseWriter, r *http.Request) (bool, error)
		status    int
		errcode   string
	}{
		"down": {func(http.ResponseWriter, *http.Request) (bool, error) {
			return true, failed(http.StatusBadGateway, errors.New("connection refused"))
		}, 502, "M_UNKNOWN"},
		"hanging": {func(_ http.ResponseWriter, r *http.Request) (bool, error) {
			<-r.Context().Done()
			return true, r.Context().Err()
		}, 504, "M_UNKNOWN"},
		"breaking off": {func(w http.ResponseWriter, _ *http.Request) (bool, error) {
			w.WriteHeader(200)
			panic(http.ErrAbortHandler)
		}, 502, "M_UNKNOWN"},
		"no homeserver": {func(w http.ResponseWriter, _ *http.Request) (bool, error) {
			http.NotFound(w, nil)
			return true, nil
		}, 502, "M_UNKNOWN"},
		"HTML": {func(w http.ResponseWriter, _ *http.Request) (bool, error) {
			_, _ = io.WriteString(w, "<html>")
			return true, nil
		}, 502, "M_UNKNOWN"},
		"no user in the answer": {func(w http.ResponseWriter, _ *http.Request) (bool, error) {
			answer(w, 200, `{}`)
			return true, nil
		}, 502, "M_UNKNOWN"},
		"nobody answers": {func(http.ResponseWriter, *http.Request) (bool, error) { return true, nil }, 502, "M_UNKNOWN"},
		"locked": {func(w http.ResponseWriter, _ *http.Request) (bool, error) {
			answer(w, 401, `{"errcode":"M_USER_LOCKED","error":"User account has been locked","soft_logout":true}`)
			return true, nil
		}, 401, "M_USER_LOCKED"},
		"expired account": {func(w http.ResponseWriter, _ *http.Request) (bool, error) {
			answer(w, 403, `{"errcode":"ORG_MATRIX_EXPIRED_ACCOUNT","error":"User account has expired"}`)
			return true, nil
		}, 403, "ORG_MATRIX_EXPIRED_ACCOUNT"},
		"limited": {func(w http.ResponseWriter, _ *http.Request) (bool, error) {
			answer(w, 429, `{"errcode":"M_LIMIT_EXCEEDED","error":"too quickly","retry_after_ms":500}`)
			return true, nil
		}, 429, "M_LIMIT_EXCEEDED"},
		"authentication service down": {func(w http.ResponseWriter, _ *http.Request) (bool, error) {
			answer(w, 503, `{"errcode":"M_UNKNOWN","error":"Unable to introspect the access token"}`)
			return true, nil
		}, 503, "M_UNKNOWN"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, new(options))
				p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if strings.HasSuffix(r.URL.Path, "/whoami") {
						return tc.intercept(w, r)
					}
					return false, nil
				}
				p.WantError(p.Put("alice-token", alice, `{"presence":"online"}`), tc.status, tc.errcode)
				p.WantCounts(map[string]int{"PUT": 0})
				// Reads fall back to the homeserver, and nothing was remembered.
				p.Want(p.Get("alice-token", alice), 200, p.hs.Presence[alice], "matrix_presence; fwd=bypass; detail=unknown-identity")
				p.hs.Intercept = nil
				p.Want(p.Put("alice-token", alice, `{"presence":"online"}`), 200, `{}`, "")
			})
		})
	}
}

func TestWriteThatFailsOrIsCancelledInvalidates(t *testing.T) {
	for name, fail := range map[string]func(r *http.Request) error{
		"error":  func(*http.Request) error { return failed(http.StatusBadGateway, io.ErrUnexpectedEOF) },
		"cancel": func(r *http.Request) error { <-r.Context().Done(); return failed(499, r.Context().Err()) },
		"panic":  func(*http.Request) error { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, &options{Cache: &caching{Settle: ptr(0)}})
			p.Get("bob-token", alice)
			p.Get("alice-token", alice)
			ctx, cancel := context.WithCancel(t.Context())
			p.hs.Intercept = func(_ http.ResponseWriter, r *http.Request) (bool, error) {
				if r.Method != "PUT" {
					return false, nil
				}
				p.hs.Mu.Lock()
				p.hs.Presence[alice] = `{"presence":"offline"}` // applied all the same
				p.hs.Mu.Unlock()
				cancel()
				return true, fail(r)
			}
			func() {
				defer func() { _ = recover() }()
				p.Do(request("PUT", statusPath(alice), "alice-token", `{"presence":"offline"}`).WithContext(ctx))
			}()
			p.Want(p.Get("bob-token", alice), 200, `{"presence":"offline"}`, "matrix_presence; fwd=miss; stored")
		})
	}
}

// net/http keeps what is after the colon apart from the path, and reverse_proxy sends
// it as the target: Dendrite took such a write, which we hadn't seen.
func TestTargetThatIsNoPathIsRefused(t *testing.T) {
	p := newProxy(t, new(options))
	for _, target := range []string{"x:http://h" + statusPath(alice), "x:" + statusPath(alice)[1:]} {
		r := request("PUT", "http://example.com/", "bob-token", `{"presence":"online"}`)
		r.RequestURI = target
		var err error
		if r.URL, err = url.ParseRequestURI(target); err != nil {
			t.Fatal(err)
		}
		p.WantError(p.Do(r), 400, "M_UNRECOGNIZED")
	}
	r := request("CONNECT", "http://example.com", "bob-token", "")
	r.URL.Path = ""
	p.WantError(p.Do(r), 400, "M_UNRECOGNIZED")
	p.WantCounts(map[string]int{"PUT": 0, "other": 0, "whoami": 0})
}

func TestTrailersOfAWriteAreNotForwarded(t *testing.T) {
	p := newProxy(t, new(options))
	r := request("PUT", statusPath(alice), "alice-token", `{"presence":"online"}`)
	r.ContentLength, r.TransferEncoding = -1, []string{"chunked"}
	r.Header.Set("Trailer", "Authorization")
	r.Trailer = http.Header{"Authorization": {"Bearer bob-token"}}
	p.Want(p.Do(r), 200, `{}`, "matrix_presence; fwd=method")
	if sent := p.hs.Last(); sent.Trailer != nil || sent.Header.Get("Trailer") != "" || sent.ContentLength < 0 {
		t.Errorf("forwarded with trailers %v, announced %q, length %d", sent.Trailer, sent.Header.Get("Trailer"), sent.ContentLength)
	}
}
