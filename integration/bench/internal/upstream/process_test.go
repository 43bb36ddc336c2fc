package upstream

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/traffic"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The users of the traffic are known, answers are as Synapse's, and the counts are told.
func TestHomeserverKnowsTheTraffic(t *testing.T) {
	server := httptest.NewServer(handler())
	defer server.Close()
	client := wire.Client{Address: server.URL}
	defer client.Close()
	ask := func(r traffic.Request) wire.Reply {
		t.Helper()
		reply, _, err := client.Ask(r.Text(traffic.Scripted{}, "v1 t1700000000000"))
		if err != nil {
			t.Fatal(err)
		}
		return reply
	}
	read := traffic.Request{Target: 1, Viewer: traffic.Viewer(0)}
	if r := ask(read); r.Header.Get("Content-Length") != "" || r.Header.Get("Server") != "Synapse/1.160.0" || len(r.Body) < 80 || len(r.Body) > 100 {
		t.Errorf("not like Synapse: %s with %v", r, r.Header)
	}
	if r := ask(traffic.Request{Kind: traffic.Foreign, Target: 1, Viewer: traffic.Viewer(0)}); r.Status != http.StatusForbidden {
		t.Errorf("a foreign write: %s", r)
	}
	if r := ask(traffic.Request{Kind: traffic.Write, Target: 1}); r.Status != http.StatusOK {
		t.Errorf("a write: %s", r)
	}
	if r := ask(read); !strings.Contains(string(r.Body), `"status_msg":"v1 t1700000000000","currently_active":true`) {
		t.Errorf("after the write: %s", r)
	}
	if r := ask(traffic.Request{Kind: traffic.Other}); r.Status != http.StatusOK {
		t.Errorf("another path: %s", r)
	}
	for kind, size := range map[traffic.Kind]int{traffic.Sync: 16 << 10, traffic.Members: 700 << 10} {
		r := ask(traffic.Request{Kind: kind, Target: 7, Viewer: traffic.Viewer(0)})
		if r.Status != http.StatusOK || len(r.Body) < size || len(r.Body) > 2*size || !json.Valid(r.Body) || !strings.Contains(string(r.Body), "@user") {
			t.Errorf("what passes by: %d, %d bytes", r.Status, len(r.Body))
		}
	}

	resp, err := http.Get(server.URL + countsPath)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var counts Counts
	if err := json.NewDecoder(resp.Body).Decode(&counts); err != nil {
		t.Fatal(err)
	}
	if counts[scripted.Read] != 2 || counts[scripted.Write] != 2 || counts.All() != 7 || counts.Since(counts).All() != 0 {
		t.Errorf("counted %v", counts)
	}
	http.DefaultClient.CloseIdleConnections()
}
