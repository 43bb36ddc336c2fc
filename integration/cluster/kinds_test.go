package cluster

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/process"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/protocol"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/redisserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// freePort returns the port of a free address.
func freePort(t *testing.T) string {
	t.Helper()
	addresses, err := process.FreeAddresses(1)
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(addresses[0])
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// wantOne fails the test unless the nodes are one: a write through each is seen through the other.
func (w *world) wantOne(first int64) {
	w.Helper()
	w.together(2)
	alice, bob := w.hs.Login("@alice:hs"), w.hs.Login("@bob:hs")
	for version := first; version < first+4; version++ {
		if status, answer, _, err := do(w.Context(), w.nodes[version%2], http.MethodPut, alice, "@alice:hs", bodyOf(version)); err != nil || status != http.StatusOK {
			w.Fatalf("a write: %d %s, %v", status, answer, err)
		}
		if _, answer, _, err := do(w.Context(), w.nodes[(version+1)%2], http.MethodGet, bob, "@alice:hs", ""); err != nil || !strings.Contains(answer, scripted.Status(version)) {
			w.Errorf("after a write of %d through one node the other shows %s, %v", version, answer, err)
		}
	}
}

func TestRedisOverTLS(t *testing.T) {
	certificate, key, err := protocol.WriteCertificate(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	w := newWorld(t, "--tls-port", port, "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", certificate, "--tls-auth-clients", "no")
	w.address = "127.0.0.1:" + port
	secure := fmt.Sprintf("tls {\nca %s\n}", certificate)
	w.begin(secret, "write_limit off", secure)
	w.begin(secret, "write_limit off", secure)
	w.wantOne(1)

	// Whoever isn't vouched for isn't believed, and isn't told the password.
	stranger := w.begin(secret, "", "tls {\n}") // which has the system's authorities
	suite.Eventually(t, "it says why", func() bool { return strings.Contains(stranger.Log(), "certificate") })
	if w.metric(stranger, "cluster_up") != 0 {
		t.Error("it takes part")
	}
}

// A cluster of one server, which has all slots.
func TestRedisCluster(t *testing.T) {
	w := newWorld(t, "--cluster-enabled", "yes", "--cluster-port", freePort(t), "--cluster-config-file", filepath.Join(t.TempDir(), "nodes.conf"))
	w.redis.Do("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
	suite.Eventually(t, "the cluster is there", func() bool { return strings.Contains(w.redis.Do("CLUSTER", "INFO"), "cluster_state:ok") })
	w.address = w.redis.Address // it says itself where it is
	w.permitMore("+cluster|slots")
	w.begin(secret, "write_limit off", "cluster")
	w.begin(secret, "write_limit off", "cluster")
	w.wantOne(1)
}

// The replica takes over by itself, and nobody gets an error meanwhile.
func TestSentinels(t *testing.T) {
	w := newWorld(t)
	w.timeout = briefly
	replica := redisserver.Start(t, redisserver.Redis)
	w.permit(replica)
	replica.Follow(w.redis)
	w.address = redisserver.Watch(t, "presence", w.redis)
	w.begin(secret, "write_limit off\nread_limit off", "sentinel presence")
	w.begin(secret, "write_limit off\nread_limit off", "sentinel presence")
	w.wantOne(1)
	stop := w.load(4)
	w.redis.Kill()
	for _, node := range w.nodes {
		suite.Eventually(t, "it is noticed", func() bool { return len(lines(node, lost)) > 0 })
	}
	for _, node := range w.nodes {
		suite.Eventually(t, "the replica has taken over", func() bool { return w.metric(node, "cluster_up") == 1 })
	}
	if requests, errors := stop(); errors > 0 {
		t.Errorf("%d of %d requests got an error", errors, requests)
	}
	w.wantOne(1_000_000)
}

// permitMore gives the page's user what a kind of servers needs besides.
func (w *world) permitMore(rules ...string) {
	w.Helper()
	page, err := os.ReadFile("../../docs/cluster.md")
	if err != nil {
		w.Fatal(err)
	}
	for _, rule := range rules {
		if !strings.Contains(string(page), "`"+rule+"`") {
			w.Errorf("the page doesn't tell of %s", rule)
		}
	}
	w.redis.Do(append([]string{"ACL", "SETUSER", "presence"}, rules...)...)
}
