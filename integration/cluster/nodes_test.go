package cluster

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/redisserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

const secret = "0123456789abcdef0123456789abcdef"

// world is a homeserver, a Redis, the network to it, and nodes.
type world struct {
	*testing.T
	hs      *scripted.Homeserver
	redis   *redisserver.Server
	network *redisserver.Relay
	address string // that nodes are told: the network's, unless a test says another
	timeout string // of a call to Redis: so long that a busy machine makes none of trouble, unless a test makes some
	nodes   []*sidecar.Sidecar
}

// briefly is the timeout of tests in which Redis is to be gone soon.
const briefly = "500ms"

// newWorld starts all but nodes. Redis gets these arguments too.
func newWorld(t *testing.T, args ...string) *world {
	t.Helper()
	w := &world{T: t, timeout: "10s", hs: scripted.New(scripted.Options{Ordered: true}), redis: redisserver.Start(t, redisserver.Redis, args...)}
	if err := w.hs.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		if err := w.hs.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	w.network = redisserver.NewRelay(t, w.redis.Address)
	w.address = w.network.Address
	w.permit(w.redis)
	return w
}

// permit gives a server the user that the page tells, and takes all from everybody else.
func (w *world) permit(server *redisserver.Server) {
	w.Helper()
	page, err := os.ReadFile("../../docs/cluster.md")
	if err != nil {
		w.Fatal(err)
	}
	rule := regexp.MustCompile(`(?m)^ACL SETUSER presence .*$`).FindString(string(page))
	server.Do(strings.Fields(strings.ReplaceAll(rule, ">PASSWORD", ">presence-password"))...)
}

// caddyfile is a node's. What is left to say of the site and of the cluster is given.
func (w *world) caddyfile(secret, site, cluster string) string {
	return fmt.Sprintf(`{
	admin {$ADMIN}
}
http://{$LISTEN} {
	bind 127.0.0.1
	matrix_presence {
		cache {
			name example.com
		}
		%s
		cluster redis {
			address %s
			username presence
			password presence-password
			secret %s
			timeout %s
			%s
		}
	}
	reverse_proxy %s
}
`, site, w.address, secret, w.timeout, cluster, strings.TrimPrefix(w.hs.URL(), "http://"))
}

// begin starts a node.
func (w *world) begin(secret, site, cluster string) *sidecar.Sidecar {
	w.Helper()
	node := suite.Sidecar(w.T)(sidecar.StartCaddyfile(w.Context(), w.caddyfile(secret, site, cluster)))
	w.nodes = append(w.nodes, node)
	return node
}

// ends has a node end as a service manager does, which delivers what waits there.
func (w *world) ends(node *sidecar.Sidecar) {
	w.Helper()
	if err := node.Signal(syscall.SIGTERM); err != nil {
		w.Fatal(err)
	}
	suite.Eventually(w, "the node ends", func() bool { return !node.Running() })
}

// lines are those of a node's log with a text in them.
func lines(node *sidecar.Sidecar, text string) (found []string) {
	for line := range strings.Lines(node.Log()) {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

// lost is what a node says when Redis is gone.
const lost = "the cluster's log can't be reached"

// metric returns the value of a metric of a node, of all its labels or of those with a text in them.
func (w *world) metric(node *sidecar.Sidecar, name string, labels ...string) (value float64) {
	w.Helper()
	text, err := node.AskAdmin(w.Context(), http.MethodGet, "/metrics", "")
	if err != nil {
		w.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "caddy_matrix_presence_"+name+"{") && strings.Contains(line, strings.Join(labels, ",")) {
			var one float64
			fmt.Sscan(line[strings.LastIndexByte(line, ' '):], &one)
			value += one
		}
	}
	return value
}

// together waits until so many nodes are one.
func (w *world) together(n int) {
	w.Helper()
	for _, node := range w.nodes[len(w.nodes)-n:] {
		suite.Eventually(w, "the nodes are one", func() bool {
			return w.metric(node, "cluster_up") == 1 && int(w.metric(node, "cluster_nodes")) == n
		})
	}
}

// do sends a request about a user's presence to a node.
func do(ctx context.Context, node *sidecar.Sidecar, method, token, user, body string) (status int, answer, cacheStatus string, err error) {
	r, err := http.NewRequestWithContext(ctx, method, node.URL+"/_matrix/client/v3/presence/"+user+"/status", strings.NewReader(body))
	if err != nil {
		return 0, "", "", err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, "", "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), resp.Header.Get("Cache-Status"), err
}

func bodyOf(version int64) string {
	return fmt.Sprintf(`{"presence":"online","status_msg":%q}`, scripted.Status(version))
}

func TestTwoNodesAreOne(t *testing.T) {
	w := newWorld(t)
	a, b := w.begin(secret, "write_limit 6/1h burst 5", ""), w.begin(secret, "write_limit 6/1h burst 5", "")
	w.together(2)
	alice, bob := w.hs.Login("@alice:hs"), w.hs.Login("@bob:hs")
	passed := 0
	for version := int64(1); version <= 8; version++ {
		status, answer, _, err := do(t.Context(), w.nodes[version%2], http.MethodPut, alice, "@alice:hs", bodyOf(version))
		if err != nil || status != 200 && status != 429 {
			t.Fatalf("a write: %d %s, %v", status, answer, err)
		}
		if status == 200 {
			passed++
			if _, answer, _, err := do(t.Context(), w.nodes[(version+1)%2], http.MethodGet, bob, "@alice:hs", ""); err != nil || !strings.Contains(answer, scripted.Status(version)) {
				t.Errorf("after a write of %d through one node the other shows %s, %v", version, answer, err)
			}
		}
	}
	if passed != 5 {
		t.Errorf("%d writes passed two nodes with a burst of 5", passed)
	}
	for _, node := range []*sidecar.Sidecar{a, b} {
		for _, said := range []string{secret, "presence-password", alice} {
			if strings.Contains(node.Log(), said) {
				t.Errorf("the log has %s", said)
			}
		}
	}
}

// load has users write and read through all nodes that are there, and returns what ends it and tells how often
// a client got an error.
func (w *world) load(users int) (stop func() (requests, errors int64)) {
	ctx, cancel := context.WithCancel(w.Context())
	var running sync.WaitGroup
	var requests, errors atomic.Int64
	for n := range users {
		user := fmt.Sprintf("@user%d:hs", n)
		token := w.hs.Login(user)
		running.Go(func() {
			for version := int64(1); ctx.Err() == nil; version++ {
				for i, node := range w.nodes {
					method, body := http.MethodGet, ""
					if i == int(version)%len(w.nodes) && version%5 == 0 {
						method, body = http.MethodPut, bodyOf(version)
					}
					requests.Add(1)
					status, answer, _, err := do(context.WithoutCancel(ctx), node, method, token, user, body)
					if err != nil || status != 200 {
						errors.Add(1)
						w.Logf("%s: %d %s, %v", method, status, answer, err)
					}
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	return func() (int64, int64) {
		cancel()
		running.Wait()
		return requests.Load(), errors.Load()
	}
}

// TestClientsNoticeNothingOfRedis: it is killed and started anew, stands still, and another takes over.
func TestClientsNoticeNothingOfRedis(t *testing.T) {
	w := newWorld(t)
	w.timeout = briefly
	w.begin(secret, "write_limit off\nread_limit off", "outage stale 2s")
	w.begin(secret, "write_limit off\nread_limit off", "outage fresh")
	w.together(2)
	stop := w.load(8)
	down := func(up float64) {
		t.Helper()
		for _, node := range w.nodes {
			suite.Eventually(t, "it is noticed", func() bool { return w.metric(node, "cluster_up") == up })
		}
	}
	transitions := 0
	for _, trouble := range []struct{ begin, end func() }{
		{w.redis.Kill, func() { w.redis.Restart(); w.permit(w.redis) }},
		{w.redis.Pause, func() { time.Sleep(suite.BySize(3*time.Second, 30*time.Second)); w.redis.Resume() }},
		{w.redis.Kill, func() {
			other := redisserver.Start(t, redisserver.Redis)
			w.permit(other)
			w.network.LeadTo(other.Address)
		}},
	} {
		trouble.begin()
		down(0)
		trouble.end()
		down(1)
		transitions++
	}

	requests, errors := stop()
	t.Logf("%d requests, %d errors", requests, errors)
	if errors > 0 || requests < 100 {
		t.Errorf("%d of %d requests got an error", errors, requests)
	}
	for i, node := range w.nodes {
		// On a busy machine it may be gone once more. Each loss, and each return, is one line.
		said := lines(node, "the cluster's log can")
		for n := 1; n < len(said); n++ {
			if strings.Contains(said[n], lost) == strings.Contains(said[n-1], lost) {
				t.Errorf("node %d says twice the same:\n%s", i, strings.Join(said, ""))
				break
			}
		}
		if len(said) < 2*transitions+1 {
			t.Errorf("node %d says %d times whether it can be reached, of %d transitions", i, len(said), transitions)
		}
		if w.metric(node, "cluster_flushes_total") < 3 {
			t.Errorf("node %d dropped nothing", i)
		}
	}
}

// TestServerThatTakesNoWrites: whatever keeps Redis from taking any, it counts as gone, and one line says why. What can be read
// there isn't believed, and nobody gets an error.
func TestServerThatTakesNoWrites(t *testing.T) {
	w := newWorld(t)
	for range 2 {
		w.begin(secret, "write_limit off\nread_limit off", "")
	}
	w.wantOne(1)
	stop := w.load(4)
	for says, trouble := range map[string][2]string{
		"OOM":        {"CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"},
		"NOREPLICAS": {"CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"},
		"READONLY":   {"REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"},
		"can't run":  {"ACL SETUSER presence -zadd", "ACL SETUSER presence +zadd"}, // from a script
	} {
		w.redis.Do(strings.Fields(trouble[0])...)
		for _, node := range w.nodes {
			suite.Eventually(t, "it says "+says, func() bool {
				return slices.ContainsFunc(lines(node, lost), func(line string) bool { return strings.Contains(line, says) })
			})
		}
		w.redis.Do(strings.Fields(trouble[1])...)
		for _, node := range w.nodes {
			suite.Eventually(t, "it is back after "+says, func() bool { return w.metric(node, "cluster_up") == 1 })
		}
	}
	if requests, errors := stop(); errors > 0 {
		t.Errorf("%d of %d requests got an error", errors, requests)
	}
	for i, node := range w.nodes {
		// An answer from just before may come after the first refusals: then it counts as back for a moment.
		if n := len(lines(node, lost)); n < 4 {
			t.Errorf("node %d says %d times that the log can't be reached:\n%s", i, n, strings.Join(lines(node, "the cluster's log"), ""))
		}
		if w.metric(node, "cluster_flushes_total", `reason="promotion"`) == 0 {
			t.Errorf("node %d believes a server that was a replica meanwhile", i)
		}
	}
	w.wantOne(1_000_000)
}

// TestNodeIsKilled: what its clients were told is so, and the other node goes on as if nothing were.
func TestNodeIsKilled(t *testing.T) {
	w := newWorld(t)
	killed := w.begin(secret, "write_limit off", "")
	left := w.begin(secret, "write_limit off", "")
	w.together(2)
	const users = 8
	var acknowledged [users]atomic.Int64
	var running sync.WaitGroup
	for n := range users {
		user := fmt.Sprintf("@user%d:hs", n)
		token := w.hs.Login(user)
		running.Go(func() {
			for version := int64(1); ; version++ {
				status, _, _, err := do(t.Context(), killed, http.MethodPut, token, user, bodyOf(version))
				if err != nil {
					return // it is gone
				}
				if status == 200 {
					acknowledged[n].Store(version)
				}
			}
		})
	}
	suite.Eventually(t, "all have written", func() bool {
		for n := range users {
			if acknowledged[n].Load() < 20 {
				return false
			}
		}
		return true
	})
	if err := killed.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	running.Wait()
	bob := w.hs.Login("@bob:hs")
	for n := range users {
		user := fmt.Sprintf("@user%d:hs", n)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // nobody waits for the dead
		_, answer, _, err := do(ctx, left, http.MethodGet, bob, user, "")
		cancel()
		var shown int64
		if i := strings.Index(answer, `"v`); i >= 0 {
			fmt.Sscanf(answer[i+2:], "%d", &shown)
		}
		if err != nil || shown < acknowledged[n].Load() {
			t.Errorf("%s was told that %d is written; the other node shows %s, %v", user, acknowledged[n].Load(), answer, err)
		}
	}
	suite.Eventually(t, "the one that is left says that it is alone", func() bool {
		return len(lines(left, "nodes of the cluster aren't heard of any more")) > 0 && w.metric(left, "cluster_nodes") == 1
	})
}

// TestNodeIsKilledWithWritesThatWait: those that wait in it are lost, each of them and none else, and nobody waits for them.
func TestNodeIsKilledWithWritesThatWait(t *testing.T) {
	w := newWorld(t)
	const site = "homeserver synapse\nwrite_limit 1/10m burst 1\nover_limit coalesce\ncoalesce {\nmax_age 1h\n}" // longer than any test
	killed, left := w.begin(secret, site, ""), w.begin(secret, site, "")
	w.together(2)
	const users = 12
	write := func(node *sidecar.Sidecar, user, token string, version int64, how string) {
		t.Helper()
		status, answer, cacheStatus, err := do(t.Context(), node, http.MethodPut, token, user, bodyOf(version))
		if err != nil || status != 200 || !strings.Contains(cacheStatus, how) {
			t.Errorf("a write: %d %s, %q, %v", status, answer, cacheStatus, err)
		}
	}
	user := func(n int) string { return fmt.Sprintf("@user%d:hs", n) }
	tokens := make([]string, users)
	for n := range users {
		tokens[n] = w.hs.Login(user(n))
		write(w.nodes[n%2], user(n), tokens[n], 1, "fwd=method")
		write(w.nodes[n%2], user(n), tokens[n], 2, "detail=coalesced")
	}
	for n := 0; n < users; n += 4 { // of every other one of those of the node that is to be killed the other node has a newer one
		write(left, user(n), tokens[n], 3, "detail=coalesced")
	}
	if err := killed.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.ends(left) // which delivers what waits there
	lost := 0
	for n := range users {
		want := int64(2)
		switch {
		case n%4 == 0:
			want = 3
		case n%2 == 0:
			want, lost = 1, lost+1
		}
		if version := w.hs.State(user(n)).Version; version != want {
			t.Errorf("%s has version %d, want %d", user(n), version, want)
		}
	}
	t.Logf("of %d writes that were acknowledged %d were lost, all of which waited in the node that was killed", 2*users+users/4, lost)
}

// A node that may not take part says why, in one line, and goes on alone.
func TestNodeOfAnotherSecretOrFormatGoesOnAlone(t *testing.T) {
	w := newWorld(t)
	w.begin(secret, "", "")
	w.together(1)
	w.goesOnAlone(w.begin("x"+secret, "", ""), "it has another secret: give all nodes the same")
	if w.metric(w.nodes[0], "cluster_nodes") != 1 {
		t.Error("it takes part")
	}
	w.redis.Do("SET", "{mp:example.com}:id", "2 of a later version")
	w.goesOnAlone(w.begin(secret, "", ""), "its log has format 2 and not 1: upgrade all nodes")
}

// goesOnAlone fails the test unless a node says why it doesn't take part, and answers.
func (w *world) goesOnAlone(other *sidecar.Sidecar, why string) {
	w.Helper()
	suite.Eventually(w, "it says why", func() bool { return strings.Contains(other.Log(), why) })
	alice := w.hs.Login("@alice:hs")
	for _, method := range []string{http.MethodPut, http.MethodGet} {
		body := ""
		if method == http.MethodPut {
			body = bodyOf(1)
		}
		if status, answer, _, err := do(w.Context(), other, method, alice, "@alice:hs", body); err != nil || status != 200 {
			w.Errorf("%s through it: %d %s, %v", method, status, answer, err)
		}
	}
	if n := len(lines(other, lost)); w.metric(other, "cluster_up") != 0 || n != 1 {
		w.Errorf("it takes part, or says %d times that it doesn't", n)
	}
}

func TestServerThatDropsBudgetsIsWarnedOf(t *testing.T) {
	w := newWorld(t)
	w.redis.Do("CONFIG", "SET", "maxmemory", "100mb")
	w.redis.Do("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
	node := w.begin(secret, "", "")
	suite.Eventually(t, "it is said", func() bool { return strings.Contains(node.Log(), "set maxmemory-policy to noeviction or volatile-ttl") })
	w.together(1)
	if n := strings.Count(node.Log(), "maxmemory-policy is allkeys-lru"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
}

// TestNodeGoesOnOverAReload: it is the same one if nothing of its cluster has changed.
func TestNodeGoesOnOverAReload(t *testing.T) {
	w := newWorld(t)
	node := w.begin(secret, "", "")
	w.together(1)
	for _, site := range []string{"write_limit 6/1h", "write_limit 7/1h"} {
		if err := node.Reload(t.Context(), w.caddyfile(secret, site, "")); err != nil {
			t.Fatal(err)
		}
	}
	joined := func() float64 { return w.metric(node, "cluster_flushes_total", `reason="joined"`) }
	if n := joined(); n != 1 || w.metric(node, "cluster_up") != 1 {
		t.Errorf("after two reloads it has joined %v times", n)
	}
	if err := node.Reload(t.Context(), w.caddyfile(secret, "", "outage fresh")); err != nil {
		t.Fatal(err)
	}
	suite.Eventually(t, "it has joined again", func() bool { return joined() == 2 && w.metric(node, "cluster_up") == 1 })
}
