package redisserver

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/process"
)

// Watch starts a sentinel that watches a primary under a name, and has a replica of it take over half a second after it was
// last heard of. It returns the sentinel's address.
func Watch(t testing.TB, name string, primary *Server) (address string) {
	t.Helper()
	addresses, err := process.FreeAddresses(1)
	if err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(addresses[0])
	of, at, _ := net.SplitHostPort(primary.Address)
	dir := t.TempDir()
	config := filepath.Join(dir, "sentinel.conf") // which it writes to
	text := fmt.Sprintf("bind %s\nport %s\ndir %s\nsentinel monitor %[4]s %s %s 1\nsentinel down-after-milliseconds %[4]s 500\nsentinel failover-timeout %[4]s 3000\n",
		host, port, dir, name, of, at)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	program, err := Redis.Command(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	p, err := process.Start("sentinel", program(config, "--sentinel"), filepath.Join(dir, "sentinel.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		// It has to know the replica.
		if answer, err := ask(addresses[0], "SENTINEL", "REPLICAS", name); err == nil && strings.Contains(answer, "master-link-status\r\n$2\r\nok") {
			return addresses[0]
		}
	}
	t.Fatalf("the sentinel doesn't find the replica:\n%s", process.Tail(p.Log, 20))
	return ""
}
