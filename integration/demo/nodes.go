package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/process"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/redisserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

// nodes are two sidecars before one homeserver, and the Redis that they share.
type nodes struct {
	a, b  *sidecar.Sidecar
	redis *process.Process
	start func() (*process.Process, error)
	dir   string
}

// startNodes starts all of them.
func startNodes(ctx context.Context, s *stage) (_ *nodes, err error) {
	n := new(nodes)
	defer func() {
		if err != nil {
			n.stop()
		}
	}()
	program, err := redisserver.Redis.Command(ctx)
	if err != nil {
		return nil, err
	}
	if n.dir, err = os.MkdirTemp("", "presence-demo-"); err != nil {
		return nil, err
	}
	addresses, err := process.FreeAddresses(1)
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(addresses[0])
	if err != nil {
		return nil, err
	}
	n.start = func() (*process.Process, error) {
		return process.Start("redis", program("--bind", host, "--port", port, "--save", "", "--appendonly", "no", "--dir", n.dir), filepath.Join(n.dir, "redis.log"))
	}
	if n.redis, err = n.start(); err != nil {
		return nil, err
	}
	caddyfile := fmt.Sprintf(`{
	admin {$ADMIN}
}
http://{$LISTEN} {
	bind 127.0.0.1
	matrix_presence {
		write_limit %s
		cache {
			name demo
		}
		cluster redis {
			address %s
			secret %s
			timeout 2s # so that a machine on which much is compiled shows the same
		}
	}
	reverse_proxy %s
}
`, writeLimit, addresses[0], rand.Text()+rand.Text(), strings.TrimPrefix(s.url, "http://"))
	for _, node := range []**sidecar.Sidecar{&n.a, &n.b} {
		if *node, err = sidecar.StartCaddyfile(ctx, caddyfile); err != nil {
			return nil, err
		}
	}
	// A node keeps nothing in its first second.
	return n, errors.Join(n.until(ctx, "1"), wait(ctx, 2*time.Second))
}

// until waits until both nodes say of the log that it can be reached, "1", or can't, "0".
func (n *nodes) until(ctx context.Context, up string) error {
	for _, node := range []*sidecar.Sidecar{n.a, n.b} {
		for {
			text, err := node.AskAdmin(ctx, http.MethodGet, "/metrics", "")
			if err != nil {
				return err
			}
			if strings.Contains(string(text), `caddy_matrix_presence_cluster_up{cache="demo"} `+up) {
				break
			}
			if err := wait(ctx, 20*time.Millisecond); err != nil {
				return err
			}
		}
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *nodes) stop() {
	for _, node := range []*sidecar.Sidecar{n.a, n.b} {
		if node != nil {
			node.Stop()
		}
	}
	if n.redis != nil {
		n.redis.Stop()
	}
	os.RemoveAll(n.dir)
}

// playNodes plays the scene of two nodes.
func playNodes(ctx context.Context, p *printer, s *stage, n *nodes) error {
	read := func(says, shows string) act {
		return act{says: says, method: http.MethodGet, target: s.alice, token: s.bob.AccessToken, until: shows}
	}
	write := func(says, status string) act {
		return act{says: says, method: http.MethodPut, target: s.alice, token: s.alice.AccessToken, status: status}
	}
	gone := func() error { n.redis.Stop(); return n.until(ctx, "0") }
	back := func() (err error) {
		if n.redis, err = n.start(); err != nil {
			return err
		}
		return n.until(ctx, "1")
	}
	p.header()
	for _, step := range []struct {
		act
		node   *sidecar.Sidecar
		first  func() error
		remark string
	}{
		{act: read("bob reads alice at B", ""), node: n.b},
		{act: read("bob reads alice at B again", ""), node: n.b},
		{act: write("alice writes at A", "gone for lunch"), node: n.a},
		{act: read("bob reads her new state at B", "gone for lunch"), node: n.b},
		{act: write("alice writes at B", "soup"), node: n.b},
		{act: write("alice writes at A", "salad"), node: n.a},
		{act: write("alice writes at B once more", "cake"), node: n.b},
		{act: read("bob reads alice at A", ""), node: n.a, first: gone, remark: "Redis is killed."},
		{act: read("bob reads alice at B", ""), node: n.b},
		{act: read("bob reads alice at A", ""), node: n.a, first: back, remark: "Redis is there again, empty."},
		{act: read("bob reads alice at B", ""), node: n.b},
	} {
		if step.first != nil {
			p.line("%s", p.paint(bold, step.remark))
			if err := step.first(); err != nil {
				return err
			}
		}
		o, err := step.do(ctx, step.node.URL)
		if err != nil {
			return fmt.Errorf("playing %q: %w", step.says, err)
		}
		p.row(step.act, o)
	}
	return nil
}

// runNodes is run with two nodes.
func runNodes(ctx context.Context, s *stage, out io.Writer, once bool) error {
	if _, err := sidecar.Build(out); err != nil {
		return err
	}
	n, err := startNodes(ctx, s)
	if err != nil {
		return err
	}
	defer n.stop()
	p := newPrinter(out)
	p.line("Node A listens on %s and node B on %s, in front of %s on %s. They share a Redis.", n.a.URL, n.b.URL, s.name, s.url)
	p.line("Each user may write her presence six times a minute, three times at once, over both nodes.\n")
	if err := playNodes(ctx, p, s, n); err != nil || once {
		return err
	}
	p.curls(s, n.a.URL)
	p.line("\nBoth stay up until Ctrl-C.")
	<-ctx.Done()
	return nil
}
