package plan

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/plan"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/scripted"
)

// run runs presence-plan.
func run(t *testing.T, args ...string) (out, problem string, code int) {
	t.Helper()
	stdout, stderr, code, err := sidecar.Command(t.Context(), t.TempDir(), append([]string{"presence-plan"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return stdout, stderr, code
}

func write(t *testing.T, name, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestThePlanIsATableOrJSON(t *testing.T) {
	load := write(t, "load.json", `{"users": 100, "rooms": [{"per_user": 2, "size": 10}], "poll": "20s"}`)
	out, problem, code := run(t, "--load", load, "--profile", "busy")
	if code != 0 || !strings.Contains(out, "with busy") || problem != "" {
		t.Errorf("exit code %d\n%s%s", code, out, problem)
	}
	// Flags come before the file.
	out, problem, code = run(t, "--load", load, "--users", "60", "--poll", "10s", "--homeserver", "dendrite", "--cost", "read=2", "--json")
	var a plan.Answer
	if err := json.Unmarshal([]byte(out), &a); err != nil || code != 0 {
		t.Fatalf("exit code %d, %v\n%s%s", code, err, out, problem)
	}
	if a.Load.Users != 60 || len(a.Load.Rooms) != 1 || a.Homeserver != "dendrite" || a.With.Middle() >= a.Without.Middle() {
		t.Errorf("%s", out)
	}
}

// The smallest server has one user, who has nobody to look at.
func TestThePlanIsOfAServerOfAnySize(t *testing.T) {
	for _, users := range []string{"1", "2", "30"} {
		if out, problem, code := run(t, "--users", users, "--online", "1"); code != 0 || !strings.Contains(out, "presence requests/s") {
			t.Errorf("%s users: exit code %d\n%s%s", users, code, out, problem)
		}
	}
}

// The options that apply are those of the configuration.
func TestThePlanIsOfAConfiguration(t *testing.T) {
	config := write(t, "Caddyfile", "http://:8009 {\n\tmatrix_presence {\n\t\tcache {\n\t\t\tttl 5m\n\t\t\tstates 77\n\t\t}\n\t\tpreflight local\n\t}\n\treverse_proxy localhost:8008\n}\n")
	out, problem, code := run(t, "--users", "50", "--rooms", "2x10", "--config", config, "--json")
	var a plan.Answer
	if err := json.Unmarshal([]byte(out), &a); err != nil || code != 0 {
		t.Fatalf("exit code %d, %v\n%s%s", code, err, out, problem)
	}
	if a.Profile != "configuration" || a.Tables[0].Size != 77 || a.Outcomes["preflight"]["hit"].High == 0 {
		t.Errorf("%s", out)
	}
}

func TestThePlanRefusesWhatCannotBe(t *testing.T) {
	for _, tt := range []struct {
		args []string
		says string
	}{
		{nil, "--users is required"},
		{[]string{"--users", "0"}, "1 to 10000000"},
		{[]string{"--users", "10000001"}, "1 to 10000000"},
		{[]string{"--users", "100", "--rooms", "many"}, "--rooms"},
		{[]string{"--users", "100", "--rooms", "1x500"}, "larger than the server"},
		{[]string{"--users", "100", "--online", "20"}, "online"},
		{[]string{"--users", "100", "--sync-every", "0s"}, "sync_every"},
		{[]string{"--users", "100", "--bridge", "500"}, "--bridge"},
		{[]string{"--users", "100", "--ttl", "0s"}, "--ttl"},
		{[]string{"--users", "100", "--states", "0"}, "--states"},
		{[]string{"--users", "100", "--profile", "large"}, "default or busy"},
		{[]string{"--users", "100", "--profile", "busy", "--config", "Caddyfile"}, "give one"},
		{[]string{"--users", "100", "--config", write(t, "Caddyfile", ":8009 {\n\trespond hello\n}\n")}, "no site with matrix_presence"},
		{[]string{"--users", "100", "--homeserver", "conduit"}, "synapse and dendrite"},
		{[]string{"--users", "100", "--nodes", "0"}, "nodes"},
		{[]string{"--users", "100", "--cost", "reed=1"}, "--cost"},
		{[]string{"--load", "nowhere.json"}, "--load"},
		{[]string{"--load", write(t, "load.json", "users: 100")}, "JSON object"},
	} {
		out, problem, code := run(t, tt.args...)
		if code == 0 || out != "" || !strings.Contains(problem, tt.says) {
			t.Errorf("%q: exit code %d, want something about %q\n%s%s", tt.args, code, tt.says, out, problem)
		}
	}
}

// logOf is an access log of Caddy: clients who look at a user each ten seconds, for so many minutes.
func logOf(minutes int) string {
	var b strings.Builder
	for i := range minutes * 6 {
		for client := range 3 {
			fmt.Fprintf(&b, `{"ts":%d.5,"request":{"client_ip":"192.0.2.%d","method":"GET","uri":"/_matrix/client/v3/presence/%%40alice:hs/status","headers":{}},"duration":0.002,"status":200}`+"\n",
				1_700_000_000+10*i+client, client)
		}
	}
	return b.String()
}

func TestThePlanIsOfALog(t *testing.T) {
	log := write(t, "access.log", "not a line\n"+logOf(3))
	out, problem, code := run(t, "--from", log, "--profile", "busy", "--json")
	var a plan.Answer
	if err := json.Unmarshal([]byte(out), &a); err != nil || code != 0 {
		t.Fatalf("exit code %d, %v\n%s%s", code, err, out, problem)
	}
	if a.Log == nil || a.Log.Used != 54 || a.Log.Bad != 1 || a.HitRatio.High < 0.6 {
		t.Errorf("%s", out)
	}
}

// The metrics are those that a running instance has.
func TestThePlanIsOfARunningInstance(t *testing.T) {
	hs := scripted.New()
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { hs.ServeHTTP(w, r) }))
	t.Cleanup(upstream.Close)
	s := suite.Sidecar(t)(sidecar.StartCaddyfile(t.Context(), `{
	admin {$ADMIN}
}
http://{$LISTEN} {
	bind 127.0.0.1
	matrix_presence {
		mode observe
	}
	reverse_proxy `+upstream.URL+`
}
`))
	for range 600 {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/_matrix/client/v3/presence/"+scripted.Alice+"/status", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer alice-token")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	out, problem, code := run(t, "--from", "http://"+s.Admin+"/metrics", "--over", "1m", "--users", "40", "--rooms", "2x10", "--json")
	var a plan.Answer
	if err := json.Unmarshal([]byte(out), &a); err != nil || code != 0 {
		t.Fatalf("exit code %d, %v\n%s%s", code, err, out, problem)
	}
	if a.Source != "metrics page" || a.Load.Poll == 0 || a.Clients["read"].High == 0 {
		t.Errorf("%s", out)
	}
}

func TestThePlanRefusesWhatIsNoSource(t *testing.T) {
	log := write(t, "access.log", logOf(3))
	for _, tt := range []struct {
		args []string
		says string
	}{
		{[]string{"--from", write(t, "empty", "")}, "it is empty"},
		{[]string{"--from", t.TempDir()}, "is a directory"},
		{[]string{"--from", write(t, "access.log.gz", "\x1f\x8b\x08\x00"), "--users", "100"}, "zcat"},
		{[]string{"--from", write(t, "access.log.zst", "\x28\xb5\x2f\xfd"), "--users", "100"}, "zstdcat"},
		{[]string{"--from", "", "--users", "100"}, "expected a file"},
		{[]string{"--users", "100", "--over", "1h"}, "give --from too"},
		{[]string{"--users", "100", log}, "unexpected argument"},
		{[]string{"--from", write(t, "syslog", "Nov 28 host sshd[1]: hello\n")}, "Caddy's in JSON"},
		{[]string{"--from", write(t, "metrics", "# TYPE up gauge\nup 1\n")}, "such as up"},
		{[]string{"--from", "nowhere.log"}, "no such file"},
		{[]string{"--from", "http://127.0.0.1:1/metrics"}, "refused"},
		{[]string{"--from", log, "--users", "100"}, "leave --users out"},
		{[]string{"--from", log, "--poll", "10s"}, "leave --poll out"},
	} {
		out, problem, code := run(t, tt.args...)
		if code == 0 || out != "" || !strings.Contains(problem, tt.says) {
			t.Errorf("%q: exit code %d, want something about %q\n%s%s", tt.args, code, tt.says, out, problem)
		}
	}
}
