package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
)

// The paths that most tests use.
const (
	ofAlice = "/_matrix/client/v3/presence/{alice}/status"
	ofBob   = "/_matrix/client/v3/presence/{bob}/status"
)

// request is one HTTP request with its path spelled byte for byte.
type request struct {
	method string
	path   string // escaped; may have a query
	token  string // sent as a bearer token unless empty
	// second is another Authorization header.
	second string
	// from is the address that a proxy before us has seen.
	from        string
	body        string
	contentType string      // of the body
	header      http.Header // more fields
}

// to sends the request to a homeserver or a sidecar.
func (r request) to(t *testing.T, base string) answer {
	t.Helper()
	a, err := r.try(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// try is to for goroutines, which must not end the test.
func (r request) try(ctx context.Context, base string) (answer, error) {
	u, err := url.Parse(base)
	if err != nil {
		return answer{}, err
	}
	u.RawPath, u.RawQuery, _ = strings.Cut(r.path, "?")
	if u.Path, err = url.PathUnescape(u.RawPath); err != nil {
		return answer{}, err
	}
	var body io.Reader // a nil interface unless there is one: no Content-Length
	if r.body != "" {
		body = strings.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, "/", body)
	if err != nil {
		return answer{}, err
	}
	req.URL, req.Host = u, u.Host
	maps.Copy(req.Header, r.header)
	for _, token := range []string{r.token, r.second} {
		if token != "" {
			req.Header.Add("Authorization", "Bearer "+token)
		}
	}
	if r.from != "" {
		req.Header.Set("X-Forwarded-For", r.from)
	}
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	return answer{resp.StatusCode, resp.Header, text}, nil
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// String is the answer as a failed test shows it.
func (a answer) String() string {
	body := a.body
	if len(body) > 300 {
		body = append(bytes.Clone(body[:300]), "…"...)
	}
	return fmt.Sprintf("%d %s", a.status, body)
}

// json is the body without the age, which depends on when one asks; nil if the
// body is not JSON.
func (a answer) json() any {
	var value any
	if json.Unmarshal(a.body, &value) != nil {
		return nil
	}
	if object, ok := value.(map[string]any); ok {
		delete(object, "last_active_ago")
	}
	return value
}

// field is one string of a JSON body.
func (a answer) field(name string) string {
	object, _ := a.json().(map[string]any)
	text, _ := object[name].(string)
	return text
}

// is says whether the answer has that status and body.
func (a answer) is(status int, body string) bool {
	return a.status == status && sameBody(a, answer{body: []byte(body)})
}

// sameBody compares as JSON what is JSON, and byte for byte what isn't.
func sameBody(a, b answer) bool {
	if x, y := a.json(), b.json(); x != nil && y != nil {
		return reflect.DeepEqual(x, y)
	}
	return bytes.Equal(bytes.TrimSpace(a.body), bytes.TrimSpace(b.body))
}

// visible are the headers that a client, a browser or a cache on the way acts
// upon.
var visible = []string{
	"Content-Type", "Cache-Control", "Vary", "Retry-After", "Access-Control-Allow-Origin",
	"Access-Control-Allow-Methods", "Access-Control-Allow-Headers", "Access-Control-Expose-Headers",
}

// expectSame fails unless the sidecar's answer is the homeserver's.
func expectSame(t *testing.T, direct, through answer) {
	t.Helper()
	if through.status != direct.status || !sameBody(direct, through) {
		t.Errorf("through the sidecar: %s\nby the homeserver:  %s", through, direct)
	}
	for _, name := range visible {
		if d, s := direct.header.Values(name), through.header.Values(name); !reflect.DeepEqual(d, s) {
			t.Errorf("%s through the sidecar: %q, by the homeserver: %q", name, s, d)
		}
	}
}

// expectOwn fails unless the answer is one that the sidecar made by itself: of
// that status and error, and readable for a browser.
func expectOwn(t *testing.T, through answer, status int, errcode string) {
	t.Helper()
	if through.status != status || through.field("errcode") != errcode {
		t.Errorf("through the sidecar: %s, want its own %d %s", through, status, errcode)
	}
	if through.field("error") == "" {
		t.Errorf("through the sidecar: %s, want a text in error", through)
	}
	if got := through.header.Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type %q, want application/json", got)
	}
	if got := through.header.Get("Access-Control-Allow-Origin"); got != "*" {
		t.Errorf("Access-Control-Allow-Origin %q, want *", got)
	}
}

// cacheStatus is what the sidecar says about where an answer comes from, or ""
// if it is not from a presence route or of its own making.
func (a answer) cacheStatus() string { return a.header.Get("Cache-Status") }

// hit says whether the answer came from the sidecar's memory.
func (a answer) hit() bool { return strings.Contains(a.cacheStatus(), "matrix_presence; hit") }
