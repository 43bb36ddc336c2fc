package scripted

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/traffic"
)

// ask sends one request over a real connection.
func ask(t *testing.T, server *httptest.Server, r traffic.Request, status string) (*http.Response, string) {
	t.Helper()
	conn, err := traffic.Dial(t.Context(), server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	resp, body, err := conn.Do(t.Context(), r.Text(traffic.Scripted{}, status))
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func start(t *testing.T, o Options) (*httptest.Server, *homeserver) {
	h := &homeserver{options: o, began: time.Now()}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server, h
}

func TestAnswersAreSynapses(t *testing.T) {
	server, h := start(t, Options{Hidden: true})
	read := traffic.Request{Target: 1, Viewer: traffic.Viewer(0)}

	resp, body := ask(t, server, read, "")
	var got struct {
		Presence string `json:"presence"`
		Ago      int64  `json:"last_active_ago"`
		Status   string `json:"status_msg"`
		Active   *bool  `json:"currently_active"`
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %v", resp.Status, body, err)
	}
	version, active, err := ReadStatus(got.Status)
	if err != nil || version != 0 || got.Presence != "unavailable" || got.Active != nil {
		t.Errorf("%s, %v", body, err)
	}
	if off := time.Since(active) - time.Duration(got.Ago)*time.Millisecond; off < 0 || off > time.Second {
		t.Errorf("last_active_ago is off by %s: %s", off, body)
	}
	if len(body) < 80 || len(body) > 100 {
		t.Errorf("a body of %d bytes is not typical: %s", len(body), body)
	}
	if resp.ContentLength != -1 || resp.Header.Get("Server") != "Synapse/1.160.0" {
		t.Errorf("not like Synapse: %v", resp.Header)
	}

	if resp, body := ask(t, server, traffic.Request{Kind: traffic.Foreign, Target: 1, Viewer: traffic.Viewer(0)}, "x"); resp.StatusCode != http.StatusForbidden {
		t.Errorf("a foreign write: %s: %s", resp.Status, body)
	}
	write := Status(3, time.Now())
	if resp, body := ask(t, server, traffic.Request{Kind: traffic.Write, Target: 1}, write); resp.StatusCode != http.StatusOK {
		t.Errorf("a write: %s: %s", resp.Status, body)
	}
	if _, body = ask(t, server, read, ""); json.Unmarshal([]byte(body), &got) != nil || got.Status != write || got.Active == nil || !*got.Active {
		t.Errorf("after the write: %s", body)
	}

	read.Viewer = traffic.Viewer(1)
	if resp, body := ask(t, server, read, ""); resp.StatusCode != http.StatusForbidden {
		t.Errorf("a hidden target: %s: %s", resp.Status, body)
	}
	if resp, body := ask(t, server, traffic.Request{Kind: traffic.Other}, ""); resp.StatusCode != http.StatusOK {
		t.Errorf("another path: %s: %s", resp.Status, body)
	}
	if got, want := h.counts(), (Counts{Reads: 3, Writes: 2, Other: 1}); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
}

func TestWhoami(t *testing.T) {
	server, h := start(t, Options{})
	for token, want := range map[string]int{traffic.Scripted{}.Token(5): http.StatusOK, "other": http.StatusUnauthorized} {
		req, err := http.NewRequest(http.MethodGet, server.URL+"/_matrix/client/v3/account/whoami", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %s: %s", token, resp.Status, body)
		}
	}
	if got := h.counts().Whoami; got != 2 {
		t.Errorf("counted %d", got)
	}
}

func TestCostIsCPUTime(t *testing.T) {
	h := &homeserver{options: Options{Cost: true}}
	begin := time.Now()
	for range 20 {
		h.spend(readCost)
	}
	if took := time.Since(begin); took < 20*readCost {
		t.Errorf("20 reads took %s", took)
	}
}
