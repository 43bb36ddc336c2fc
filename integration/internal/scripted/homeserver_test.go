package scripted_test

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	alice = "@alice:example.com"
	bob   = "@bob:example.com"
)

var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// start runs a homeserver for one test.
func start(t *testing.T, o scripted.Options) *scripted.Homeserver {
	t.Helper()
	hs := scripted.New(o)
	if err := hs.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hs.Cut)
	return hs
}

// ask sends a request. The status is 0 if there was no answer.
func ask(t *testing.T, hs *scripted.Homeserver, method, path, token, body string) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, hs.URL()+"/_matrix/client/v3/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set(scripted.Label, "test")
	resp, err := client.Do(req)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, ""
	}
	return resp.StatusCode, string(text)
}

func status(userID string) string { return "presence/" + url.PathEscape(userID) + "/status" }

func TestRoutes(t *testing.T) {
	hs := start(t, scripted.Options{
		Appservice: "bridge", Ordered: true,
		Hidden: func(viewer, target string) bool { return viewer == bob && target == alice },
	})
	a, b := hs.Login(alice), hs.Login(bob)
	for _, c := range []struct {
		name, method, path, token, body string
		status                          int
		contains                        string
	}{
		{"read before any write", "GET", status(alice), a, "", 200, `"status_msg":"v0"`},
		{"write", "PUT", status(alice), a, `{"presence":"online","status_msg":"v2"}`, 200, `{}`},
		{"a write that comes too late", "PUT", status(alice), a, `{"presence":"online","status_msg":"v1"}`, 200, `{}`},
		{"read", "GET", status(alice), a, "", 200, `"status_msg":"v2"`},
		{"read of somebody hidden", "GET", status(alice), b, "", 403, "M_FORBIDDEN"},
		{"foreign write", "PUT", status(alice), b, `{"presence":"online","status_msg":"v3"}`, 403, "M_FORBIDDEN"},
		{"unknown token", "GET", status(alice), "nonsense", "", 401, "M_UNKNOWN_TOKEN"},
		{"whoami", "GET", "account/whoami", b, "", 200, bob},
		{"whoami of an appservice", "GET", "account/whoami?user_id=" + url.QueryEscape(bob), "bridge", "", 200, bob},
		{"something else", "POST", "rooms/x/send", a, "body", 200, "body"},
		{"login", "POST", "login", "", `{"user":"@carol:example.com"}`, 200, "access_token"},
		{"logout", "POST", "logout", a, "", 200, `{}`},
		{"read after the logout", "GET", status(alice), a, "", 401, "M_UNKNOWN_TOKEN"},
	} {
		got, text := ask(t, hs, c.method, c.path, c.token, c.body)
		if got != c.status || !strings.Contains(text, c.contains) {
			t.Errorf("%s: got %d %s, want %d with %s", c.name, got, text, c.status, c.contains)
		}
	}
	want := map[scripted.Route]int{scripted.Read: 5, scripted.Write: 3, scripted.WhoAmI: 2, scripted.Other: 1, scripted.Login: 1, scripted.Logout: 1}
	for route, n := range want {
		if got := hs.Counts()[scripted.Key{Route: route, Label: "test"}]; got.Answered() != n {
			t.Errorf("%s was counted %+v times, want %d", route, got, n)
		}
	}
}

// waitFor polls until a gate holds so many.
func waitFor(t *testing.T, gate *scripted.Gate, n int) {
	t.Helper()
	for gate.Waiting() < n {
		select {
		case <-t.Context().Done():
			t.Fatal("nobody came")
		case <-time.After(time.Millisecond):
		}
	}
}

func all(*http.Request) bool { return true }

func TestCutBreaksOffWhatIsUnderWayAndCountsIt(t *testing.T) {
	hs := start(t, scripted.Options{Ordered: true})
	a := hs.Login(alice)
	if got, _ := ask(t, hs, "GET", status(alice), a, ""); got != 200 {
		t.Fatalf("got %d", got)
	}
	gate := hs.Hold(all)
	answered := make(chan int)
	go func() {
		got, _ := ask(t, hs, "PUT", status(alice), a, `{"presence":"online","status_msg":"v1"}`)
		answered <- got
	}()
	waitFor(t, gate, 1)
	address := hs.URL()
	hs.Cut()
	if got := <-answered; got != 0 {
		t.Errorf("a request that was cut got %d", got)
	}
	gate.Open()
	if err := hs.Start(); err != nil {
		t.Fatal(err)
	}
	if got, _ := ask(t, hs, "GET", status(alice), a, ""); got != 200 || hs.URL() != address {
		t.Errorf("started again at %s, was %s: got %d", hs.URL(), address, got)
	}
	if got := hs.Count(scripted.Write); got != (scripted.Tally{Asked: 1, Cut: 1}) {
		t.Errorf("writes: %+v", got)
	}
	if got := hs.Count(scripted.Read); got != (scripted.Tally{Asked: 2}) {
		t.Errorf("reads: %+v", got)
	}
}

func TestStopAnswersWhatHasCome(t *testing.T) {
	hs := start(t, scripted.Options{Ordered: true})
	a := hs.Login(alice)
	gate := hs.Hold(all)
	answered := make(chan int)
	go func() {
		got, _ := ask(t, hs, "GET", status(alice), a, "")
		answered <- got
	}()
	waitFor(t, gate, 1)
	stopped := make(chan error)
	go func() { stopped <- hs.Stop(t.Context()) }()
	gate.Open()
	if got := <-answered; got != 200 {
		t.Errorf("got %d", got)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if got, _ := ask(t, hs, "GET", status(alice), a, ""); got != 0 {
		t.Errorf("after the stop: got %d", got)
	}
}
