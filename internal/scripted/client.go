package scripted

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Client sends requests to what is tested, and says what is wrong with the answers.
type Client struct {
	T  testing.TB
	HS *Homeserver
	// Do sends a request as a web server would.
	Do func(r *http.Request) *http.Response
}

// Request returns a request with an access token, unless that is empty.
func Request(method, target, token, body string) *http.Request {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if body == "" {
		r = httptest.NewRequest(method, target, nil)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}

// StatusPath returns the path of a user's presence.
func StatusPath(userID string) string {
	return "/_matrix/client/v3/presence/" + userID + "/status"
}

// Get asks for a user's presence.
func (c *Client) Get(token, userID string) *http.Response {
	c.T.Helper()
	return c.Do(Request("GET", StatusPath(userID), token, ""))
}

// Put writes a user's presence.
func (c *Client) Put(token, userID, body string) *http.Response {
	c.T.Helper()
	return c.Do(Request("PUT", StatusPath(userID), token, body))
}

// Want fails unless the response has the status and, if they aren't empty, the
// body and a Cache-Status that begins so.
func (c *Client) Want(resp *http.Response, status int, body, cacheStatus string) {
	c.T.Helper()
	got := Body(resp)
	if resp.StatusCode != status {
		c.T.Errorf("status %d, want %d (%s)", resp.StatusCode, status, got)
	}
	if body != "" && got != body {
		c.T.Errorf("body %s, want %s", got, body)
	}
	if value := resp.Header.Get("Cache-Status"); !strings.HasPrefix(value, cacheStatus) {
		c.T.Errorf("Cache-Status %q, want it to begin with %q", value, cacheStatus)
	}
}

// WantError fails unless the response is a Matrix error with what browsers need.
func (c *Client) WantError(resp *http.Response, status int, errcode string) {
	c.T.Helper()
	body := Body(resp)
	var object struct {
		Errcode, Error string
	}
	if err := json.Unmarshal([]byte(body), &object); err != nil || resp.StatusCode != status || object.Errcode != errcode || object.Error == "" {
		c.T.Errorf("got %d %s, want %d with errcode %s", resp.StatusCode, body, status, errcode)
	}
	if origin := resp.Header.Get("Access-Control-Allow-Origin"); origin != "*" {
		c.T.Errorf("%d %s: Access-Control-Allow-Origin is %q", status, errcode, origin)
	}
	if contentType := resp.Header.Get("Content-Type"); contentType != "application/json" {
		c.T.Errorf("%d %s: Content-Type is %q", status, errcode, contentType)
	}
}

// WantCounts fails unless the homeserver got so many requests of each kind.
func (c *Client) WantCounts(want map[string]int) {
	c.T.Helper()
	for what, n := range want {
		if got := c.HS.Count(what); got != n {
			c.T.Errorf("the homeserver got %d requests of %s, want %d", got, what, n)
		}
	}
}

// Body reads the body and puts it back.
func Body(resp *http.Response) string {
	body, _ := io.ReadAll(resp.Body)
	resp.Body = io.NopCloser(strings.NewReader(string(body)))
	return string(body)
}
