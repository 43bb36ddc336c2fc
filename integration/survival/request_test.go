package survival_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
)

// fresh makes a connection for each request. The client tries nothing again by itself,
// so that a request is one request.
var fresh = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// names counts the requests of all tests.
var names atomic.Int64

// request is a request with a name: one of its own, or in the soak that of its kind. The
// name goes into Caddy's access log and to the homeserver, which counts by it.
type request struct {
	kind   kind
	id     string
	method string
	url    string
	token  string
	body   string

	inQuery bool          // where the token is
	from    string        // the address that it comes from, by X-Forwarded-For
	asking  bool          // it is a browser's preflight
	leave   time.Duration // after which the client goes away; 0: it stays
}

// answer is what the client got. Status is 0 if there was no answer.
type answer struct {
	status int
	header http.Header
	body   string
	err    error
}

func (a answer) cacheStatus() string { return a.header.Get("Cache-Status") }

func (a answer) hit() bool { return strings.HasPrefix(a.cacheStatus(), "matrix_presence; hit") }

func (a answer) String() string {
	return fmt.Sprintf("%d %s (%s) %v", a.status, a.body, a.cacheStatus(), a.err)
}

// version is that of a presence, or -1.
func (a answer) version() int64 {
	_, rest, _ := strings.Cut(a.body, `"status_msg":"`)
	status, _, _ := strings.Cut(rest, `"`)
	version, err := scripted.Version(status)
	if err != nil {
		return -1
	}
	return version
}

func newRequest(k kind, method, url, token, body string) request {
	return request{kind: k, id: k.name(), method: method, url: url, token: token, body: body}
}

// name is one that no other request has.
func (k kind) name() string { return fmt.Sprintf("%s-%d", k, names.Add(1)) }

func statusPath(userID string) string { return presencePath("v3", userID) }

func presencePath(version, userID string) string {
	return "/_matrix/client/" + version + "/presence/" + url.PathEscape(userID) + "/status"
}

// read asks for a target's presence.
func (s *server) read(token, target string) request {
	return newRequest(read, http.MethodGet, s.URL+statusPath(target), token, "")
}

// write writes a version of the user's own presence.
func (s *server) write(token, user string, version int64) request {
	return newRequest(write, http.MethodPut, s.URL+statusPath(user), token,
		fmt.Sprintf(`{"presence":"online","status_msg":%q}`, scripted.Status(version)))
}

// pass is a request that isn't about presence. The homeserver sends its body back.
func (s *server) pass(body string) request {
	return newRequest(pass, http.MethodPost, s.URL+"/_matrix/client/v3/echo", "", body)
}

// do sends a request, by a client.
func (r request) do(ctx context.Context, client *http.Client) answer {
	var body io.Reader
	if r.body != "" {
		body = strings.NewReader(r.body)
	}
	if r.inQuery {
		r.url += "?access_token=" + r.token
	}
	req, err := http.NewRequestWithContext(ctx, r.method, r.url, body)
	if err != nil {
		return answer{err: err}
	}
	req.Header.Set(idField, r.id)
	if r.token != "" && !r.inQuery {
		req.Header.Set("Authorization", "Bearer "+r.token)
	}
	if r.asking {
		req.Header.Set("Origin", "https://app.example.com")
		req.Header.Set("Access-Control-Request-Method", http.MethodGet)
		req.Header.Set("Access-Control-Request-Headers", "authorization")
	}
	if r.from != "" {
		req.Header.Set("X-Forwarded-For", r.from)
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{err: err}
	}
	return answer{resp.StatusCode, resp.Header, string(text), nil}
}

// insist is do until there is an answer, as clients try again: a server that was replaced by
// a reload drops what it hasn't read to the end. Each try has a name of its own.
func (r request) insist(ctx context.Context, client *http.Client) (a answer) {
	for range 10 {
		if a = r.do(ctx, client); a.status != 0 {
			break
		}
		r.id = fmt.Sprintf("%s-again-%d", r.id, names.Add(1))
	}
	return a
}

// get is insist on connections of its own.
func (r request) get(t *testing.T) answer {
	t.Helper()
	return r.insist(t.Context(), fresh)
}

// later sends a request once and returns where its answer will be.
func (r request) later(ctx context.Context) <-chan answer {
	c := make(chan answer, 1)
	go func() { c <- r.do(ctx, fresh) }()
	return c
}

// expect fails unless there is an answer with a status.
func expect(t *testing.T, what string, a answer, status int) answer {
	t.Helper()
	if a.status != status {
		t.Errorf("%s: got %s, want %d", what, a, status)
	}
	return a
}
