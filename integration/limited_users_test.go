package integration_test

import (
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

// TestAdminTellsWhoIsLimited: an admin finds out who it is that writes too much, also
// after having reloaded the configuration, and may begin to count anew.
func TestAdminTellsWhoIsLimited(t *testing.T) {
	hs := suite.Homeserver(t, "dendrite", homeserver.Options{})
	c := newCast(t, hs)
	config := func(option string) string {
		return siteWith("write_limit 1/1h burst 1\n\t\tcache {\n\t\t\tname example.com\n\t\t}\n\t\t"+option, hs.URL)
	}
	s, err := sidecar.StartCaddyfile(t.Context(), config("read_limit off"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)

	ask := func(method, path string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.Admin+"/matrix_presence/"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	admin := func(method string) (int, string) { return ask(method, "limited_users") }
	if status, body := ask("GET", "talkers"); status != http.StatusGone || !strings.Contains(body, "limited_users") {
		t.Errorf("the endpoint by its old name: %d %s", status, body)
	}
	type user struct {
		UserID  string `json:"user_id"`
		AtLeast int    `json:"limited_at_least"`
		AtMost  int    `json:"limited_at_most"`
	}
	// written are the users of the list of writes.
	written := func() (users []user, since time.Time) {
		t.Helper()
		status, body := admin("GET")
		var lists []struct {
			Cache, Limit string
			Since        time.Time
			Limited      int
			Users        []user
		}
		if err := json.Unmarshal([]byte(body), &lists); err != nil || status != http.StatusOK {
			t.Fatalf("%d %s: %v", status, body, err)
		}
		for _, list := range lists {
			sum := 0
			for _, user := range list.Users {
				sum += user.AtMost
			}
			if list.Cache != "example.com" || list.Since.IsZero() || sum != list.Limited {
				t.Errorf("got %+v", list)
			}
			if list.Limit == "write" {
				return list.Users, list.Since
			}
		}
		t.Fatalf("no list of writes: %s", body)
		return nil, time.Time{}
	}
	write := func(path, user string, limited int) {
		t.Helper()
		for range limited {
			expectLimited(t, c.request(put(path, user, online)).to(t, s.URL))
		}
	}

	for user, path := range map[string]string{"alice": ofAlice, "bob": ofBob} {
		if a := c.request(put(path, user, online)).to(t, s.URL); a.status != http.StatusOK {
			t.Fatal(a)
		}
	}
	write(ofBob, "bob", 3)
	write(ofAlice, "alice", 1)
	want := []user{{c.bob.ID, 3, 3}, {c.alice.ID, 1, 1}}
	got, since := written()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}

	if err := s.Reload(t.Context(), config("read_limit 100/1s")); err != nil {
		t.Fatal(err)
	}
	// The old server may still close a connection under a request, which then nobody
	// has acted on, and http.Client doesn't try a PUT again.
	suite.Eventually(t, "an answer after a reload", func() bool {
		a, err := c.request(put(ofBob, "bob", online)).try(t.Context(), s.URL)
		if err != nil {
			return false
		}
		expectLimited(t, a)
		return true
	})
	want[0].AtLeast, want[0].AtMost = 4, 4
	if got, again := written(); !reflect.DeepEqual(got, want) || !again.Equal(since) {
		t.Errorf("after a reload: %v since %v, want %v since %v", got, again, want, since)
	}

	if status, body := admin("POST"); status != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d %s", status, body)
	}
	if status, body := admin("DELETE"); status != http.StatusNoContent {
		t.Errorf("DELETE: %d %s", status, body)
	}
	if got, again := written(); len(got) != 0 || !again.After(since) {
		t.Errorf("after DELETE: %v since %v", got, again)
	}
}
