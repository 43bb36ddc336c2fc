package deploy

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/protocol"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/redisserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

// nodes are two nodes before one homeserver, which a balancer is put before as docs/cluster.md says.
type nodes struct {
	hs   *scripted.Homeserver
	both [2]*sidecar.Sidecar
}

// newNodes starts both by the page's Caddyfile, and Redis with the page's user and no other.
func newNodes(t *testing.T) *nodes {
	t.Helper()
	n := &nodes{hs: scripted.New(scripted.Options{Ordered: true})}
	if err := n.hs.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.hs.Stop(t.Context()); err != nil {
			t.Log(err)
		}
	})
	redis, dir := redisserver.Start(t, redisserver.Redis), t.TempDir()
	rule := regexp.MustCompile(`(?m)^ACL SETUSER presence .*$`).FindString(file(t, "docs/cluster.md"))
	redis.Do(strings.Fields(replace(t, rule, ">PASSWORD", ">hunter2"))...)
	redis.Do("ACL", "SETUSER", "default", "off")
	node := theBlock(t, "", "http://:8009")
	for name, text := range map[string]string{"presence-redis": "hunter2\n", "presence-secret": strings.Repeat("0123456789abcdef", 4) + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		node = replace(t, node, "/etc/caddy/"+name, filepath.Join(dir, name))
	}
	node = replace(t, node, "{\n\tservers {", "{\n\tadmin {$ADMIN}\n\tservers {")
	node = replace(t, node, "10.0.0.0/24", "127.0.0.1/32")
	// A busy machine must not make it one of trouble.
	node = replace(t, node, "10.0.0.5:6379\n", redis.Address+"\n\t\t\ttimeout 10s\n")
	node = replace(t, node, "10.0.0.9:8008", strings.TrimPrefix(n.hs.URL(), "http://"))
	for i := range n.both {
		site := replace(t, node, "http://:8009 {\n", fmt.Sprintf("http://{$LISTEN} {\n\tbind 127.0.0.1\n\theader X-Node %d\n", i))
		n.both[i] = suite.Sidecar(t)(sidecar.StartCaddyfile(t.Context(), site))
	}
	return n
}

// theBlock is the block of a language with these words in it, of docs/cluster.md.
func theBlock(t *testing.T, language, words string) string {
	t.Helper()
	for _, text := range blocks(t, "../cluster.md", language) {
		if strings.Contains(text, words) {
			return text
		}
	}
	t.Fatalf("there is no block of %q with %q", language, words)
	return ""
}

// block is theBlock with the nodes' addresses.
func (n *nodes) block(t *testing.T, language, words string) string {
	t.Helper()
	text := theBlock(t, language, words)
	for i, node := range n.both {
		text = replace(t, text, fmt.Sprintf("10.0.0.%d:8009", i+1), strings.TrimPrefix(node.URL, "http://"))
	}
	return text
}

// try has people read and write through a balancer, and then with one node gone. None of them gets an error.
func (n *nodes) try(t *testing.T, url string) {
	t.Helper()
	const people = 24 // so many that hardly ever all go to one node
	var users, tokens []string
	for i := range people {
		users = append(users, fmt.Sprintf("@user%d:hs", i))
		tokens = append(tokens, n.hs.Login(users[i]))
	}
	send := func(method, token, user, body string) (node, cacheStatus, answer string) {
		t.Helper()
		status, header, text := ask(t, method, url+"/_matrix/client/v3/presence/"+user+"/status", token, body)
		if status != http.StatusOK {
			t.Fatalf("%s got %d %s", method, status, text)
		}
		return header.Get("X-Node"), header.Get("Cache-Status"), text
	}
	version := int64(0)
	round := func() (nodes map[string]int) {
		t.Helper()
		nodes = make(map[string]int)
		version++
		for i, user := range users {
			body := fmt.Sprintf(`{"presence":"online","status_msg":%q}`, scripted.Status(version))
			wrote, _, _ := send(http.MethodPut, tokens[i], user, body)
			other, _, answer := send(http.MethodGet, tokens[(i+1)%people], user, "")
			if !strings.Contains(answer, scripted.Status(version)) {
				t.Errorf("after a write of %s through node %s, node %s shows %s", body, wrote, other, answer)
			}
			nodes[wrote]++
		}
		return nodes
	}
	first := round()
	if len(first) != 2 {
		t.Errorf("all requests went to the nodes %v", first)
	}
	for i := range people {
		one, _, _ := send(http.MethodGet, tokens[i], users[i], "")
		another, _, _ := send(http.MethodGet, tokens[i], users[(i+1)%people], "")
		if one != another {
			t.Errorf("a token's requests went to the nodes %s and %s", one, another)
		}
	}
	if err := n.both[0].Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	suite.Eventually(t, "a node ends", func() bool { return !n.both[0].Running() })
	for range 3 {
		if left := round(); left["1"] != people {
			t.Errorf("without the other node, %v answered", left)
		}
	}
}

// ask sends a request.
func ask(t *testing.T, method, url, token, body string) (status int, header http.Header, text string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var content strings.Builder
	if err := resp.Write(&content); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, content.String()
}

func TestCaddyBeforeNodes(t *testing.T) {
	n := newNodes(t)
	site := replace(t, n.block(t, "caddyfile", "lb_policy header"), "matrix.example.com {", "http://{$LISTEN} {\n\tbind 127.0.0.1")
	front := suite.Sidecar(t)(sidecar.StartCaddyfile(t.Context(), "{\n\tadmin {$ADMIN}\n}\n"+site))
	n.try(t, front.URL)
}

// Without Redis: the balancer sends all requests about a user to one node.
func TestCaddyThatHashesByUser(t *testing.T) {
	n := newNodes(t) // which have one, but that is of no matter here
	site := replace(t, n.block(t, "", "lb_policy uri_hash"), "matrix.example.com {", "http://{$LISTEN} {\n\tbind 127.0.0.1")
	front := suite.Sidecar(t)(sidecar.StartCaddyfile(t.Context(), "{\n\tadmin {$ADMIN}\n}\n"+site))
	nodes := make(map[string]bool)
	for i := range 24 { // so many that hardly ever all go to one node
		user := fmt.Sprintf("@user%d:hs", i)
		token, path := n.hs.Login(user), front.URL+"/_matrix/client/v3/presence/"+user+"/status"
		status, wrote, text := ask(t, http.MethodPut, path, token, fmt.Sprintf(`{"presence":"online","status_msg":%q}`, scripted.Status(1)))
		if status != http.StatusOK {
			t.Fatalf("a write: %d %s", status, text)
		}
		if _, read, _ := ask(t, http.MethodGet, path, token, ""); read.Get("X-Node") != wrote.Get("X-Node") {
			t.Errorf("of %s one node has the write, and another the read", user)
		}
		nodes[wrote.Get("X-Node")] = true
	}
	if len(nodes) != 2 {
		t.Errorf("all went to the nodes %v", nodes)
	}
}

func TestNginxBeforeNodes(t *testing.T) {
	command := program(t, "nginx", "nginx", "libpcre2-8-0", "libssl3", "zlib1g", "libcrypt1")
	n := newNodes(t)
	dir := t.TempDir()
	user := ""
	if os.Getuid() == 0 {
		user = "user root;" // its folders are ours
	}
	site := n.block(t, "nginx", "upstream presence")
	cert, key, err := protocol.WriteCertificate(dir)
	if err != nil {
		t.Fatal(err)
	}
	site = replace(t, replace(t, site, "/etc/ssl/matrix.example.com.pem", cert), "/etc/ssl/matrix.example.com.key", key)
	url := start(t, "nginx", func(listen string) string {
		return fmt.Sprintf(`daemon off; %s error_log stderr; pid %[2]s/pid; events {}
http {
	access_log off;
	client_body_temp_path %[2]s/body; proxy_temp_path %[2]s/proxy; fastcgi_temp_path %[2]s/fastcgi;
	uwsgi_temp_path %[2]s/uwsgi; scgi_temp_path %[2]s/scgi;
	%[3]s
}`, user, dir, replace(t, site, "443 ssl", listen))
	}, func(file string) *exec.Cmd { return command("-c", file, "-p", dir) })
	n.try(t, url)
}

func TestHAProxyBeforeNodes(t *testing.T) {
	command := haproxy(t)
	n := newNodes(t)
	site := n.block(t, "haproxy", "backend presence")
	url := start(t, "haproxy", func(listen string) string {
		return replace(t, site, "bind :443 ssl crt /etc/haproxy/matrix.example.com.pem", "bind "+listen)
	}, func(file string) *exec.Cmd { return command("-db", "-f", file) })
	n.try(t, url)
}
